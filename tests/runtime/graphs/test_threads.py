"""Threads by affinity, quota and physical cores, on written-out trees of /proc and /sys."""

import os
from pathlib import Path

import pytest
from support.toy_bundle import build_toy_bundle

from limner.runtime.graphs.sessions import Sessions
from limner.runtime.graphs.threads import quota_of, usable_cores


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


@pytest.mark.parametrize(("files", "quota"), [
    ({}, None),
    ({"proc/self/cgroup": "0::/"}, None),
    ({"proc/self/cgroup": "0::/a/b", "sys/fs/cgroup/a/b/cpu.max": "max 100000"}, None),
    ({"proc/self/cgroup": "0::/a/b", "sys/fs/cgroup/a/b/cpu.max": "150000 100000"}, 1.5),
    ({"proc/self/cgroup": "0::/a/b", "sys/fs/cgroup/a/b/cpu.max": "400000 100000",
      "sys/fs/cgroup/a/cpu.max": "200000 100000"}, 2.0),
    ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "50000 100000"}, 0.5),
    ({"proc/self/cgroup": "3:cpu,cpuacct:/x", "sys/fs/cgroup/cpu/x/cpu.cfs_quota_us": "300000",
      "sys/fs/cgroup/cpu/x/cpu.cfs_period_us": "100000"}, 3.0),
    ({"proc/self/cgroup": "3:cpu:/", "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
      "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"}, None),
    ({"proc/self/cgroup": "nonsense", "sys/fs/cgroup/cpu.max": "what"}, None),
])  # fmt: skip
def test_quota(tmp_path: Path, files: dict[str, str], quota: float | None) -> None:
    assert quota_of(tree(tmp_path, files)) == quota


def test_cores_are_physical_allowed_and_paid_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3, 5}, raising=False)
    assert usable_cores(tmp_path) == 5  # nothing known of siblings
    siblings = {0: "0,4", 1: "1,5", 2: "2-3", 3: "2-3", 5: "1,5"}
    tree(tmp_path, {f"sys/devices/system/cpu/cpu{c}/topology/thread_siblings_list": s for c, s in siblings.items()})
    assert usable_cores(tmp_path) == 3
    tree(tmp_path, {"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "180000 100000"})
    assert usable_cores(tmp_path) == 2
    tree(tmp_path, {"sys/fs/cgroup/cpu.max": "10000 100000"})
    assert usable_cores(tmp_path) == 1


def test_sessions_take_them(tmp_path: Path) -> None:
    bundle, _ = build_toy_bundle(tmp_path / "bundle")
    assert Sessions(bundle).threads == usable_cores()
    assert Sessions(bundle, threads=3).threads == 3
