"""The group `limner study`, and what several of its verbs take."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from limner.runtime.study.judge import JudgeGraph

__all__ = ["EditOption", "JudgeOption", "RunArgument", "SamplesArgument", "StudyArgument", "app", "family_of",
           "judge_of"]  # fmt: skip

SamplesArgument = Annotated[Path, typer.Argument(help="Folder of samples, as `limner train samples` writes one.")]
JudgeOption = Annotated[Path | None, typer.Option("--judge", help="Folder of a judge; the shipped one if not given.")]
EditOption = Annotated[list[str] | None, typer.Option("--edit", help="Only this edit; may be repeated.")]
RunArgument = Annotated[Path, typer.Argument(help="Folder of a run.")]
StudyArgument = Annotated[Path, typer.Argument(metavar="STUDY", help="Folder of `limner study make`, all made.")]

app = typer.Typer(
    help="Edits of many pictures, judged: success with intervals, and settings chosen by it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def family_of(names: Sequence[str]) -> str:
    """The family of the first method that is named, whose shipped bundle is taken."""
    from limner.runtime.study.recipes import method_of

    return method_of(names[0]).family if names else "stylegan2"


def judge_of(folder: Path | None) -> "JudgeGraph":
    from limner.runtime.bundle.shipped import checkpoints_folder
    from limner.runtime.study.judge import JudgeGraph

    return JudgeGraph(checkpoints_folder() / "avatars" / "judge" if folder is None else folder)
