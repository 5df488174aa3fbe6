"""The endpoints of OpenAI's image API, as its official client sends and reads them.

    image -> the source                    prompt -> the edit's text; of generations, the picture's own
    model -> BUNDLE:METHOD, or METHOD      n -> the seeds seed, seed + 1, ...
    size -> height and width               quality -> the number of steps: low a half, high twice the method's own
    further fields: recipe (JSON text, everything a recipe can say; the others are laid over it), seed, source_prompt

What OpenAI has and Limner has not is refused by name: mask, transparent backgrounds, URLs.
"""

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel, Field

from limner.runtime.bundle.presets import picture_section, resolved
from limner.runtime.methods.registry import Method
from limner.runtime.recipe import MAX_SEED, PromptEdit, Recipe, Source
from limner.runtime.server.answers import FORMATS, in_base64
from limner.runtime.server.bundles import Hosted
from limner.runtime.server.edits import only_picture, recipe_of
from limner.runtime.server.errors import as_refusal, refused
from limner.runtime.server.orders import Order, Watching
from limner.runtime.server.running import check_recipe
from limner.runtime.server.settings import Limits
from limner.runtime.server.state import State, state_of
from limner.runtime.server.uploads import Fields, Given, read_request

__all__ = ["router"]

router = APIRouter(tags=["OpenAI's image API"])
Job = Callable[[Watching | None], Awaitable[dict[str, Any]]]
"""Makes one picture."""
QUALITIES = {"auto": 1.0, "standard": 1.0, "medium": 1.0, "low": 0.5, "high": 2.0, "hd": 2.0}
SIZE = re.compile(r"(\d{1,5})x(\d{1,5})")
REFUSED = {
    "mask": "there are no masks",
    "response_format": "pictures come as b64_json",
    "background": "opaque pictures",
}
ALLOWED = {"response_format": ("b64_json",), "background": ("opaque", "auto")}
USAGE = {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0,
         "input_tokens_details": {"text_tokens": 0, "image_tokens": 0}}  # fmt: skip


class Picture(BaseModel):
    """One picture."""

    b64_json: str
    revised_prompt: str | None = None
    recipe: dict[str, Any] | None = Field(default=None, description="What replays to the same pixels.")
    warnings: list[str] = []


class ImagesAnswer(BaseModel):
    """Pictures, in OpenAI's shape."""

    created: int
    data: list[Picture]
    output_format: str
    size: str
    quality: str
    usage: dict[str, Any]


def body_of(required: list[str], picture: bool) -> dict[str, Any]:
    """The OpenAPI of a form, or of JSON."""
    properties: dict[str, Any] = {
        "model": {"type": "string"}, "prompt": {"type": "string", "example": "a person with a beard"},
        "n": {"type": "integer", "minimum": 1, "maximum": 10}, "size": {"type": "string", "example": "auto"},
        "quality": {"enum": list(QUALITIES)}, "output_format": {"enum": list(FORMATS)},
        "stream": {"type": "boolean"}, "partial_images": {"type": "integer", "minimum": 0, "maximum": 3},
        "seed": {"type": "integer", "minimum": 0, "maximum": MAX_SEED}, "source_prompt": {"type": "string"},
        "recipe": {"type": "string", "description": "A recipe as JSON text."}, "user": {"type": "string"},
    }  # fmt: skip
    if picture:
        properties["image"] = {"type": "string", "format": "binary"}
    schema = {"type": "object", "required": required, "properties": properties}
    kinds = ["multipart/form-data"] if picture else ["application/json"]
    return {"requestBody": {"required": True, "content": {kind: {"schema": schema} for kind in kinds}}}


@router.post("/v1/images/edits", response_model=ImagesAnswer, openapi_extra=body_of(["prompt"], True))
async def image_edits(request: Request) -> Response:
    """Edit a picture by words."""
    state, fields = await _read(request)
    picture = only_picture(fields)
    recipe, hosted = _edit_recipe(state, fields, picture)
    recipes = _numbered(recipe, fields, state.limits)
    kind = fields.choice("output_format", FORMATS, "png")

    jobs = [_edited(state, request, hosted, one, picture, kind) for one in recipes]
    return await _answered(request, fields, "image_edit", jobs, kind)


