"""`POST /v1/edits`: a recipe goes in, an edit comes out."""

import asyncio
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from limner.runtime.recipe import Recipe
from limner.runtime.server.answers import FORMATS, INCLUDED
from limner.runtime.server.bundles import Hosted
from limner.runtime.server.errors import refused
from limner.runtime.server.orders import Order
from limner.runtime.server.results import digest_of
from limner.runtime.server.running import check_recipe
from limner.runtime.server.state import State, state_of
from limner.runtime.server.uploads import Fields, Given, check_source, read_request

__all__ = ["EditAnswer", "asked_of", "body_of", "included", "only_picture", "recipe_of", "router"]

router = APIRouter(tags=["edits"])
RECIPE: dict[str, Any] = {
    "version": 2, "method": "global-directions", "source": {"kind": "seed", "seed": 7},
    "prompts": [{"text": "a person with a beard"}],
}  # fmt: skip
PROPERTIES: dict[str, Any] = {
    "recipe": {"description": "A recipe: an object, or its JSON text in a form. `GET /v1/methods` has the schemas.",
               "oneOf": [{"type": "object"}, {"type": "string"}], "example": RECIPE},
    "image": {"type": "string", "description": "The picture of a source of kind image: a file, or base64 in JSON."},
    "model": {"type": "string", "description": "BUNDLE:METHOD; not needed where one bundle has the method."},
    "compare": {"type": "boolean", "default": False,
                "description": "Beside the picture without the edit: its scores, and a warning where nothing changed."},
    "include": {"type": "array", "items": {"enum": list(INCLUDED)}, "description": "Further pictures of the answer."},
    "output_format": {"enum": list(FORMATS), "default": "png"},
}  # fmt: skip


def body_of(more: dict[str, Any]) -> dict[str, Any]:
    """The OpenAPI of a recipe that is sent, and of further fields."""
    properties = PROPERTIES | more
    text = {
        "recipe": {"type": "string", "description": "A recipe's JSON"},
        "image": {"type": "string", "format": "binary"},
    }
    schemas = {
        "application/json": {"schema": {"type": "object", "required": ["recipe"], "properties": properties},
                             "example": {"recipe": RECIPE}},
        "multipart/form-data": {"schema": {"type": "object", "required": ["recipe"], "properties": properties | text}},
    }  # fmt: skip
    return {"requestBody": {"required": True, "content": schemas}}


class EditAnswer(BaseModel):
    """An edit."""

    id: str = Field(description="The request's id, as in the log.")
    object: str
    created: int
    model: str
    image: str = Field(description="The edited picture in base64; its recipe lies in the file.")
    output_format: str
    size: str
    recipe: dict[str, Any] = Field(description="Complete: it replays to the same pixels.")
    scores: dict[str, float]
    warnings: list[str]
    timing: dict[str, float] = Field(description="Milliseconds by stage.")
    provider: str
    compared: bool
    source: str | None = None
    reconstruction: str | None = None
    pictures: dict[str, str] | None = Field(default=None, description="Attention maps and masks by name.")


@router.post("/v1/edits", response_model=EditAnswer, response_model_exclude_none=True, openapi_extra=body_of({}))
async def edits(request: Request) -> dict[str, Any]:
    """Run a recipe."""
    state = state_of(request)
    state.allow(request, "edit")
    fields = await read_request(request, state.limits)
    recipe, hosted = recipe_of(fields, state)
    picture, asked = only_picture(fields), asked_of(fields, recipe)
    check_source(recipe, picture, state.limits)
    model = f"{hosted.name}:{recipe.method}"
    digest = digest_of(hosted, model, asked, None if picture is None else picture.data)
    if (known := await asyncio.to_thread(state.results.get, digest)) is not None:
        return known | {"id": request.state.id}

    order = Order(model, asked, None if picture is None else picture.data, request.state.id)
    answer = await state.made(hosted, order, request)
    await asyncio.to_thread(state.results.put, digest, answer)
    return answer


def asked_of(fields: Fields, recipe: Recipe) -> dict[str, Any]:
    """What a request asks for, as JSON: the recipe, the picture's name, and what the answer is to hold."""
    pictures = fields.pictures
    return {
        "recipe": recipe.to_dict(),
        "name": pictures[0].name if pictures else "",
        "compare": fields.flag("compare", False),
        "include": included(fields),
        "output_format": fields.choice("output_format", FORMATS, "png"),
    }


def recipe_of(fields: Fields, state: State) -> tuple[Recipe, Hosted]:
    """The recipe of a request, and the bundle that it runs on; InputError as everywhere."""
    data = fields.json("recipe")
    if data is None:
        raise refused("recipe", "nothing", "a recipe", code="missing_value")
    if not isinstance(data, dict):
        raise refused("recipe", f"a {type(data).__name__}", "an object", code="invalid_type")
    recipe = Recipe.from_dict(data)
    hosted, method = state.hosts.find(fields.text("model"), recipe.method)
    require_method(recipe, None if method is None else method.name, hosted)
    check_recipe(recipe, hosted.editor.bundle, state.limits)
    return recipe, hosted


def require_method(recipe: Recipe, method: str | None, hosted: Hosted) -> None:
    """Refuse a recipe of another method than the model's, and of another bundle."""
    if method is not None and method != recipe.method:
        given = f"a recipe of the method {recipe.method!r} with the model {hosted.name}:{method}"
        raise refused("recipe.method", given, "one and the same")
    digest = hosted.editor.bundle.digest
    if recipe.bundle is not None and recipe.bundle != digest:
        given, here = f"{recipe.bundle[:12]}...", f"{digest[:12]}... of {hosted.name}"
        hint = "leave it out to run on this one all the same"
        raise refused("recipe.bundle", given, f"{here}; {hint}", code="other_bundle", status=409)


def included(fields: Fields) -> tuple[str, ...]:
    """The further pictures that a request asks for."""
    asked = fields.listed("include")
    for one in asked:
        if one not in INCLUDED:
            raise refused("include", repr(one[:40]), ", ".join(INCLUDED))
    return asked


def only_picture(fields: Fields) -> Given | None:
    """The one picture of a request, if there is one."""
    if len(fields.pictures) > 1:
        raise refused("image", f"{len(fields.pictures)} pictures", "one", code="unsupported_parameter")
    return fields.pictures[0] if fields.pictures else None
