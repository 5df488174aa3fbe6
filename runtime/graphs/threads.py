"""How many CPU threads a process may use: its affinity, its control group's quota, one a physical core.

ONNX Runtime left alone starts a thread for every core of the machine and pins it there. In a container with two
cores of 64, or under `taskset`, the threads then wait for one another.
"""

import os
from pathlib import Path

__all__ = ["quota_of", "usable_cores"]

SYSTEM = Path("/")


def usable_cores(root: Path = SYSTEM) -> int:
    """Physical cores of this process's affinity, and no more than its quota of CPU time; at least 1."""
    if hasattr(os, "sched_getaffinity"):
        allowed = sorted(os.sched_getaffinity(0))
    else:
        allowed = list(range(os.cpu_count() or 1))
    cores = {_siblings(root, cpu) for cpu in allowed}
    quota = quota_of(root)
    return max(1, len(cores) if quota is None else min(len(cores), round(quota)))


def quota_of(root: Path = SYSTEM) -> float | None:
    """CPUs' worth of time that the control groups allow, the least of those that hold this process; None is any."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):
        return None
    found = []
    for line in lines:
        _, controllers, group = [*line.split(":", 2), "", ""][:3]
        for place in _upwards(group):
            if not controllers:  # version 2
                found.append(_share(_words(root / "sys/fs/cgroup" / place / "cpu.max")))
            elif "cpu" in controllers.split(","):
                folder = root / "sys/fs/cgroup/cpu" / place
                found.append(_share(_words(folder / "cpu.cfs_quota_us") + _words(folder / "cpu.cfs_period_us")))
    limits = [share for share in found if share is not None]
    return min(limits, default=None)


def _upwards(group: str) -> list[str]:
    """A group and those that it lies in, without the leading slash."""
    parts = [part for part in group.split("/") if part not in ("", "..")]
    return ["/".join(parts[:count]) for count in range(len(parts), -1, -1)]


def _share(words: list[str]) -> float | None:
    """Quota and period, in microseconds: "200000 100000" is 2. "max" and -1 are no limit."""
    try:
        quota, period = (int(word) for word in words)
    except ValueError:
        return None
    return quota / period if quota > 0 and period > 0 else None


def _words(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return []


def _siblings(root: Path, cpu: int) -> str:
    """A name for the physical core of a logical one."""
    path = root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"
    return " ".join(_words(path)) or str(cpu)