@router.post("/v1/images/generations", response_model=ImagesAnswer, openapi_extra=body_of(["prompt"], False))
async def image_generations(request: Request) -> Response:
    """Make pictures from a text; with a recipe, the edit of one that is made from it."""
    state, fields = await _read(request)
    if fields.pictures:
        raise refused("image", "a picture", "nothing; edits are at /v1/images/edits")
    kind = fields.choice("output_format", FORMATS, "png")
    if fields.json("recipe") is not None:
        recipe, hosted = _edit_recipe(state, fields, None)
        recipes = _numbered(recipe, fields, state.limits)

        jobs = [_edited(state, request, hosted, one, None, kind) for one in recipes]
        return await _answered(request, fields, "image_generation", jobs, kind)
    hosted, prompt = _generator(state, fields), _prompt(fields)
    settings = _sampling(state, hosted, fields)
    first = fields.whole("seed", 0, 0, MAX_SEED)
    count = fields.whole("n", 1, 1, state.limits.pictures)

    def made(seed: int) -> Job:
        asked = {"prompt": prompt, "seed": seed, "settings": settings, "output_format": kind}
        return _ordered(state, request, hosted, Order(hosted.name, asked, None, request.state.id))

    return await _answered(request, fields, "image_generation", [made(first + k) for k in range(count)], kind)


def _edited(state: State, request: Request, hosted: Hosted, recipe: Recipe, picture: Given | None, kind: str) -> Job:
    asked = {"recipe": recipe.to_dict(), "name": "" if picture is None else picture.name, "compare": False,
             "include": (), "output_format": kind}  # fmt: skip
    data = None if picture is None else picture.data
    return _ordered(state, request, hosted, Order(f"{hosted.name}:{recipe.method}", asked, data, request.state.id))


def _ordered(state: State, request: Request, hosted: Hosted, order: Order) -> Job:
    async def job(watching: Watching | None) -> dict[str, Any]:
        answer = await state.made(hosted, order, request, watching=watching)
        found = {"b64_json": answer["image"], "revised_prompt": None, "warnings": answer["warnings"],
                 "size": answer["size"]}  # fmt: skip
        return found | ({"recipe": answer["recipe"]} if "recipe" in answer else {})

    return job


async def _read(request: Request) -> tuple[State, Fields]:
    state = state_of(request)
    state.allow(request, "edit")
    fields = await read_request(request, state.limits)
    for name, reason in REFUSED.items():
        given = "a file" if name in fields.others else fields.text(name)
        if given is not None and given not in ALLOWED.get(name, ()):
            raise refused(name, f"{given[:40]!r}", f"nothing else, {reason}", code="unsupported_parameter")
    return state, fields


def _prompt(fields: Fields) -> str:
    text = fields.text("prompt")
    if text is None:
        raise refused("prompt", "nothing", "a text", code="missing_value")
    return text


def _edit_recipe(state: State, fields: Fields, picture: Given | None) -> tuple[Recipe, Hosted]:
    """The recipe that the fields say, and where it runs."""
    if fields.json("recipe") is not None:
        return recipe_of(fields, state)
    hosted, method = state.hosts.find(fields.text("model"))
    if method is None:
        names = ", ".join(f"{hosted.name}:{one}" for one in hosted.methods)
        raise refused("model", f"{hosted.name!r}, which makes pictures", f"{names}")
    if picture is None:
        raise refused("image", "nothing", "a picture", code="missing_value")
    parameters = _overlaid(hosted, method, fields)
    source = Source("image", path=picture.name, prompt=fields.text("source_prompt"))
    seed = fields.whole("seed", 0, 0, MAX_SEED)
    recipe = Recipe(method.name, source, _texts(method, _prompt(fields)), parameters, seed=seed)
    check_recipe(recipe, hosted.editor.bundle, state.limits)
    return recipe, hosted


def _texts(method: Method, prompt: str) -> tuple[PromptEdit, ...]:
    """The texts of an edit: concepts may be several, one a line."""
    lines = [line.strip() for line in prompt.splitlines() if line.strip()]
    return tuple(PromptEdit(line) for line in lines) if method.texts == "concept" else (PromptEdit(prompt.strip()),)


def _overlaid(hosted: Hosted, method: Method, fields: Fields) -> dict[str, Any]:
    """Size and quality as the method's settings."""
    found: dict[str, Any] = {}
    own = set(method.parameters.__dataclass_fields__)
    height, width = _size(fields)
    if height is not None:
        if "height" not in own:
            raise refused("size", height, f"auto with the method {method.name!r}")
        found |= {"height": height, "width": width}
    share = QUALITIES[fields.choice("quality", tuple(QUALITIES), "auto")]
    if share != 1.0 and "steps" in own:
        usual = resolved(hosted.editor.bundle, method.parameters(), method.name, picture_section(method.name, "image"))
        found["steps"] = max(1, round(share * getattr(usual, "steps", 1)))
    return found


