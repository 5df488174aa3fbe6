"""The page on serving as it is printed: its commands, its request by curl, its Python."""

import json
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from PIL import Image
from support.server import SHIPPED

from limner.runtime import Editor

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "serving.md").read_text()
SHELL = re.findall(r"^```sh\n(.*?)^```", PAGE, re.M | re.S)
PYTHON = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)
BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with me.png, while `limner serve` runs as the page says."""
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", 8080)) == 0:
            pytest.skip("something listens on port 8080")
    root = tmp_path_factory.mktemp("documented")
    Image.fromarray(Editor(SHIPPED / "bundle", threads=1).sample(5).image).save(root / "me.png")
    line = next(line for line in SHELL[0].splitlines() if line.startswith("limner serve "))
    environment = {"PATH": f"{BIN}:/usr/bin:/bin", "LIMNER_WORK": str(root / "work"), "HOME": str(root)}
    log = (root / "log.txt").open("w")
    server = subprocess.Popen(["bash", "-c", f"exec {line}"], cwd=root, env=environment, stdout=log, stderr=log)
    until = time.monotonic() + 120
    while not ready():
        assert server.poll() is None and time.monotonic() < until, (root / "log.txt").read_text()
        time.sleep(0.2)
    yield root
    server.kill()
    server.wait()
    log.close()


def ready() -> bool:
    try:
        return httpx2.get("http://127.0.0.1:8080/readyz").status_code == 200
    except httpx2.TransportError:
        return False


def test_the_request_by_curl(folder: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("there is no curl")
    done = subprocess.run(["bash", "-c", SHELL[1]], capture_output=True, text=True, cwd=folder)
    assert json.loads(done.stdout)["model"] == "avatars:global-directions", done.stdout + done.stderr


@pytest.mark.parametrize("number", range(len(PYTHON)))
def test_the_python(folder: Path, number: int) -> None:
    code = PYTHON[number] + ("\nassert edit.image.shape" if "edit = " in PYTHON[number] else "\nassert found.data")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_command_that_edits_there(folder: Path) -> None:
    line = re.search(r"`(limner edit me\.png[^`]*)`", PAGE)
    assert line is not None
    environment = {"PATH": f"{BIN}:/usr/bin:/bin", "HOME": str(folder)}
    done = subprocess.run(["bash", "-c", line[1]], capture_output=True, text=True, cwd=folder, env=environment)
    assert done.returncode == 0 and (folder / "me-edited.png").is_file(), done.stderr


def test_the_keys(folder: Path) -> None:
    line = next(line for line in SHELL[0].splitlines() if line.startswith("limner keys"))
    environment = {"PATH": f"{BIN}:/usr/bin:/bin", "HOME": str(folder)}
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, cwd=folder, env=environment)
    assert done.returncode == 0 and done.stdout.startswith("lk-") and (folder / "keys.json").is_file(), done.stderr
    limits = subprocess.run(["bash", "-c", "limner serve --limits"], capture_output=True, text=True, env=environment)
    assert "requests_per_minute" in limits.stdout
    refused = subprocess.run(["bash", "-c", "limner serve --host 0.0.0.0"], capture_output=True, text=True,
                             env=environment)  # fmt: skip
    assert refused.returncode == 2 and "--no-keys" in refused.stderr
