"""From a recipe to a request, and from an answer to an `Edit`: what both clients share."""

import base64
import io
import json
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from limner.runtime.client.errors import ServerError, error_of
from limner.runtime.edit import Edit
from limner.runtime.errors import InputError
from limner.runtime.pictures.containers import NOTHING, Carried
from limner.runtime.pictures.images import MAX_BYTES, png_bytes, read_photo, to_float
from limner.runtime.recipe import Recipe
from limner.runtime.storage.files import read_plain
from limner.runtime.storage.later import Later
from limner.runtime.timing import Previews, Progress

__all__ = [
    "RETRIED",
    "Asked",
    "Followed",
    "edit_of",
    "job_of",
    "lost",
    "object_of",
    "pause",
    "refusal_of",
    "request_of",
]

ImageU8 = NDArray[np.uint8]
RETRIED = (408, 429, 500, 502, 503, 504)  # worth another try
ENDED = ("succeeded", "failed", "cancelled")  # states of a job
MOST_PREVIEWS = 3  # of a job
LONGEST_PAUSE = 30.0
MAX_ANSWER_PIXELS = 100_000_000


@dataclass(frozen=True)
class Asked:
    """A request that is ready to be sent, as often as needed."""

    recipe: Recipe
    data: dict[str, str]
    files: dict[str, tuple[str, bytes]]
    carried: Carried = NOTHING
    once: str = field(default_factory=lambda: secrets.token_hex(16))  # Idempotency-Key

    def including(self, *pictures: str) -> "Asked":
        """The same with other pictures in the answer."""
        return replace(self, data=self.data | {"include": ",".join(pictures)})

    def of(self, recipe: Recipe) -> "Asked":
        """Another recipe for the same picture, alone."""
        return replace(self, data=self.data | {"recipe": named(recipe).to_json(), "include": "", "compare": "false"})


def request_of(recipe: Recipe, given: NDArray[Any] | None, compare: bool, model: str = "") -> Asked:
    """The form of a recipe: its picture is read here, and sent. InputError for a picture that does not read."""
    source, files, carried = recipe.source, {}, NOTHING
    if source.kind == "w_plus":
        raise InputError("source.kind", "'w_plus' with a server", "a picture, a seed or a text")
    if source.kind == "image" and given is not None:
        files["image"] = ("source.png", png_bytes(given))
    elif source.kind == "image":
        if source.path is None:
            raise InputError("source.path", "nothing", "the path of a picture, or an array given beside the recipe")
        data = read_plain(source.path, "source", MAX_BYTES, "a picture")
        files["image"] = (Path(source.path).name, data)
        carried = read_photo(source.path, "source").carried
    fields = {"recipe": named(recipe).to_json(), "compare": json.dumps(compare), "include": "pictures"}
    return Asked(recipe, fields | ({"model": model} if model else {}), files, carried)


def job_of(asked: Asked, progress: Progress) -> Asked:
    """The request of a job that tells a progress how far it is, and shows it pictures where it wants any."""
    count = min(progress.count, MOST_PREVIEWS) if isinstance(progress, Previews) else 0
    return replace(asked, data=asked.data | {"partial_images": str(count)})


class Followed:
    """A job whose events come in, over however many connections."""

    def __init__(self, job: Mapping[str, Any], progress: Progress) -> None:
        self.job, self.progress = job, progress
        self.seen = 0  # pictures
        self._event = ""

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self.job["state"] in ENDED

    def line(self, line: str) -> bool:
        """Take a line of the stream; whether it said something."""
        if line.startswith("event: "):
            self._event = line[7:]
        if not line.startswith("data: "):
            return False
        now = json.loads(line[6:])
        if self._event == "preview":
            self._show(now)
            return True
        self.job = now
        if now["steps"]:
            self.progress(now["step"], now["steps"], {})
        return True

    def _show(self, now: Mapping[str, Any]) -> None:
        if (
            isinstance(self.progress, Previews) and now["partial_image_index"] == self.seen
        ):  # a new connection begins anew
            self.seen += 1
            self.progress.show(self.job["step"], self.job["steps"], to_float(decoded(now["b64_json"])))


def named(recipe: Recipe) -> Recipe:
    """The recipe with its picture's name in place of its path, which is nobody's business there."""
    source = recipe.source
    return recipe if source.path is None else replace(recipe, source=replace(source, path=Path(source.path).name))


def edit_of(asked: Asked, answer: Mapping[str, Any], again: Callable[[Asked], Mapping[str, Any]]) -> Edit:
    """The edit of an answer; `again` asks for what it does not hold. ServerError for an answer that is no edit."""
    try:
        recipe = Recipe.from_dict(dict(answer["recipe"]))
        source = replace(recipe.source, path=asked.recipe.source.path)
        return Edit(
            image=decoded(answer["image"]),
            recipe=replace(recipe, source=source),
            scores={str(name): float(value) for name, value in answer["scores"].items()},
            timing={str(name): float(value) for name, value in answer["timing"].items()},
            provider=str(answer["provider"]),
            _source=Later(lambda: decoded(again(asked.including("source"))["source"])),
            _reconstruction=Later(lambda: decoded(again(asked.including("reconstruction"))["reconstruction"])),
            pictures={str(name): decoded(text) for name, text in (answer.get("pictures") or {}).items()},
            warnings=tuple(str(one) for one in answer["warnings"]),
            carried=asked.carried,
            compared=bool(answer["compared"]),
            _render=lambda changed: decoded(again(asked.of(changed))["image"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as reason:
        raise ServerError(f"the server's answer is not an edit: {reason!r}") from reason


def decoded(text: Any) -> ImageU8:
    """A picture of an answer, uint8 [H,W,3]."""
    with Image.open(io.BytesIO(base64.b64decode(text))) as opened:
        if opened.width * opened.height > MAX_ANSWER_PIXELS:
            raise ValueError(f"a picture of {opened.width} x {opened.height}")
        return np.asarray(opened.convert("RGB"))


def object_of(answer: httpx2.Response, url: str) -> Mapping[str, Any]:
    """The JSON object of an answer; ServerError for anything else."""
    try:
        found = answer.json()
    except ValueError as reason:
        raise ServerError(f"{url} answered with no JSON", answer.status_code) from reason
    if not isinstance(found, dict):
        raise ServerError(f"{url} answered with a {type(found).__name__}", answer.status_code)
    return found


def refusal_of(answer: httpx2.Response, url: str) -> ServerError:
    """The error that an answer says."""
    try:
        body = answer.json()
    except ValueError:
        body = None
    return error_of(answer.status_code, body, answer.headers.get("x-request-id", ""), url)


def lost(reason: Exception, url: str) -> ServerError:
    """The error of a server that cannot be reached."""
    if isinstance(reason, ServerError):
        return reason
    return ServerError(f"{url} does not answer: {str(reason) or type(reason).__name__}")


def pause(attempt: int, told: str | None) -> float:
    """Seconds until the next try: what the server says, else longer each time."""
    if told is not None and told.replace(".", "", 1).isdigit():
        return min(float(told), LONGEST_PAUSE)
    return min(0.25 * 2.0**attempt, LONGEST_PAUSE) * (0.5 + secrets.randbelow(1000) / 1000)
