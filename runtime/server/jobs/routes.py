"""`/v1/jobs`: an edit that is accepted with 202 is done, whatever happens to the server.

POST /v1/jobs               as /v1/edits; header Idempotency-Key: the same key gives the same job
GET  /v1/jobs               the key's own       GET /v1/jobs/ID             how far it is
GET  /v1/jobs/ID/result     the edit            GET /v1/jobs/ID/events      the same as it changes (SSE)
POST /v1/jobs/ID/cancel     end it
"""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel

from limner.runtime.server.answers import in_base64
from limner.runtime.server.edits import EditAnswer, asked_of, body_of, only_picture, recipe_of
from limner.runtime.server.errors import Refusal, refused
from limner.runtime.server.jobs.store import MOST_PREVIEWS, Job, JobStore
from limner.runtime.server.results import digest_of
from limner.runtime.server.state import state_of
from limner.runtime.server.uploads import check_source, read_request

__all__ = ["router"]

router = APIRouter(tags=["jobs"])
LOOK_S, ALIVE_S = 0.2, 15.0
PARTIAL = {"partial_images": {"type": "integer", "minimum": 0, "maximum": MOST_PREVIEWS, "default": 0,
                              "description": "Pictures on the way, among the events."}}  # fmt: skip
JOB_BODY = body_of(PARTIAL)
MOST_KEY = 200  # characters of an Idempotency-Key


class JobAnswer(BaseModel):
    """A job as it is now; times in seconds since 1970."""

    id: str
    object: str
    state: str
    model: str
    created: float
    started: float | None
    ended: float | None
    step: int
    steps: int
    error: dict[str, Any] | None
    attempts: int


@router.post("/v1/jobs", status_code=202, response_model=JobAnswer, openapi_extra=JOB_BODY)
async def accept(request: Request) -> Response:
    """Accept an edit that is done later."""
    state, store = state_of(request), store_of(request)
    key = state.allow(request, "jobs")
    fields = await read_request(request, state.limits)
    recipe, hosted = recipe_of(fields, state)
    picture = only_picture(fields)
    check_source(recipe, picture, state.limits)
    asked, data = asked_of(fields, recipe), None if picture is None else picture.data
    model = f"{hosted.name}:{recipe.method}"
    digest = digest_of(hosted, model, asked, data)
    asked["partial_images"] = fields.whole("partial_images", 0, 0, MOST_PREVIEWS)
    once = request.headers.get("idempotency-key")
    if once is not None and not 0 < len(once) <= MOST_KEY:
        raise refused("Idempotency-Key", f"{len(once)} characters", f"1 to {MOST_KEY}")
    job, new = await asyncio.to_thread(store.accept, key.name, model, asked, digest, data, state.limits.jobs, once)
    request.app.state.worker.wake.set()
    return JSONResponse(job.shown(), 202 if new else 200, {"Location": f"/v1/jobs/{job.id}"})


@router.get("/v1/jobs")
async def listed(request: Request) -> dict[str, Any]:
    """The key's last hundred."""
    key = state_of(request).allow(request, "jobs")
    found = await asyncio.to_thread(store_of(request).listed, key.name)
    return {"object": "list", "data": [job.shown() for job in found]}


@router.get("/v1/jobs/{job}", response_model=JobAnswer)
async def one(request: Request, job: str) -> dict[str, Any]:
    """How far it is."""
    return (await _own(request, job)).shown()


@router.get("/v1/jobs/{job}/result", response_model=EditAnswer, response_model_exclude_none=True)
async def result(request: Request, job: str) -> Response:
    """The edit; 409 while there is none, the error where it failed."""
    found = await _own(request, job)
    if found.state == "failed":
        error = dict(found.error or {})
        raise Refusal(422, str(error.get("message")), error.get("param"), error.get("code"))
    answer = await asyncio.to_thread(store_of(request).result, job) if found.state == "succeeded" else None
    if answer is None:
        raise Refusal(409, f"the job is {found.state}", None, f"job_{found.state}", None if found.over else 1)
    return JSONResponse(answer)


@router.get("/v1/jobs/{job}/events")
async def events(request: Request, job: str) -> Response:
    """Server-sent events: `progress` with the job at every change, `preview` with a picture on the way, then `end`."""
    first = await _own(request, job)

    async def stream() -> AsyncIterator[str]:
        found, shown, seen, quiet = first, None, 0, 0.0
        while True:
            for data in await asyncio.to_thread(store_of(request).shown, job, seen):
                picture = {"id": job, "b64_json": in_base64(data), "output_format": found.asked["output_format"],
                           "partial_image_index": seen}  # fmt: skip
                yield f"event: preview\ndata: {json.dumps(picture)}\n\n"
                seen, quiet = seen + 1, 0.0
            if (now := found.shown()) != shown:
                yield f"event: {'end' if found.over else 'progress'}\ndata: {json.dumps(now)}\n\n"
                shown, quiet = now, 0.0
            if found.over:
                return
            await asyncio.sleep(LOOK_S)
            quiet += LOOK_S
            if quiet >= ALIVE_S:
                yield ": alive\n\n"
                quiet = 0.0
            found = await asyncio.to_thread(store_of(request).get, job)

    return StreamingResponse(stream(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})


@router.post("/v1/jobs/{job}/cancel", response_model=JobAnswer)
async def cancel(request: Request, job: str) -> dict[str, Any]:
    """End it; one that has ended stays as it is."""
    found = await _own(request, job)
    store = store_of(request)
    await asyncio.to_thread(store.cancel, found.id)
    return (await asyncio.to_thread(store.get, found.id)).shown()


def store_of(request: Request) -> JobStore:
    """The server's jobs."""
    found: JobStore = request.app.state.jobs
    return found


async def _own(request: Request, job: str) -> Job:
    key = state_of(request).allow(request, "jobs")
    return await asyncio.to_thread(store_of(request).get, job, key.name)
