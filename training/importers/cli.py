"""`limner models import FILE`: parse, import, print."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Import published weights.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command()
def import_weights(
    file: Annotated[Path, typer.Argument(help="File of weights, or a folder of a Hugging Face CLIP.")],
    out: Annotated[Path, typer.Option(help="Folder of the set of checkpoints.")] = Path("checkpoints/imported"),
    family: Annotated[str, typer.Option(help="What the file must be; recognised if not given.")] = "",
    name: Annotated[str, typer.Option(help="Name of a mapper; the file's own if not given.")] = "",
    tokenizer: Annotated[
        Path | None, typer.Option(help="Of an OpenAI CLIP: folder with vocab.json, or bpe_simple_vocab_16e6.txt.gz.")
    ] = None,
    style_stats: Annotated[Path | None, typer.Option(help="S_mean_std of a fs3.npy; the one beside it.")] = None,
    decoder: Annotated[
        bool, typer.Option("--decoder", help="The generator inside an e4e file, not its encoder.")
    ] = False,
    licence: Annotated[str, typer.Option(help="Terms of the weights, for the card.")] = "",
    replace: Annotated[bool, typer.Option("--replace", help="Write over a checkpoint that is there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document to stdout.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, write nothing.")] = False,
) -> None:
    """Import published weights as a checkpoint: StyleGAN2, e4e, IR-SE50, CLIP, mappers, directions."""
    from limner.training.importers.registry import import_file
    from limner.training.importers.states import Options

    options = Options(out, name, tokenizer, style_stats, decoder)
    report = import_file(file, options, family, licence, replace, dry_run)
    if as_json:
        print(json.dumps(asdict(report), indent=2, ensure_ascii=False))
        return
    done = "fits" if dry_run else "written"
    print(f"{report.folder}: {report.family}, {report.tensors} tensors, {report.megabytes} MB, {done}")
    for note in report.notes:
        print(f"note: {note}")
