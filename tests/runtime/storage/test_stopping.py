"""Requests to end, by processes of their own: what unwinds, what does not, and what a destructor swallows."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

HEAD = """
import gc, hashlib, os, sys, time
from pathlib import Path
from limner.runtime.storage.stopping import Stopped, partial, stop_asked, stoppable, whole
place = Path(sys.argv[1])
def say(word): print(word, flush=True)
"""
IN_A_C_CALL = """
with stoppable(), partial(place / "half") as half:
    half.write_text("x")
    say("go")
    hashlib.pbkdf2_hmac("sha256", b"x", b"y", 400_000_000)  # minutes, and Python sees no signal meanwhile
    say("finished")
"""
WITH_A_CHILD = """
import subprocess
from limner.runtime.storage.stopping import end_children
try:  # as the command line does
    with stoppable():
        child = subprocess.Popen(["sleep", "600"])
        (place / "child").write_text(str(child.pid))
        say("go")
        hashlib.pbkdf2_hmac("sha256", b"x", b"y", 400_000_000)
except Stopped:  # the request came before the call into C
    end_children()
    raise
"""
IN_A_DESTRUCTOR = """
class Slow:
    def __del__(self):
        say("go")
        time.sleep(2)
try:
    with stoppable():
        one = Slow()
        del one
        time.sleep(600)
        say("finished")
finally:
    say("unwound")
"""
A_WHOLE_STRETCH = """
with stoppable():
    with whole():
        say("go")
        time.sleep(1)
        assert stop_asked() is not None
        say("whole")
    say("finished")
"""
A_STRETCH_THAT_IS_TOO_LONG = """
with stoppable():
    with whole():
        say("go")
        time.sleep(600)
        say("finished")
"""


def start(code: str, place: Path) -> subprocess.Popen[str]:
    program = [sys.executable, "-c", textwrap.dedent(HEAD + code), str(place)]
    found = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert found.stdout is not None and found.stdout.readline() == "go\n"
    return found


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("code", [IN_A_C_CALL, IN_A_DESTRUCTOR, A_WHOLE_STRETCH, A_STRETCH_THAT_IS_TOO_LONG])
def test_the_process_ends_with_the_signals_code(code: str, number: signal.Signals, tmp_path: Path) -> None:
    process = start(code, tmp_path)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number, err
    assert "finished" not in out and "Exception ignored" not in err and "Traceback" not in err
    assert not list(tmp_path.iterdir())
    assert ("whole" in out) == (code is A_WHOLE_STRETCH)


def test_children_end_too(tmp_path: Path) -> None:
    process = start(WITH_A_CHILD, tmp_path)
    process.terminate()
    process.communicate(timeout=60)
    stat = Path("/proc") / (tmp_path / "child").read_text() / "stat"
    for _ in range(600):
        if not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] in "ZX":
            return
        time.sleep(0.05)
    raise AssertionError("the child lives on")


ERROR_OF_A_REQUEST = """
from limner.runtime.cli import app as module, main
from limner.runtime.errors import InputError

def verb(**_):
    say("go")
    try:
        time.sleep(600)
    except SystemExit:  # as C code does that is importing a module
        raise InputError("provider", "no usable module", "one that imports")

module.app = verb
sys.exit(main(["check"]))
"""


def test_a_request_that_became_another_error_is_still_the_request(tmp_path: Path) -> None:
    process = start(ERROR_OF_A_REQUEST, tmp_path)
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 143
