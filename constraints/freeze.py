"""Write constraints/runtime.txt and train.txt from the environment that runs this script: `make constraints`.

runtime.txt: what `limner[cpu]` pulls in. train.txt: what every extra of `make test` pulls in. A package that
needs a newer Python than the project's oldest carries a marker, so that the oldest still resolves on its own.
"""

import re
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

OLDEST_PYTHON, PYTHONS = (3, 10), range(10, 15)
SETS = {"runtime.txt": {"cpu"}, "train.txt": {"cpu", "train", "export", "tensorrt-rtx", "dev"}}
HERE = Path(__file__).parent


def closure(extras: set[str]) -> set[str]:
    """Return the canonical names of all installed distributions that limner with these extras needs."""
    found: set[str] = set()
    todo: list[tuple[str, frozenset[str]]] = [("limner", frozenset(extras))]
    done: set[tuple[str, frozenset[str]]] = set()
    while todo:
        name, wanted = todo.pop()
        if (name, wanted) in done:
            continue
        done.add((name, wanted))
        try:
            requires = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue  # for another platform
        found.add(name)
        for requirement in map(Requirement, requires):
            contexts = [{"extra": extra} for extra in (*wanted, "")]
            if requirement.marker is None or any(requirement.marker.evaluate(context) for context in contexts):
                todo.append((canonicalize_name(requirement.name), frozenset(requirement.extras)))
    return found - {"limner"}


def line(name: str) -> str:
    """Return "name==version", with a marker where the version does not exist for the oldest Python."""
    distribution = metadata.distribution(name)
    version = distribution.version.split("+")[0]  # torch 2.13.0+cpu -> 2.13.0, which every build of it fits
    needs = SpecifierSet(re.sub(r"\s", "", distribution.metadata["Requires-Python"] or ""))
    fits = [minor for minor in PYTHONS if needs.contains(f"3.{minor}")]
    marker = f'; python_version >= "3.{fits[0]}"' if fits and fits[0] > OLDEST_PYTHON[1] else ""
    return f"{name}=={version}{marker}"


for file, extras in SETS.items():
    lines = [line(name) for name in sorted(closure(extras))]
    header = f"# Exact versions for limner[{','.join(sorted(extras))}]; written by `make constraints`.\n"
    (HERE / file).write_text(header + "\n".join(lines) + "\n")
    print(f"{file}: {len(lines)} packages")
