"""The generated pages of the reference: `python docs/reference.py` writes them, `--check` compares.

Settings come from the methods' declarations, commands from their own --help, variables from the table below.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent / "reference"
VERBS = ("edit", "invert", "align", "sample", "replay", "demo", "methods", "models", "check", "export", "train")
VARIABLES = (
    ("LIMNER_BUNDLE", "folder of a bundle, as `--bundle`"),
    ("LIMNER_THREADS", "CPU threads, as `--threads`"),
    (
        "LIMNER_CACHE",
        "folder for what can be made again: rendered pictures, compiled engines; the user's cache if not set",
    ),
    ("LIMNER_DEBUG", "set to anything: unexpected errors show their traceback"),
)


def pages() -> dict[str, str]:
    """Page -> its text."""
    from limner.runtime.methods.registry import method_names

    found = {f"settings-{name}.md": settings(name) for name in method_names()}
    return found | {"commands.md": commands(), "environment.md": environment()}


def settings(name: str) -> str:
    """The tables of one method."""
    from limner.runtime.declarations import setting_rows
    from limner.runtime.methods.registry import find_method

    method = find_method(name)
    parts = []
    for title, declared in (
        ("Of the method (`--name value`, or `--set name=value`)", method.parameters),
        ("Of a text (`options` of a prompt)", method.options),
        ("Of a picture's inversion (`--inversion name=value`)", method.inversion),
    ):
        rows = setting_rows(declared)
        if rows:
            lines = [f"| `{row.name}` | {row.allowed} | {row.default} | {row.help} |" for row in rows]
            parts.append("\n".join([f"{title}:", "", "| name | allowed | default | |", "|---|---|---|---|", *lines]))
    return "\n\n".join(parts) + "\n"


def commands() -> str:
    """`--help` of every verb."""
    parts = ["# Commands", "What `--help` prints, written by `make docs-write`."]
    for words in [(), *((verb,) for verb in VERBS)]:
        title = " ".join(("limner", *words))
        parts.append(f"## {title}\n\n```text\n{help_of(*words)}```")
    return "\n\n".join(parts) + "\n"


def help_of(*words: str) -> str:
    """What `limner WORDS --help` prints at 100 columns."""
    from limner.runtime.cli import main

    out = io.StringIO()
    with columns(100), contextlib.redirect_stdout(out):
        main([*words, "--help"])
    return "\n".join(line.rstrip() for line in out.getvalue().strip().splitlines()) + "\n"


@contextlib.contextmanager
def columns(width: int) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in ("COLUMNS", "TERMINAL_WIDTH")}
    os.environ |= dict.fromkeys(before, str(width))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def environment() -> str:
    """The environment variables that Limner reads."""
    rows = [f"| `{name}` | {what} |" for name, what in VARIABLES]
    return "\n".join(["| variable | what it does |", "|---|---|", *rows]) + "\n"


def main(arguments: list[str]) -> int:
    stale = []
    for name, text in pages().items():
        path = HERE / name
        if "--check" in arguments:
            stale += [name] if not path.is_file() or path.read_text(encoding="utf-8") != text else []
        else:
            path.write_text(text, encoding="utf-8")
    if stale:
        print(f"{', '.join(stale)} of docs/reference: not what the code says; `make docs-write` writes them")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
