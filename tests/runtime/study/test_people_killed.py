"""The pages' server, killed with -9 while raters answer: no acknowledged answer is lost, none is there twice."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from support.made_study import made_study

from limner.runtime.study.people.store import Store
from limner.runtime.study.plans.making import Study

FIRST = {"acceptable": {"made": True, "kept": False}, "quality": {"rating": 4}, "pair": {"better": "right"}}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])


def started(study: Study, port: int) -> "subprocess.Popen[bytes]":
    words = [sys.executable, "-m", "limner.runtime", "study", "serve", str(study.folder), "--port", str(port)]
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def until(ask: Any, seconds: float = 120.0) -> Any:
    """The answer, however often the server is away in between."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            answer = ask()
            if answer.status_code < 500:
                return answer
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    raise AssertionError("the server stayed away")


def answer_all(base: str, number: int, acknowledged: list[tuple[str, int, str]]) -> None:
    """As a browser: what was not acknowledged is said again."""
    rng, name = random.Random(number), f"panel-{number}"
    with httpx.Client(base_url=base, timeout=10) as client:
        state = until(lambda: client.post(f"/begin?PROLIFIC_PID={name}", json={"agree": True})).json()
        while state["ended"] is None:
            position = state["next"]
            page = state["pages"][position]
            until(lambda at=position, of=page: client.get(f"/pictures/{at}/{of['pictures'][0]}.png"))
            value = FIRST[page["question"]]
            answer = until(lambda at=position, said=value: client.post(
                "/answers", json={"position": at, "value": said, "seconds": 1.0}))  # fmt: skip
            assert answer.status_code == 200, answer.text
            acknowledged.append((name, position, json.dumps(value)))
            state = answer.json()
            time.sleep(rng.random() * 0.05)


def answered_under_kills(study: Study, raters: int, kills: int) -> None:
    port = free_port()
    acknowledged: list[tuple[str, int, str]] = []
    server = started(study, port)
    failures: list[BaseException] = []

    def rater(number: int) -> None:
        try:
            answer_all(f"http://127.0.0.1:{port}", number, acknowledged)
        except BaseException as reason:  # the test says it
            failures.append(reason)

    threads = [threading.Thread(target=rater, args=(number,)) for number in range(raters)]
    for thread in threads:
        thread.start()
    rng, killed = random.Random(0), 0
    whole = raters * len(Store(study).pages(0))
    try:
        while any(thread.is_alive() for thread in threads):
            if killed < kills and len(acknowledged) > whole * (killed + rng.random()) / (kills + 1):
                os.kill(server.pid, signal.SIGKILL)
                server.wait(30)
                killed += 1
                server = started(study, port)
            time.sleep(0.02)
    finally:
        server.kill()
        server.wait(30)
    assert not failures, failures[0]
    assert killed == kills
    given = Counter((one.panel_id, one.position, json.dumps(one.value)) for one in Store(study).given())
    assert set(given.values()) == {1} and set(given) == set(acknowledged) and len(given) == whole
    assert len(Store(study).raters()) == raters and all(one.ended for one in Store(study).raters())


def test_no_acknowledged_answer_is_lost(tmp_path: Path) -> None:
    pages = {"pages": {"acceptable": 4, "quality": 4, "pair": 4}, "repeats": 1, "checks": 1, "controls": 1}
    answered_under_kills(made_study(tmp_path, people=pages), 6, 2)


@pytest.mark.slow
def test_twenty_raters_and_ten_kills(tmp_path: Path) -> None:
    answered_under_kills(made_study(tmp_path, raters=20), 20, 10)
