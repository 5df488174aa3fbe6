"""`make bench-serving`: many clients at once: edits a second, waits, CPU seconds an edit, memory.

- Closed loop: clients of five methods (of latent optimization a short run) ask one server, each the next edit when the
  last one came. Beside it: the runtime behind a lock, and one `Editor` that all threads share without a schedule.
- Open loop: edits come at random moments, whether the last ones came or not, at 0.7 of what the lock does.
- SEGA alone, beside diffusers' pipeline behind FastAPI on the same weights, steps and settings.
- A mapper's edit beside eight optimizations.

Each engine is a process of its own; sources are seeds and texts, so that nothing is read.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.scale_diffusion import HERE
from limner.runtime.bundle.shipped import shipped_bundle
from limner.runtime.errors import LimnerError
from limner.runtime.recipe import PromptEdit, Recipe, Source

BEARD = (PromptEdit("a person with a beard"),)
FACE = "a portrait of a woman with long brown hair"
SEGA_STEPS, SEGA_WARMUP = 20, 4
OPEN_LOAD, RIVALS_SHARE = 0.7, 6  # of an open loop, the rivals get a part of the time
SERVERS = (("the server", ()), ("the server, nothing joined", ("--no-join",)))
RIVALS = (("lock", "one Editor with a lock"), ("shared", "one Editor that all share"))
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


def recipe_of(number: int) -> Recipe:
    """Edits of five methods in turn, no two with the same source."""
    seed = number // 5
    return (
        Recipe("global-directions", Source.from_seed(seed), BEARD),
        Recipe("latent-mapper", Source.from_seed(seed), (PromptEdit("beard"),)),
        Recipe("sega", Source.from_prompt(FACE, seed), (PromptEdit("glasses"),)),
        Recipe("prompt-to-prompt", Source.from_prompt(FACE, seed), (PromptEdit(FACE.replace("brown", "red")),)),
        Recipe("latent-optimization", Source.from_seed(seed), BEARD, {"steps": 4}),
    )[number % 5]


def sega_of(number: int) -> Recipe:
    """The edit that diffusers makes too."""
    settings = {"steps": SEGA_STEPS, "sampler": "ddim", "momentum_scale": 0.1}
    concept = PromptEdit("glasses", options={"warmup": SEGA_WARMUP})
    return Recipe("sega", Source.from_prompt(FACE, number), (concept,), settings)


class Loop:
    """Clients that ask one after another for some seconds, or at random moments."""

    def __init__(self, edit: Callable[[Recipe], Any], recipes: Callable[[int], Recipe] = recipe_of) -> None:
        self.edit, self.recipes, self.numbers = edit, recipes, itertools.count()
        self.took: list[float] = []
        self.failed = 0

    def open(self, rate: float, seconds: float) -> None:
        """Edits that come at `rate` a second, whoever still waits; seconds count from the moment that each came."""
        moments, threads = random.Random(0), []
        due = begin = time.monotonic()
        while (due := due + moments.expovariate(rate)) < begin + seconds:
            time.sleep(max(0.0, due - time.monotonic()))
            threads.append(threading.Thread(target=self._one, args=(due, next(self.numbers))))
            threads[-1].start()
        for thread in threads:
            thread.join()

    def _one(self, due: float, number: int) -> None:
        try:
            self.edit(self.recipes(number))
        except LimnerError:
            self.failed += 1
        else:
            self.took.append(time.monotonic() - due)

    def run(self, clients: int, seconds: float) -> None:
        """Ask until the time is up."""
        until = time.monotonic() + seconds

        def one() -> None:
            while time.monotonic() < until:
                begin = time.monotonic()
                self.edit(self.recipes(next(self.numbers)))
                self.took.append(time.monotonic() - begin)

        threads = [threading.Thread(target=one) for _ in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def cpu_of(process: int) -> float:
    """CPU seconds of a process so far."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_of(process: int) -> float:
    """Its memory, GiB."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**30


@app.command("alone")
def alone(kind: str, clients: int, seconds: float, rate: float = 0.0) -> None:
    """The rivals: "lock" or "shared", in this process; with a rate, open loop."""
    from limner.runtime.editor import Editor

    editors = {family: Editor(shipped_bundle(family)) for family in ("stylegan2", "diffusion")}
    for editor in editors.values():
        editor.warm(*_methods(editor))
    lock = threading.Lock()

    def edit(recipe: Recipe) -> None:
        editor = editors["diffusion" if recipe.method in ("sega", "prompt-to-prompt") else "stylegan2"]
        if kind == "lock":
            with lock:
                editor.edit(recipe, compare=False)
        else:
            editor.edit(recipe, compare=False)

    loop = Loop(edit)
    begin, used = time.monotonic(), time.process_time()
    loop.open(rate, seconds) if rate else loop.run(clients, seconds)
    print(json.dumps(_row(loop, time.monotonic() - begin, time.process_time() - used, memory_of(os.getpid()))))


def _methods(editor: Any) -> tuple[str, ...]:
    from limner.runtime.methods.registry import methods_of

    return methods_of(editor.bundle.manifest.family)


def waits(took: list[float]) -> dict[str, float]:
    """The median and the 95th of a hundred."""
    found = sorted(took) or [0.0]
    return {"p50": statistics.median(found), "p95": found[int(0.95 * (len(found) - 1))]}


def _row(loop: Loop, seconds: float, cpu: float, memory: float) -> dict[str, float]:
    count = len(loop.took)
    return {
        "edits": count, "a second": count / seconds, **waits(loop.took), "CPU s an edit": cpu / max(count, 1),
        "GiB": memory, "failed": loop.failed,
    }  # fmt: skip


class Served:
    """A server for a while."""

    def __init__(self, *arguments: str) -> None:
        self.folder = tempfile.TemporaryDirectory()
        command = [sys.executable, "-m", "limner.runtime", "serve", "--port", "0", "--work", self.folder.name]
        more = [
            "--limit",
            "requests_per_minute=1000000",
            "--limit",
            "running=64",
            "--limit",
            "results_mb=0",
            *arguments,
        ]
        self.process = subprocess.Popen([*command, *more], stderr=subprocess.PIPE, text=True, env=os.environ | HERE)
        assert self.process.stderr is not None
        self.url, line = "", ""
        while line.strip() != "ready":
            line = self.process.stderr.readline()
            if line.startswith("limner: http"):
                self.url = line.split()[1]
        threading.Thread(target=self.process.stderr.read, daemon=True).start()

    def measure(
        self, clients: int, seconds: float, rate: float = 0.0, recipes: Callable[[int], Recipe] = recipe_of
    ) -> dict[str, float]:
        """One row; with a rate, open loop."""
        from limner.runtime.client import Client

        with Client(self.url) as client:
            loop = Loop(lambda recipe: client.edit(recipe, compare=False), recipes)
            begin, used = time.monotonic(), cpu_of(self.process.pid)
            loop.open(rate, seconds) if rate else loop.run(clients, seconds)
            took, cpu = time.monotonic() - begin, cpu_of(self.process.pid) - used
            return _row(loop, took, cpu, memory_of(self.process.pid))

    def fairness(self, seconds: float, others: int = 8) -> dict[str, float]:
        """The p95 of a mapper's edit alone and beside optimizations."""
        from limner.runtime.client import Client

        long, ends = Recipe("latent-optimization", Source.from_seed(1), BEARD, {"steps": 450}), threading.Event()
        found: dict[str, float] = {}
        with Client(self.url) as client:
            for name, count in (("alone", 0), (f"beside {others} optimizations", others)):
                ends.clear()

                def optimize(ends: threading.Event = ends) -> None:
                    with suppress(LimnerError, RuntimeError):  # the client goes at the end
                        while not ends.is_set():
                            client.edit(long, compare=False)

                threads = [threading.Thread(target=optimize, daemon=True) for _ in range(count)]
                for thread in threads:
                    thread.start()
                time.sleep(2.0 if count else 0.0)
                took, until = [], time.monotonic() + seconds
                for number in itertools.count():
                    begin = time.monotonic()
                    client.edit(
                        Recipe("latent-mapper", Source.from_seed(number), (PromptEdit("beard"),)), compare=False
                    )
                    took.append(time.monotonic() - begin)
                    if time.monotonic() > until:
                        break
                ends.set()
                found[name] = sorted(took)[int(0.95 * (len(took) - 1))]
        return found

    def close(self) -> None:
        """End it."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.folder.cleanup()


def by_diffusers(clients: int, seconds: float) -> dict[str, float]:
    """The row of the other server."""
    import httpx2

    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "benchmarks.diffusers_server", str(port)]
    process = subprocess.Popen(command, env=os.environ | HERE, stderr=subprocess.DEVNULL)
    try:
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=600.0) as client:

            def edit(recipe: Recipe) -> None:
                asked = {"prompt": FACE, "concept": "glasses", "seed": recipe.source.seed, "steps": SEGA_STEPS,
                         "warmup": SEGA_WARMUP}  # fmt: skip
                client.post("/edit", json=asked).raise_for_status()

            while True:
                try:
                    client.get("/readyz")
                    break
                except httpx2.TransportError:
                    time.sleep(0.5)
            edit(sega_of(10_000))
            loop = Loop(edit, sega_of)
            begin, used = time.monotonic(), cpu_of(process.pid)
            loop.run(clients, seconds)
            row = _row(loop, time.monotonic() - begin, cpu_of(process.pid) - used, memory_of(process.pid))
    finally:
        process.kill()
        process.wait()
    return row


def table(title: str, first: str, rows: dict[Any, dict[str, float]]) -> list[str]:
    """A table of Markdown."""
    titles = (first, "edits", "edits a second", "p50, s", "p95, s", "CPU s an edit", "GiB")
    lines = [f"## {title}", "", f"| {' | '.join(titles)} |", "|---|" + "---|" * (len(titles) - 1)]
    for name, row in rows.items():
        cells = [row[key] for key in ("a second", "p50", "p95", "CPU s an edit", "GiB")]
        done = f"{row['edits']:.0f}" + (f" ({row['failed']:.0f} failed)" if row["failed"] else "")
        lines.append(f"| {name} | {done} | {' | '.join(f'{value:.2f}' for value in cells)} |")
    return [*lines, ""]


def as_markdown(found: dict[str, Any]) -> str:
    """The tables."""
    lines = [
        "# Many clients at once", "",
        f"`make bench-serving`: {found['cores']} cores, no GPU. Clients of five methods in turn. Closed loop: each "
        f"asks for the next edit when the last one came, {found['seconds']:g} s each. Seconds an edit as a client sees "
        "it; CPU seconds and memory of the process that edits.", "",
    ]  # fmt: skip
    for name, rows in found["closed"].items():
        lines += table(f"Closed loop: {name}", "clients", rows)
    title = f"Open loop: {found['rate']:.2f} edits a second come, at random moments"
    lines += table(title, "", found["open"])
    lines += table(f"SEGA alone, {SEGA_STEPS} steps, the same weights and settings", "", found["sega"])
    lines += ["## A mapper's edit, p95", ""]
    for name, row in found["fairness"].items():
        parts = ", ".join(f"{value:.2f} s {key}" for key, value in row.items())
        lines.append(f"- {name}: {parts}.")
    return "\n".join(lines) + "\n"


def publish(out: Path | None, name: str, found: dict[str, Any], text: str) -> None:
    """Print the tables, and write them and their figures where a folder is given."""
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")
        (out / f"{name}.md").write_text(text)
    print(text)


@app.command("run")
def main(
    seconds: Annotated[float, typer.Option(help="Of each closed loop.")] = 30.0,
    open_seconds: Annotated[float, typer.Option(help="Of each open loop.")] = 600.0,
    clients: Annotated[str, typer.Option(help="Clients at once, commas between.")] = "1,2,4,8,16",
    out: Annotated[Path | None, typer.Option(help="Folder of benchmarks-serving.md and .json.")] = None,
) -> None:
    """Measure and print the tables."""
    counts = [int(text) for text in clients.split(",")]
    found: dict[str, Any] = {"seconds": seconds, "open_seconds": open_seconds, "cores": os.cpu_count(), "closed": {},
                             "open": {}, "sega": {}, "fairness": {}}  # fmt: skip
    for kind, name in RIVALS:
        found["closed"][name] = {count: _rival(kind, count, seconds) for count in counts}
    rate = found["rate"] = OPEN_LOAD * found["closed"][RIVALS[0][1]][counts[-1]]["a second"]
    for name, arguments in SERVERS:
        server = Served(*arguments)
        found["closed"][name] = {count: server.measure(count, seconds) for count in counts}
        for count in counts[:1] + counts[2:3]:
            found["sega"][f"{name}, {count} clients"] = server.measure(count, seconds, recipes=sega_of)
        found["fairness"][name] = server.fairness(seconds / 2)  # last: its optimizations go on for a while
        server.close()
    for count in counts[:1] + counts[2:3]:
        found["sega"][f"diffusers behind FastAPI, {count} clients"] = by_diffusers(count, seconds)
    for name, arguments in SERVERS[:1]:
        server = Served(*arguments)
        found["open"][f"{name}, {open_seconds:g} s"] = server.measure(0, open_seconds, rate)
        server.close()
    for kind, name in RIVALS:
        found["open"][f"{name}, {open_seconds / RIVALS_SHARE:g} s"] = _rival(kind, 0, open_seconds / RIVALS_SHARE, rate)
    publish(out, "benchmarks-serving", found, as_markdown(found))


def _rival(kind: str, clients: int, seconds: float, rate: float = 0.0) -> dict[str, float]:
    command = [
        sys.executable,
        "-m",
        "benchmarks.serving",
        "alone",
        kind,
        str(clients),
        str(seconds),
        "--rate",
        str(rate),
    ]
    ran = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | HERE)
    row: dict[str, float] = json.loads(ran.stdout.splitlines()[-1])
    return row


if __name__ == "__main__":
    app()
