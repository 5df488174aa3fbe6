"""`limner inspect`: what a picture says of itself, whoever made it."""

from pathlib import Path
from typing import Annotated, Any

import typer

from limner.runtime.cli.console import print_json
from limner.runtime.cli.options import JsonOption

__all__ = ["inspect"]

PIXELS = {True: "those of the recipe's edit", False: "others than the edit's", None: "-"}
STATES = {
    "trusted": "hold, by an authority that you trust",
    "valid": "hold; whether the signer is to be trusted is not known",
    "broken": "DO NOT HOLD",
}


def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A picture.")],
    anchors: Annotated[
        Path | None, typer.Option("--anchors", help="Certificates of authorities that you trust (PEM).")
    ] = None,
    as_json: JsonOption = False,
) -> int:
    """Show a picture's marks, its signature and its recipe.

    Exit code 1 if there is a signature that does not hold.
    """
    from limner.runtime.marking.looking import look_at
    from limner.runtime.storage.files import read_plain

    trusted = None if anchors is None else read_plain(anchors, "anchors", 10_000_000).decode("utf-8", errors="replace")
    found = look_at(file, trusted)
    if as_json:
        print_json(found)
    else:
        for name, value in _lines(found):
            print(f"{name:<14} {value}")
    credentials = found["credentials"]
    return 1 if isinstance(credentials, dict) and credentials["state"] == "broken" else 0


def _lines(found: dict[str, Any]) -> list[tuple[str, str]]:
    """What is known, in words."""
    return [
        ("file", f"{found['format']}, {found['width']} x {found['height']}, {found['bytes']} bytes"),
        ("made by a model", found["source_type"] or "nothing says so"),
        ("software", found["software"] or "-"),
        *_of_recipe(found),
        *_of_watermarks(found),
        *_of_credentials(found["credentials"]),
    ]


def _of_recipe(found: dict[str, Any]) -> list[tuple[str, str]]:
    recipe = found["recipe"]
    if recipe is None:
        return [("recipe", "none")]
    source = recipe["source"]
    return [
        ("method", recipe["method"]),
        ("words", ", ".join(one["text"] for one in recipe["prompts"]) or "-"),
        ("source", f"{source['kind']} {source.get('path') or source.get('seed') or ''}".strip()),
        ("pixels", PIXELS[found["pixels_kept"]]),
    ]


def _of_watermarks(found: dict[str, Any]) -> list[tuple[str, str]]:
    whose = found["recipe_sha256"]
    own = {name: "" if whose is None else ", of this recipe" if whose.startswith(payload) else ", of another recipe"
           for name, payload in found["watermarks"].items()}  # fmt: skip
    return [("invisible mark", f"{name}: {payload}{own[name]}") for name, payload in found["watermarks"].items()]


def _of_credentials(found: dict[str, Any] | str | None) -> list[tuple[str, str]]:
    if found is None or isinstance(found, str):
        return [("credentials", found or "none")]
    return [
        ("credentials", STATES[found["state"]]),
        *(("problem", one) for one in found["problems"]),
        ("signer", " ".join(filter(None, (found["signer"], found["time"]))) or "-"),
        ("says", ", ".join(found["actions"]) or "-"),
        *(("parent", one) for one in found["parents"]),
    ]
