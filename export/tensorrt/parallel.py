"""Engines built by several processes, one a core, into the cache that `compile_bundle` then takes them from.

A builder works on one core at most times, and graphs do not depend on each other. Processes, not threads: TensorRT's
logger is one for the process.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from limner.export.tensorrt.builders import find_builder
from limner.export.tensorrt.compile import EngineConfig, build_into_cache, plan
from limner.runtime.bundle.loading import load_bundle
from limner.runtime.errors import InputError

Say = Callable[[str], None]


@dataclass(frozen=True)
class Task:
    """A bundle, and how its graphs are to be compiled; the config names a cache."""

    root: Path
    config: EngineConfig


def fill_cache(tasks: Sequence[Task], jobs: int, say: Say = print) -> None:
    """Build every engine that the caches lack, the largest first so that the last process ends soon after the others.

    What a builder refuses is left out: `compile_bundle` meets it again. With one job nothing is done here.
    """
    if jobs < 1:
        raise InputError("jobs", jobs, "1 or more")
    if any(task.config.cache is None for task in tasks):
        raise InputError("cache", "nothing", "a folder, when several processes build")
    single = [(size, task, graph) for task in tasks for size, graph in _graphs(task)]
    if jobs == 1 or len(single) < 2:
        return
    single.sort(key=lambda row: row[0], reverse=True)
    start = time.perf_counter()
    context = multiprocessing.get_context("spawn")  # TensorRT's state does not survive a fork
    with ProcessPoolExecutor(min(jobs, len(single)), mp_context=context) as pool:
        futures = {
            pool.submit(build_into_cache, task.root, task.config, graph): f"{graph} ({task.config.precision})"
            for _, task, graph in single
        }
        for number, future in enumerate(as_completed(futures), start=1):
            future.result()
            say(f"[{number}/{len(single)}] {futures[future]}, {time.perf_counter() - start:.0f} s")


def _graphs(task: Task) -> list[tuple[int, str]]:
    """Bytes of each graph that is asked for, and its name."""
    bundle, builder = load_bundle(task.root, verify_hashes=False), find_builder(task.config.builder)
    plans = plan(bundle, builder, task.config)
    files = bundle.manifest.files
    return [(files[bundle.manifest.graphs[one.graph].file].size, one.graph) for one in plans]
