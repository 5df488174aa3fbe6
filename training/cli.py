"""`limner train FAMILY`: parse, build, fit, save. The work is in `families` and `runner`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core

from limner.training.running import CONFIGS, default_cache, resolve, run_family

HELP = {
    "judge": "The attribute judge: for evaluation alone.",
    "reader": "The second judge, of another kind and on other draws.",
    "clip": "CLIP and its tokenizer, on captioned avatars.",
    "identity": "The identity network, with ArcFace.",
    "encoder": "The e4e encoder; needs a finished generator.",
    "stylegan2": "StyleGAN2, one stage at a time.",
    "autoencoder": "The latent autoencoder of the diffusion model.",
    "diffusion": "The latent diffusion model; needs a finished autoencoder and CLIP.",
}


class WithSettings(typer.core.TyperCommand):
    """A command whose --help ends with every setting of its family; they are read when help is asked for."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        from limner.training.settings_help import as_text

        formatter.write("\n" + as_text(resolve(FAMILY_OF.get(self.name or "", self.name or ""))))


FAMILY_OF = {"stylegan2-stages": "stylegan2"}  # a command's family, where it is not its name

ConfigOption = Annotated[Path | None, typer.Option(help="YAML of the run; the family's own if not given.")]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="key=value over the YAML.")]
OutOption = Annotated[Path | None, typer.Option(help="Run folder: checkpoint, logs, grids.")]
SaveOption = Annotated[Path | None, typer.Option(help="Folder of the finished model; OUT/model.")]
CacheOption = Annotated[Path | None, typer.Option(help="Folder of the rendered pictures.")]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Go on from OUT/last.ckpt.")]
StepsOption = Annotated[int | None, typer.Option(help="Instead of the YAML's trainer.max_steps.")]
FastOption = Annotated[bool, typer.Option("--fast-dev-run", help="One step, nothing written.")]
DryOption = Annotated[bool, typer.Option("--dry-run", help="Print the resolved config and stop.")]