def _size(fields: Fields) -> tuple[int | None, int | None]:
    text = fields.text("size", "auto") or "auto"
    if text == "auto":
        return None, None
    found = SIZE.fullmatch(text)
    if found is None:
        raise refused("size", f"{text[:40]!r}", "WIDTHxHEIGHT or auto")
    return int(found[2]), int(found[1])


def _generator(state: State, fields: Fields) -> Hosted:
    """The bundle that makes pictures from texts."""
    asked = fields.text("model")
    if asked is None:
        makers = [one for one, method in state.hosts.models().values() if method is None]
        if len(makers) != 1:
            raise refused("model", "nothing", "see /v1/models", code="missing_value")
        return makers[0]
    hosted, method = state.hosts.find(asked)
    if method is not None:
        given = f"{asked[:60]!r}, a method, without a recipe"
        raise refused("model", given, "a bundle that makes pictures")
    return hosted


def _sampling(state: State, hosted: Hosted, fields: Fields) -> dict[str, Any]:
    engine: Any = hosted.editor.engine
    height, width = _size(fields)
    _within(state.limits, height, width)
    found: dict[str, Any] = {} if height is None else {"height": height, "width": width}
    share = QUALITIES[fields.choice("quality", tuple(QUALITIES), "auto")]
    if share != 1.0:
        steps = round(share * engine.sampling_parameters({}).steps)
        found["steps"] = min(state.limits.steps, max(1, steps))
    return found


def _within(limits: Limits, *sides: int | None) -> None:
    for side in sides:
        if side is not None and side > limits.side:
            raise refused("size", side, f"at most {limits.side} pixels a side", code="too_much")


def _numbered(recipe: Recipe, fields: Fields, limits: Limits) -> list[Recipe]:
    """The recipe with n seeds; of a source that is made from a seed, that one counts on."""
    count = fields.whole("n", 1, 1, limits.pictures)
    found = [recipe]
    for k in range(1, count):
        source = recipe.source
        if source.seed is None:
            found.append(replace(recipe, seed=min(recipe.seed + k, MAX_SEED)))
        else:
            found.append(replace(recipe, source=replace(source, seed=min(source.seed + k, MAX_SEED))))
    return found


async def _answered(request: Request, fields: Fields, event: str, jobs: Sequence[Job], kind: str) -> Response:
    """All pictures as one answer, or one event after another."""
    quality, size = fields.text("quality", "auto"), fields.text("size", "auto")
    common = {"created": int(time.time()), "output_format": kind, "quality": quality, "background": "opaque"}
    if not fields.flag("stream", False):
        made = [await job(None) for job in jobs]
        shown = made[0].get("size", size)
        return JSONResponse(common | {"size": shown, "data": made, "usage": USAGE})
    partial = fields.whole("partial_images", 0, 0, 3)
    told = common | {"created_at": common["created"], "size": size}

    async def events() -> AsyncIterator[str]:
        try:
            for job in jobs:
                async for name, body in _pictures(job, partial):
                    more = {"usage": USAGE} if name == "completed" else {}
                    yield _event(f"{event}.{name}", {"type": f"{event}.{name}"} | told | more | body)
        except Exception as reason:
            refusal = as_refusal(reason, request.state.id)
            yield _event("error", {"type": "error"} | refusal.body())

    return StreamingResponse(events(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})


async def _pictures(job: Job, partial: int) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    """The pictures on the way, from methods that have any, then the finished one."""
    loop, queue = asyncio.get_running_loop(), asyncio.Queue[dict[str, Any]]()

    def shown(at: int, data: bytes) -> None:  # in the edit's thread
        found = {"b64_json": in_base64(data), "partial_image_index": at}
        loop.call_soon_threadsafe(queue.put_nowait, found)

    task = asyncio.ensure_future(job(Watching(partial, shown=shown) if partial else None))
    number = 0
    try:
        while not task.done() or not queue.empty():
            coming = asyncio.ensure_future(queue.get())
            await asyncio.wait([task, coming], return_when=asyncio.FIRST_COMPLETED)
            if not coming.done():
                coming.cancel()
                continue
            if coming.result()["partial_image_index"] == number:  # not one that was shown before a machine went down
                yield "partial_image", coming.result()
                number += 1
        yield "completed", await task
    finally:
        task.cancel()


def _event(name: str, body: dict[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps(body)}\n\n"
