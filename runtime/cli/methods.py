"""The verbs that say what the methods are: `limner methods`, `limner methods show NAME`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from limner.runtime.cli.console import print_json
from limner.runtime.cli.options import JsonOption

if TYPE_CHECKING:
    from limner.runtime.declarations import SettingRow
    from limner.runtime.methods.registry import Method

__all__ = ["methods", "show"]

SchemaOption = Annotated[bool, typer.Option("--json", help="Print the JSON schema of a recipe.")]


def methods(context: typer.Context, as_json: JsonOption = False) -> None:
    """List the methods; `limner methods show NAME` has a method's settings."""
    if context.invoked_subcommand is not None:
        return
    from limner.runtime.declarations import method_entry
    from limner.runtime.methods.registry import find_method, method_names

    found = [find_method(name) for name in method_names()]
    if as_json:
        print_json([method_entry(method) for method in found])
        return
    width = max((len(method.name) for method in found), default=0)
    for method in found:
        print(f"{method.name:<{width}}  {method.family:<9}  {method.summary}")


def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A method, as `limner methods` lists them.")],
    as_json: SchemaOption = False,
) -> None:
    """Show a method's settings with ranges and defaults, or the JSON schema of its recipes."""
    from limner.runtime.declarations import recipe_schema
    from limner.runtime.methods.registry import find_method

    method = find_method(name)
    if as_json:
        print_json(recipe_schema(method))
        return
    print(f"{method.name}: {method.summary}")
    for title, rows in sections(method):
        print(f"\n{title}:")
        for line in table(rows):
            print(f"  {line}")


def sections(method: "Method") -> "list[tuple[str, list[SettingRow]]]":
    """The method's declarations with a title each, empty ones left out."""
    from limner.runtime.declarations import setting_rows

    found = [
        (f"Settings of {method.name} (--set NAME=VALUE)", setting_rows(method.parameters)),
        ("Options of a text", setting_rows(method.options)),
        ("Inversion of a picture (--inversion NAME=VALUE)", setting_rows(method.inversion)),
    ]
    return [(title, rows) for title, rows in found if rows]


def table(rows: "Sequence[SettingRow]") -> list[str]:
    """One line a setting: name, what is allowed, default, words."""
    cells = [(row.name, row.allowed, row.default and f"default {row.default}", row.help) for row in rows]
    widths = [max(len(cell[column]) for cell in cells) for column in range(3)]
    return ["  ".join([*(f"{cell[i]:<{widths[i]}}" for i in range(3)), cell[3]]) for cell in cells]
