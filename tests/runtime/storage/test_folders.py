"""A folder written beside its place: what an exception, a signal and a kill leave behind."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from limner.runtime.storage.folders import clean_up, folder_beside, put_in_place

WRITER = """
import sys, time
from pathlib import Path
from limner.runtime.storage.folders import folder_beside
with folder_beside(Path(sys.argv[1])) as beside:
    (beside / "half").write_text("x")
    print("writing", flush=True)
    time.sleep(60)
"""


def write(out: Path, text: str) -> None:
    with folder_beside(out) as beside:
        (beside / "file").write_text(text)
        put_in_place(beside, out)


def fail_while_writing(out: Path) -> None:
    with folder_beside(out) as beside:
        (beside / "file").write_text("new")
        raise KeyError


def left(out: Path) -> list[str]:
    return sorted(path.name for path in out.parent.iterdir() if path != out)


def start_writer(out: Path) -> subprocess.Popen[str]:
    found = subprocess.Popen([sys.executable, "-c", WRITER, str(out)], stdout=subprocess.PIPE, text=True)
    assert found.stdout is not None
    assert found.stdout.readline() == "writing\n"
    return found


def test_complete_or_not_at_all(tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    write(out, "old")
    with pytest.raises(KeyError):
        fail_while_writing(out)
    assert (out / "file").read_text() == "old"
    assert left(out) == []
    write(out, "new")
    assert (out / "file").read_text() == "new"
    assert left(out) == []


def test_a_signal_removes_what_was_begun(tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    writer = start_writer(out)
    assert len(left(out)) == 1
    writer.terminate()
    assert writer.wait(30) == 128 + signal.SIGTERM
    assert left(out) == []
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_what_a_kill_left_is_removed_by_the_next_and_the_living_are_spared(tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    killed, living = start_writer(out), start_writer(out)
    killed.kill()
    killed.wait(30)
    time.sleep(0.1)
    assert len(left(out)) == 2
    assert len(clean_up(out)) == 1
    assert len(left(out)) == 1
    living.terminate()
    living.wait(30)
    assert left(out) == []


def test_a_folder_that_was_being_replaced_comes_back(tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    write(out, "old")
    out.rename(tmp_path / ".bundle.x1.part.old")
    (tmp_path / ".bundle.x1.part").mkdir()
    (tmp_path / ".other.x1.part").mkdir()
    clean_up(out)
    assert (out / "file").read_text() == "old"
    assert left(out) == [".other.x1.part"]
