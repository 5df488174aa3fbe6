"""What is generated: `python docs/reference.py` writes it, `--check` compares.

Settings come from the methods' declarations, commands from their own --help, variables from the table below, tables of
figures from the rows of docs/figures/study: what stands between `<!-- study: RUN PART -->` and `<!-- end -->`.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
STUDIES = ROOT / "docs" / "figures" / "study"
MARKED = ("README.md", "docs/figures/index.md")
MARK = re.compile(r"(<!-- study: ([a-z0-9]+) ([a-z]+) -->)(.*?)(<!-- end -->)", re.DOTALL)
TITLES = {
    "latent-mapper": "latent mapper", "global-directions": "global directions", "sega": "SEGA",
    "latent-optimization": "latent optimization", "prompt-to-prompt": "Prompt-to-Prompt",
    "prompt-to-prompt-local": "local edit",
}  # fmt: skip
STRICTLY = "Strictly, with nothing else changed that was not asked for:"
VERBS = (
    "edit", "invert", "align", "sample", "replay", "inspect", "demo", "methods", "models", "study",
    "study make", "study size", "study serve", "study page", "study collect", "study answers", "study simulate",
    "study analyse", "study run", "study score", "study table", "study sheet", "study measure", "study pie",
    "study time", "study tune", "check", "ui", "serve", "keys", "keys add", "export", "train",
)  # fmt: skip
VARIABLES = (
    ("LIMNER_BUNDLE", "folder of a bundle, as `--bundle`"),
    ("LIMNER_THREADS", "CPU threads, as `--threads`"),
    (
        "LIMNER_CACHE",
        "folder for what can be made again: rendered pictures, compiled engines, prepared graphs; the user's cache if "
        "not set",
    ),
    ("LIMNER_SERVER", "URL of a server that runs edits, as `--server`"),
    ("LIMNER_API_KEY", "key of that server"),
    ("LIMNER_KEY_FILE", "file of the keys of `limner serve`, as `--key-file`"),
    ("LIMNER_WORK", "folder of a server's uploads and jobs, as `--work`"),
    ("LIMNER_DATABASE", "SQLAlchemy's URL of a server's jobs, as `--database`"),
    ("LIMNER_SIGNING_CERT", "file of a certificate chain: pictures get signed Content Credentials; docs/marking.md"),
    ("LIMNER_SIGNING_KEY", "file of its private key"),
    ("LIMNER_SIGNING_CALLBACK", "or MODULE:FUNCTION that signs"),
    ("LIMNER_SIGNING_TSA", "URL of a time stamp authority"),
    ("LIMNER_WATERMARK", "name of an invisible mark that edits get, as `--watermark`"),
    ("LIMNER_PREPARED", "no: graphs are loaded as they are stored, and nothing is written down of a slow load"),
    ("LIMNER_DEBUG", "set to anything: unexpected errors show their traceback"),
)


def pages() -> dict[str, str]:
    """File -> its text."""
    from limner.runtime.methods.registry import method_names

    found = {f"settings-{name}.md": settings(name) for name in method_names()}
    found |= {"commands.md": commands(), "environment.md": environment()}
    return {f"docs/reference/{name}": text for name, text in found.items()} | {name: marked(name) for name in MARKED}


def marked(name: str) -> str:
    """A page with its tables as the rows say."""

    def replaced(found: re.Match[str]) -> str:
        text, line = study(found[2], found[3]), "" if found[3] == "shares" else "\n"
        return f"{found[1]}{line}{text}{line}{found[5]}"

    return MARK.sub(replaced, (ROOT / name).read_text(encoding="utf-8"))


def study(name: str, part: str) -> str:
    """The table of a run's part; of the part "shares" the success of each method in a clause."""
    from limner.runtime.study.rows import HEADER, read_run
    from limner.runtime.study.tables import columns, strict_table, table

    several = [folder for method in TITLES if (folder := STUDIES / name / method).is_dir()]
    runs = [read_run(STUDIES / name)] if (STUDIES / name / HEADER).is_file() else [read_run(one) for one in several]
    run = runs[0]
    if part == "shares":
        of = columns([run], run.header.parts[0])
        return ", ".join(f"{_percent(scores)} by {TITLES[method]}" for method, scores in of)
    if part == "prompts":
        return table([run], part)
    titles = [TITLES[method] for method, _ in columns(runs, part)]
    return f"{table(runs, part, titles)}\n\n{STRICTLY}\n\n{strict_table(runs, part, titles)}"


def _percent(scores: dict[str, Any]) -> str:
    tried = sum(one.tried for one in scores.values())
    return f"{100 * sum(one.success for one in scores.values()) / tried:.0f} %"


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
    for words in [(), *(tuple(verb.split()) for verb in VERBS)]:
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
        path = ROOT / name
        if "--check" in arguments:
            stale += [name] if not path.is_file() or path.read_text(encoding="utf-8") != text else []
        else:
            path.write_text(text, encoding="utf-8")
    if stale:
        print(f"{', '.join(stale)}: not what the code or the rows say; `make docs-write` writes them")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