app = typer.Typer(
    help="Train base models. Each command reads its own YAML, writes checkpoints and logs, and can go on later.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _verb(family: str) -> Callable[..., None]:
    """The command of one family."""

    def train(
        config: ConfigOption = None,
        settings: SetOption = None,
        out: OutOption = None,
        save: SaveOption = None,
        cache: CacheOption = None,
        resume: ResumeOption = False,
        max_steps: StepsOption = None,
        fast_dev_run: FastOption = False,
        dry_run: DryOption = False,
    ) -> None:
        overrides = [*(settings or []), *([f"trainer.max_steps={max_steps}"] if max_steps is not None else [])]
        run = resolve(family, config, overrides)
        if dry_run:
            _show(run)
            return
        folder = out or Path("runs") / family
        figures = run_family(
            family, run, folder, save or folder / "model", cache or default_cache(), resume, fast_dev_run
        )
        _print(figures)

    train.__doc__ = HELP[family]
    return train


for _name in HELP:
    app.command(_name, cls=WithSettings)(_verb(_name))


@app.command("stylegan2-stages", cls=WithSettings)
def stylegan2_stages(
    stages: Annotated[
        list[str] | None, typer.Option("--stage", help="Only this stage; may be repeated. All if not given.")
    ] = None,
    config: ConfigOption = None,
    settings: SetOption = None,
    out: Annotated[Path, typer.Option(help="Run folder, with a folder for each stage.")] = Path("runs/stylegan2"),
    save: SaveOption = None,
    cache: CacheOption = None,
    start: Annotated[str, typer.Option(help="Model folder that the first stage goes on from.")] = "",
    resume: Annotated[
        bool, typer.Option("--resume", help="Pass over stages that are finished, go on with the one begun.")
    ] = False,
    dry_run: DryOption = False,
) -> None:
    """StyleGAN2, all stages in a row."""
    from limner.training.config import read_yaml
    from limner.training.families.stylegan2.stages import plan, read_stages, run_stages

    chosen = read_stages(read_yaml(CONFIGS / "stylegan2_stages.yaml"), stages)
    target = save or out / "model"
    planned = plan(chosen, lambda own: resolve("stylegan2", config, own), out, target, settings or [], start)
    if dry_run:
        for _, run, _, _ in planned:
            _show(run)
        return
    pictures = cache or default_cache()
    figures = run_stages(
        planned, lambda run, folder, model, on: run_family("stylegan2", run, folder, model, pictures, on), resume
    )
    print(json.dumps(figures, indent=2))


@app.command("mapper", cls=WithSettings)
def mapper(
    prompt: Annotated[
        list[str] | None,
        typer.Option("--prompt", help="A text, NAME=TEXT, or the name of one in the YAML; may be repeated."),
    ] = None,
    config: ConfigOption = None,
    settings: SetOption = None,
    out: Annotated[Path, typer.Option(help="Run folder: checkpoint, logs, grids.")] = Path("runs/mapper"),
    save: Annotated[Path | None, typer.Option(help="Folder of one folder a mapper; OUT/model.")] = None,
    resume: ResumeOption = False,
    max_steps: StepsOption = None,
    fast_dev_run: FastOption = False,
    dry_run: DryOption = False,
) -> None:
    """Latent mappers, one a text, for a finished generator."""
    overrides = [*(settings or []), *([f"trainer.max_steps={max_steps}"] if max_steps is not None else [])]
    run = resolve("mapper", config, overrides)
    if prompt:
        from limner.training.families.mapper.run import with_prompts

        run = with_prompts(run, prompt)
    if dry_run:
        _show(run)
        return
    _print(run_family("mapper", run, out, save or out / "model", default_cache(), resume, fast_dev_run))


@app.command("relevance", cls=WithSettings)
def relevance(
    config: ConfigOption = None,
    settings: SetOption = None,
    out: Annotated[Path, typer.Option(help="Run folder: rows on the way, the result.")] = Path("runs/relevance"),
    save: Annotated[Path | None, typer.Option(help="Folder that gets relevance.safetensors at the end.")] = None,
    dry_run: DryOption = False,
) -> None:
    """What each style channel means to CLIP, for global directions. A run that was cut goes on in the same folder."""
    run = resolve("relevance", config, settings)
    if dry_run:
        _show(run)
        return
    from limner.training.families.relevance import run as job
    from limner.training.loop.runner import quiet

    quiet()
    _print(job.predict(run, out, save))


@app.command("samples")
def samples(
    out: Annotated[Path, typer.Option("--out", help="Folder that is made.")],
    split: Annotated[str, typer.Option(help="test, or validation: what settings are chosen on.")] = "test",
    count: Annotated[int, typer.Option(min=1, help="Pictures.")] = 240,
    size: Annotated[int, typer.Option(min=8, max=4096, help="Pixels.")] = 128,
    truth: Annotated[bool, typer.Option("--truth", help="Also the drawings of every edit, as it should be.")] = False,
) -> None:
    """Held-out avatars as data for `limner study`: pictures, what they show, and the texts of every edit."""
    from limner.training.avatars.held_out import write_samples

    print(write_samples(out, split, count, size, truth))


@app.command("realism")
def realism(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of `limner study run`.")],
    reader: Annotated[Path, typer.Option(help="Folder of the second judge.")] = Path("checkpoints/avatars/reader"),
) -> None:
    """How near a drawing comes to each picture of a study; the rows get it, and the tables a column."""
    from limner.runtime.study.tables import markdown
    from limner.training.families.reader.realism import measure_run

    for folder in runs:
        print(markdown([measure_run(folder, reader)]), end="")


@app.command("all")
def everything(
    minutes: Annotated[float, typer.Option(help="For all of it, pictures and figures included.")] = 9.0,
    out: Annotated[Path, typer.Option(help="Folder of the results, a file a part, and of the report.")] = Path(
        "runs/all"
    ),
    work: Annotated[Path, typer.Option(help="Folder of pictures and runs, gigabytes.")] = Path("runs/all-work"),
    part: Annotated[list[str] | None, typer.Option(help="Only this part; may be repeated.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="PART.KEY=VALUE over the part's own.")] = None,
    shipped: Annotated[Path, typer.Option(help="Checkpoints that it goes on from.")] = Path("checkpoints/avatars"),
    rendered: Annotated[int, typer.Option(hidden=True)] = 0,
) -> None:
    """What gains most, in so many minutes, from the shipped weights on: for a GPU at hand."""
    from limner.training.dial import train_all
    from limner.training.loop.runner import quiet

    quiet()
    _print(train_all(minutes, out, work, shipped, tuple(part or ()), tuple(settings or ()), rendered))


@app.command("adopt")
def adopt_results(
    out: Annotated[Path, typer.Argument(help="Folder of `limner train all`.")],
    part: Annotated[list[str] | None, typer.Option(help="Only this part; may be repeated.")] = None,
    shipped: Annotated[Path, typer.Option(help="Checkpoints that are replaced.")] = Path("checkpoints/avatars"),
) -> None:
    """Take the results of `limner train all` over, each checked first; an export makes bundles of them."""
    from limner.training.dial import adopt

    adopt(out, shipped, tuple(part or ()))


def _print(figures: dict[str, Any]) -> None:
    """Figures as JSON; of several processes the first one alone prints."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(json.dumps(figures, indent=2))


def _show(run: Any) -> None:
    import yaml

    from limner.training.config import to_plain

    print(yaml.safe_dump(to_plain(run), sort_keys=False), end="")


if __name__ == "__main__":
    app()
