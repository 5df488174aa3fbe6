"""The documentation's lines on the page as they are printed, and the command line around it."""

import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import httpx2
import pytest

from limner.runtime.cli import main
from limner.runtime.server.keys import add_key

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "page.md").read_text()
LINES = [line.partition("  #")[0].strip() for block in re.findall(r"^```sh\n(.*?)^```", PAGE, re.M | re.S)
         for line in block.splitlines() if line.startswith("limner ")]  # fmt: skip
ADDRESS = re.compile(r"the page is at http://[\w.]+:(\d+)/ui/")


@pytest.mark.parametrize("line", LINES)
def test_a_line(line: str, tmp_path: Path) -> None:
    add_key(tmp_path / "keys.json", "team")
    environment = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "HOME": str(tmp_path), "BROWSER": "true",
                   "LIMNER_WORK": str(tmp_path / "work")}  # fmt: skip
    log = (tmp_path / "log.txt").open("w+")
    with subprocess.Popen(shlex.split(line), cwd=tmp_path, env=environment, stdout=log, stderr=log) as process:
        try:
            end = time.monotonic() + 60
            while (found := ADDRESS.search((tmp_path / "log.txt").read_text())) is None:
                if "nothing listens on" in (tmp_path / "log.txt").read_text():
                    pytest.skip("something listens on its port")
                assert process.poll() is None and time.monotonic() < end, (tmp_path / "log.txt").read_text()
                time.sleep(0.1)
            with httpx2.Client(base_url=f"http://127.0.0.1:{found[1]}", follow_redirects=True, timeout=30) as client:
                while True:
                    try:
                        answer = client.get("/")
                        break
                    except httpx2.TransportError:
                        assert process.poll() is None and time.monotonic() < end
                        time.sleep(0.1)
                assert answer.status_code == 200 and str(answer.url).endswith("/ui/")
                assert ("Edits images by words" in answer.text) == ("--key-file" not in line)
                assert client.get("/favicon.ico").headers["content-type"].startswith("image/svg")
        finally:
            process.terminate()
    log.close()
    assert len(LINES) == 2


AUDITED = """
import sys, tempfile
from pathlib import Path
asked = []
sys.addaudithook(lambda name, given: asked.append((name, given)) if name in NAMES else None)
NAMES = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "subprocess.Popen", "urllib.Request")
from support.page import Visitor, page_at
with tempfile.TemporaryDirectory() as folder:
    visitor = Visitor(page_at(Path(folder)))
    visitor.edit()
    assert visitor["tab"].current == 1, visitor.said
print(asked)
"""


def test_the_server_asks_nobody(tmp_path: Path) -> None:
    """Neither Gradio nor we look anything up, whatever the environment says of telemetry."""
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", AUDITED], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


def test_pages_that_cannot_be(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert main(["serve", "--ui", "--engine", "ray"]) == 2
    assert "ui: got --ui with --engine ray; allowed: --engine threads" in capsys.readouterr().err
    assert main(["ui", "--bundle", str(tmp_path), "--no-open", "--work", str(tmp_path)]) == 2
    assert "bundle" in capsys.readouterr().err
    for name in [one for one in sys.modules if one.startswith("limner.runtime.page")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "gradio", None)
    for command in (["ui"], ["serve", "--ui"]):
        assert main(command) == 2
        assert "pip install 'limner[ui]'" in capsys.readouterr().err
