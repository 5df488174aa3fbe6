"""`make bench-serving`: many clients at once, closed loop: edits a second, waits, CPU seconds an edit, memory.

Clients of five methods (of latent optimization a short run) ask one
server, each the next edit when the last one came. Beside it, in the same way: the runtime behind a lock (one edit after
the other), and one `Editor` that all threads share without a schedule. And a mapper's edit beside eight optimizations.
Each is a process of its own; sources are seeds and texts, so that nothing is read.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.scale_diffusion import HERE
from limner.runtime.bundle.shipped import shipped_bundle
from limner.runtime.recipe import PromptEdit, Recipe, Source

BEARD = (PromptEdit("a person with a beard"),)
FACE = "a portrait of a woman with long brown hair"
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


class Loop:
    """Clients that ask one after another for some seconds."""

    def __init__(self, edit: Callable[[Recipe], Any]) -> None:
        self.edit, self.numbers = edit, itertools.count()
        self.took: list[float] = []

    def run(self, clients: int, seconds: float) -> None:
        """Ask until the time is up."""
        until = time.monotonic() + seconds

        def one() -> None:
            while time.monotonic() < until:
                begin = time.monotonic()
                self.edit(recipe_of(next(self.numbers)))
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
def alone(kind: str, clients: int, seconds: float) -> None:
    """The rivals: "lock" or "shared", in this process."""
    from limner.runtime.editor import Editor

    editors = {family: Editor(shipped_bundle(family)) for family in ("stylegan2", "diffusion")}
    for editor in editors.values():
        editor.warm(*([] if kind == "none" else _methods(editor)))
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
    loop.run(clients, seconds)
    print(json.dumps(_row(loop, time.monotonic() - begin, time.process_time() - used, memory_of(os.getpid()))))


def _methods(editor: Any) -> tuple[str, ...]:
    from limner.runtime.methods.registry import methods_of

    return methods_of(editor.bundle.manifest.family)


def _row(loop: Loop, seconds: float, cpu: float, memory: float) -> dict[str, float]:
    took = sorted(loop.took)
    return {
        "edits": len(took), "a second": len(took) / seconds, "p50": statistics.median(took),
        "p95": took[int(0.95 * (len(took) - 1))], "CPU s an edit": cpu / len(took), "GiB": memory,
    }  # fmt: skip


class Served:
    """A server for a while."""

    def __init__(self, *arguments: str) -> None:
        self.folder = tempfile.TemporaryDirectory()
        command = [sys.executable, "-m", "limner.runtime", "serve", "--port", "0", "--work", self.folder.name]
        more = ["--limit", "requests_per_minute=1000000", "--limit", "running=64", *arguments]
        self.process = subprocess.Popen([*command, *more], stderr=subprocess.PIPE, text=True, env=os.environ | HERE)
        assert self.process.stderr is not None
        self.url, line = "", ""
        while line.strip() != "ready":
            line = self.process.stderr.readline()
            if line.startswith("limner: http"):
                self.url = line.split()[1]
        threading.Thread(target=self.process.stderr.read, daemon=True).start()

    def measure(self, clients: int, seconds: float) -> dict[str, float]:
        """One row."""
        from limner.runtime.client import Client

        with Client(self.url) as client:
            loop = Loop(lambda recipe: client.edit(recipe, compare=False))
            begin, used = time.monotonic(), cpu_of(self.process.pid)
            loop.run(clients, seconds)
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


def as_markdown(found: dict[str, Any]) -> str:
    """The tables."""
    lines = [
        "# Many clients at once", "",
        "`make bench-serving`: clients of five methods in turn, each asks for the next edit when the last one came; "
        f"{found['seconds']:g} s each, {found['cores']} cores. Seconds an edit as a client sees it; CPU seconds and "
        "memory of the process that edits.", "",
    ]  # fmt: skip
    titles = ("clients", "edits a second", "p50, s", "p95, s", "CPU s an edit", "GiB")
    for name, rows in found["engines"].items():
        lines += [f"## {name}", "", f"| {' | '.join(titles)} |", "|---|" + "---|" * (len(titles) - 1)]
        for clients, row in rows.items():
            cells = [row["a second"], row["p50"], row["p95"], row["CPU s an edit"], row["GiB"]]
            lines.append(f"| {clients} | {' | '.join(f'{value:.2f}' for value in cells)} |")
        lines.append("")
    for name, row in found["fairness"].items():
        parts = ", ".join(f"{value:.2f} s {key}" for key, value in row.items())
        lines.append(f"A mapper's edit, p95, {name}: {parts}.")
    return "\n".join(lines) + "\n"


@app.command("run")
def main(
    seconds: Annotated[float, typer.Option(help="Of each measurement.")] = 30.0,
    clients: Annotated[str, typer.Option(help="Clients at once, commas between.")] = "1,2,4,8,16",
    out: Annotated[Path | None, typer.Option(help="Folder of benchmarks-serving.md and .json.")] = None,
) -> None:
    """Measure and print the tables."""
    counts = [int(text) for text in clients.split(",")]
    found: dict[str, Any] = {"seconds": seconds, "cores": os.cpu_count(), "engines": {}, "fairness": {}}
    for name, arguments in (("the server", ()), ("the server, nothing joined", ("--no-join",))):
        server = Served(*arguments)
        found["engines"][name] = {count: server.measure(count, seconds) for count in counts}
        found["fairness"][name] = server.fairness(seconds / 2)
        server.close()
    for kind, name in (("lock", "one Editor with a lock"), ("shared", "one Editor that all share")):
        rows = {}
        for count in counts:
            command = [sys.executable, "-m", "benchmarks.serving", "alone", kind, str(count), str(seconds)]
            ran = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | HERE)
            rows[count] = json.loads(ran.stdout.splitlines()[-1])
        found["engines"][name] = rows
    text = as_markdown(found)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "benchmarks-serving.json").write_text(json.dumps(found, indent=1) + "\n")
        (out / "benchmarks-serving.md").write_text(text)
    print(text)


if __name__ == "__main__":
    app()
