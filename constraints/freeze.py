"""Write constraints/<python>/runtime.txt and train.txt, what pip takes today for each Python: `make constraints`.

runtime.txt: what `limner[cpu]` pulls in. train.txt: what every extra of `make test` pulls in. Nothing is installed.
Needs the Pythons as python3.10 and so on, each with a pip of 23 or newer.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

PYTHONS = ("3.10", "3.11", "3.12", "3.13")
TORCH = "torch==2.13.0"  # builds with and without CUDA carry this version
SETS = {
    "runtime.txt": (("cpu",), ()),
    "train.txt": (
        ("cpu", "train", "export", "serve", "ui", "ray", "tracing", "tensorrt-rtx", "study", "sign", "docs", "dev"),
        (TORCH,),
    ),
}
OF_CUDA = ("nvidia-", "triton", "cuda-")  # come with torch's own build for CUDA, which pins them itself
HERE = Path(__file__).parent


def resolved(python: str, extras: tuple[str, ...], more: tuple[str, ...]) -> list[str]:
    """Return "name==version" of everything that pip would install, sorted."""
    command = [python, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet", "--report", "-"]
    wanted = [f"{HERE.parent}[{','.join(extras)}]", *more]
    ran = subprocess.run([*command, *wanted], stdout=subprocess.PIPE, text=True, check=True)
    report = json.loads(ran.stdout[ran.stdout.index("{") :])
    return lines_of(report)


def lines_of(report: dict) -> list[str]:
    """The lines of one of pip's reports."""
    pairs = {(one["metadata"]["name"].lower().replace("_", "-"), one["metadata"]["version"].split("+")[0])
             for one in report["install"]}  # fmt: skip
    return [
        f"{name}=={version}" for name, version in sorted(pairs) if name != "limner" and not name.startswith(OF_CUDA)
    ]


def write(version: str, name: str, extras: tuple[str, ...], lines: list[str]) -> None:
    """Write one file."""
    folder = HERE / version
    folder.mkdir(exist_ok=True)
    head = f"# Exact versions for limner[{','.join(extras)}] on Python {version}; written by `make constraints`.\n"
    (folder / name).write_text(head + "\n".join(lines) + "\n")
    print(f"{version}/{name}: {len(lines)} packages")


if __name__ == "__main__":
    for version in PYTHONS:
        python = shutil.which(f"python{version}")
        if python is None:
            sys.exit(f"error: no python{version} on the path; all of {', '.join(PYTHONS)} are needed")
        for name, (extras, more) in SETS.items():
            write(version, name, extras, resolved(python, extras, more))
