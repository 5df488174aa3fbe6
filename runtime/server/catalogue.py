"""What there is: models, and the methods with the JSON schemas of their recipes."""

from typing import Any

from fastapi import APIRouter, Request

from limner.runtime.declarations import method_entry, recipe_schema
from limner.runtime.methods.registry import find_method, method_names
from limner.runtime.server.errors import refused
from limner.runtime.server.state import state_of

__all__ = ["router"]

router = APIRouter(tags=["catalogue"])


@router.get("/v1/models")
async def models(request: Request) -> dict[str, Any]:
    """Every name that `model` may have."""
    state = state_of(request)
    state.allow(request, "edit")
    return {"object": "list", "data": [_model(name, one[0].editor.bundle.digest)
                                       for name, one in state.hosts.models().items()]}  # fmt: skip


@router.get("/v1/models/{model}")
async def model(request: Request, model: str) -> dict[str, Any]:
    """One of them."""
    state = state_of(request)
    state.allow(request, "edit")
    found = state.hosts.models().get(model)
    if found is None:
        raise refused("model", f"{model[:80]!r}", "see /v1/models", code="model_not_found", status=404)
    return _model(model, found[0].editor.bundle.digest)


@router.get("/v1/methods")
async def methods(request: Request) -> dict[str, Any]:
    """The methods: what each does, its settings, and the JSON schema of its recipe."""
    state = state_of(request)
    state.allow(request, "edit")
    found = [find_method(name) for name in method_names()]
    return {"object": "list", "data": [method_entry(one) | {"recipe": recipe_schema(one)} for one in found]}


def _model(name: str, digest: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "limner", "bundle": digest}
