"""`make bench-cluster`: a Ray cluster of two nodes on this machine, each with one core for edits.

Clients in a closed loop ask a server in front: with one node; with two, where a second replica starts by the load; and
while the second node is killed. Edits a second against one node, seconds until the second replica works, edits lost.
"""

from __future__ import annotations

import os
import subprocess
import threading
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.serving import Served, publish, recipe_of, waits

TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "benchmark" * 8, "RAY_USAGE_STATS_ENABLED": "0"}
CLIENTS = 6
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


def replicas() -> int:
    """Processes that make edits."""
    listed = subprocess.run(["ps", "-eo", "args="], capture_output=True, text=True, check=True).stdout
    return sum(line.startswith("ray::ServeReplica:limner-edits") for line in listed.splitlines())


class Asking:
    """Clients that ask until told to stop; when each edit came, and what failed."""

    def __init__(self, server: Served) -> None:
        self.server, self.ended = server, threading.Event()
        self.done: list[tuple[float, float]] = []  # when it came, and how long it took
        self.failed: list[str] = []
        self.threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(CLIENTS)]
        for thread in self.threads:
            thread.start()

    def _ask(self, number: int) -> None:
        from limner.runtime.client import Client
        from limner.runtime.errors import LimnerError

        with Client(self.server.url, retries=0) as client:
            while not self.ended.is_set():
                begin, number = time.monotonic(), number + CLIENTS
                try:
                    client.edit(recipe_of(number), compare=False)
                except LimnerError as reason:
                    self.failed.append(str(reason))
                else:
                    self.done.append((time.monotonic(), time.monotonic() - begin))

    def stop(self) -> None:
        """Wait for the last edits."""
        self.ended.set()
        for thread in self.threads:
            thread.join()

    def row(self, begin: float, seconds: float) -> dict[str, float]:
        """Of the edits that came in a stretch of time."""
        took = [one for at, one in self.done if begin <= at < begin + seconds]
        return {"edits": len(took), "a second": len(took) / seconds} | waits(took)


@app.command()
def main(
    seconds: Annotated[float, typer.Option(help="Of each measurement.")] = 60.0,
    out: Annotated[Path | None, typer.Option(help="Folder of benchmarks-cluster.md and .json.")] = None,
) -> None:
    """Measure, print and write the table."""
    os.environ.update(TOKEN)
    import ray  # noqa: F401 - it reads the variables above
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    os.environ["RAY_ADDRESS"] = cluster.address
    found: dict[str, Any] = {"seconds": seconds, "cores": os.cpu_count(), "clients": CLIENTS, "rows": {}}
    server = Served("--engine", "ray", "--ray", "replicas_most=2", "--ray", "up_s=2", "--no-join")
    asking = Asking(server)
    time.sleep(10.0)
    begin = time.monotonic()
    time.sleep(seconds)
    found["rows"]["one node"] = asking.row(begin, seconds)
    node, begin = cluster.add_node(num_cpus=1), time.monotonic()
    while replicas() < 2:
        time.sleep(0.2)
    found["second replica started, s"] = time.monotonic() - begin
    time.sleep(15.0)
    begin = time.monotonic()
    time.sleep(seconds)
    found["rows"]["two nodes"] = asking.row(begin, seconds)
    begin = time.monotonic()
    cluster.remove_node(node, allow_graceful=False)
    time.sleep(seconds)
    found["rows"]["one of the two killed"] = asking.row(begin, seconds)
    asking.stop()
    found["failed"] = asking.failed
    server.close()
    cluster.shutdown()  # type: ignore[no-untyped-call]
    publish(out, "benchmarks-cluster", found, as_markdown(found))


def as_markdown(found: dict[str, Any]) -> str:
    """The table."""
    one = found["rows"]["one node"]["a second"]
    lines = [
        "# Two nodes of a Ray cluster", "",
        f"`make bench-cluster`: both nodes on one machine of {found['cores']} cores, each with one core for edits; the "
        f"server in front and Ray itself run on the same cores. {found['clients']} clients of five methods in a closed "
        f"loop that try nothing again, {found['seconds']:g} s each.", "",
        "| | edits | edits a second | of one node | p50, s | p95, s |", "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for name, row in found["rows"].items():
        cells = [row["a second"], row["a second"] / one, row["p50"], row["p95"]]
        lines.append(f"| {name} | {row['edits']:.0f} | {' | '.join(f'{value:.2f}' for value in cells)} |")
    lines += ["", f"The second replica started {found['second replica started, s']:.0f} s after its node came. "
              f"Edits that failed: {len(found['failed'])}."]  # fmt: skip
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    app()
