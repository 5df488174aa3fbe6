"""What a request wants made, as data, and the making of it: the same here and on another machine."""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limner.runtime.editor import Editor
from limner.runtime.pictures.images import checked_u8
from limner.runtime.recipe import Recipe
from limner.runtime.server.answers import edit_answer, in_base64, plain_file
from limner.runtime.server.settings import Limits
from limner.runtime.server.uploads import Given, placed
from limner.runtime.timing import Previews, Progress

__all__ = ["Order", "Watching", "perform"]


@dataclass(frozen=True)
class Order:
    """An edit, or a picture from a text."""

    model: str  # of the answer
    # JSON: recipe, name, compare, include, output_format; or prompt, seed, settings, output_format
    asked: Mapping[str, Any]
    picture: bytes | None = None
    request: str = ""  # its id

    @property
    def kind(self) -> str:
        """The format of the pictures."""
        return str(self.asked["output_format"])


@dataclass(frozen=True)
class Watching:
    """Who wants to know how far it is, and to see `partial` pictures on the way, as files; called in any thread.

    An edit that is made again, since a machine went down, tells and shows from the beginning: pictures have numbers.
    """

    partial: int = 0
    told: Callable[[int, int], None] = lambda step, steps: None
    shown: Callable[[int, bytes], None] = lambda number, data: None


def perform(
    editor: Editor, order: Order, uploads: Path, limits: Limits, watching: Watching | None = None
) -> dict[str, Any]:
    """The answer to an order. Raises what an edit raises, and Refusal naming the picture."""
    progress = None if watching is None else _progress(watching, order.kind)
    if "recipe" not in order.asked:
        return _generated(editor, order, progress)
    recipe = Recipe.from_dict(dict(order.asked["recipe"]))
    picture = None if order.picture is None else Given(order.asked["name"], order.picture)
    with placed(recipe, picture, uploads, limits) as here:
        edit = editor.edit(here, progress, compare=order.asked["compare"])
        return edit_answer(edit, order.model, order.kind, order.asked["include"], order.request)


def _generated(editor: Editor, order: Order, progress: Progress | None) -> dict[str, Any]:
    asked = order.asked
    made = editor.generate([asked["prompt"]], [asked["seed"]], asked["settings"], progress=progress)[0]
    size = f"{made.image.shape[1]}x{made.image.shape[0]}"
    return {"image": in_base64(plain_file(made.image, order.kind)), "timing": made.timing, "size": size, "warnings": []}


def _progress(watching: Watching, kind: str) -> Progress:
    def told(step: int, steps: int, losses: dict[str, float]) -> None:
        watching.told(step, steps)

    if not watching.partial:
        return told
    numbers = itertools.count()

    def shown(step: int, steps: int, image: Any) -> None:
        watching.shown(next(numbers), plain_file(checked_u8(image), kind))

    return Previews(watching.partial, shown, told)
