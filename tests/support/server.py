"""A server on both shipped bundles, in a process of its own, and requests to it."""

import contextlib
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from limner.runtime.bundle.shipped import checkpoints_folder

SHIPPED = checkpoints_folder() / "avatars"
WARM_S = 120.0


@dataclass(eq=False)
class Server:
    """A process, where it listens, and its folder."""

    process: "subprocess.Popen[str]"
    url: str
    work: Path
    log: Path

    def client(self, **more: Any) -> httpx2.Client:
        return httpx2.Client(base_url=self.url, timeout=120.0, **more)

    def wait_ready(self) -> None:
        until = time.monotonic() + WARM_S
        with self.client() as client:
            while client.get("/readyz").status_code != 200:
                assert time.monotonic() < until and self.process.poll() is None, self.log.read_text()[-2000:]
                time.sleep(0.1)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def end(self, number: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(60)


def start_server(work: Path, *arguments: str, ready: bool = True) -> Server:
    """`limner serve` on a free port."""
    work.mkdir(parents=True, exist_ok=True)
    log = work / "log.txt"
    command = [sys.executable, "-m", "limner.runtime", "serve", "--port", "0", "--work", str(work), *arguments]
    with log.open("a") as stream:
        before = log.stat().st_size
        process = subprocess.Popen(command, stderr=stream, stdout=stream, text=True)
    until = time.monotonic() + WARM_S
    while (found := re.search(r"limner: (http://\S+) serves", log.read_text()[before:])) is None:
        assert process.poll() is None and time.monotonic() < until, log.read_text()[-2000:]
        time.sleep(0.05)
    server = Server(process, found[1], work, log)
    if ready:
        server.wait_ready()
    return server


@contextlib.contextmanager
def served(work: Path, arguments: Sequence[str] = (), ready: bool = True) -> Iterator[Server]:
    """A server that ends behind the block."""
    server = start_server(work, *arguments, ready=ready)
    try:
        yield server
    finally:
        server.end(signal.SIGKILL)
