"""What several verbs share: options, the bundle and its editor, and checks of output paths."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from limner.runtime.errors import InputError
from limner.runtime.pictures.naming import require_picture_name
from limner.runtime.storage.files import user_path

if TYPE_CHECKING:
    from limner.runtime.bundle.loading import Bundle
    from limner.runtime.client import Client
    from limner.runtime.editor import Editor

__all__ = [
    "BundleOption",
    "CompareOption",
    "DryRunOption",
    "JsonOption",
    "ProviderOption",
    "ServerOption",
    "SheetOption",
    "ThreadsOption",
    "check_apart",
    "check_folder",
    "check_output",
    "lacking",
    "open_bundle",
    "open_editor",
    "open_server",
]

BundleOption = Annotated[
    Path | None,
    typer.Option("--bundle", envvar="LIMNER_BUNDLE", help="Folder of a bundle; the shipped one if not given."),
]
ProviderOption = Annotated[
    str,
    typer.Option("--provider", help="Where graphs run: cpu, cuda, tensorrt, engine, ...; never replaced by another."),
]
ThreadsOption = Annotated[
    int | None,
    typer.Option("--threads", envvar="LIMNER_THREADS", help="CPU threads; as many as this process has cores."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document to stdout.")]
SheetOption = Annotated[Path | None, typer.Option("--sheet", help="Also write a before/after sheet to this file.")]
CompareOption = Annotated[
    bool,
    typer.Option(
        "--compare/--no-compare",
        help="Make the picture without the edit too, for scores and for the notice that nothing changed.",
    ),
]
ServerOption = Annotated[
    str | None,
    typer.Option("--server", envvar="LIMNER_SERVER", help="URL of a server that runs it; the key is LIMNER_API_KEY."),
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Check everything, print what would run, run nothing.")]


def open_bundle(path: Path | None, family: str = "stylegan2") -> "Bundle":
    """Load and verify the bundle at `path`, or the shipped one of that family."""
    from limner.runtime.bundle.loading import load_bundle
    from limner.runtime.bundle.shipped import shipped_bundle

    return load_bundle(shipped_bundle(family) if path is None else path)


def open_editor(path: Path | None, provider: str, threads: int | None, family: str = "stylegan2") -> "Editor":
    """Return an Editor on the bundle at `path`, or the shipped one of that family, and say what it runs on."""
    from limner.runtime.cli.console import note
    from limner.runtime.editor import Editor

    editor = Editor(open_bundle(path, family), provider, threads)
    bundle = editor.bundle
    note(f"bundle {bundle.manifest.name} {bundle.digest[:12]}, provider {editor.provider}")
    return editor


def lacking(field: str, extra: str, reason: ModuleNotFoundError) -> InputError:
    """The error of an environment that does not have what an extra brings."""
    hint = f"run `pip install 'limner[{extra}]'`"
    return InputError(field, f"an environment without {reason.name}", f"one with the extra [{extra}]", hint)


def open_server(url: str) -> "Client":
    """A server's client, with the key of the environment."""
    try:
        from limner.runtime.client import Client
    except ModuleNotFoundError as reason:
        raise lacking("server", "client", reason) from reason
    return Client(url, os.environ.get("LIMNER_API_KEY"))


def check_output(path: Path | None, field: str, suffix: str | None = None, source: str | None = None) -> None:
    """Refuse, before any work, a path that cannot be written, or that is the source picture itself.

    Without a `suffix` it is a picture's, and ends in one of those that pictures are written with.
    """
    if path is None:
        return
    user_path(path, field)
    if suffix is None:
        require_picture_name(path, field)
    elif path.suffix.lower() != suffix:
        raise InputError(field, repr(str(path)), f"a file name that ends in {suffix}")
    if path.is_dir():
        raise InputError(field, f"the folder {str(path)!r}", "the path of a file")
    if not path.parent.is_dir():
        raise InputError(field, f"a path in the missing folder {str(path.parent)!r}", "a path in an existing folder")
    if source is not None and path.exists() and Path(source).exists() and path.samefile(source):
        raise InputError(field, f"{str(path)!r}, which is the source itself", "another path")


def check_apart(**outputs: Path | None) -> None:
    """Refuse two outputs of one name: the second would take the place of the first."""
    found: dict[str, str] = {}
    for field, path in outputs.items():
        if path is None:
            continue
        place = os.path.realpath(path)
        if place in found:
            raise InputError(field, f"{str(path)!r}, which is --{found[place]} as well", "a name of its own")
        found[place] = field


def check_folder(path: Path | None, field: str) -> None:
    """Refuse, before any work, a folder that is a file or whose parent is missing."""
    if path is None:
        return
    if path.exists() and not path.is_dir():
        raise InputError(field, f"the file {str(path)!r}", "a folder, which may be new")
    if not path.parent.is_dir():
        raise InputError(field, f"a path in the missing folder {str(path.parent)!r}", "a path in an existing folder")
