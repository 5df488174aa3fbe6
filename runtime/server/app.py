"""The application: endpoints, start and end.

GET /healthz    it lives       GET /readyz   graphs are loaded and it takes work       GET /metrics   Prometheus
"""

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Callable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException

from limner.runtime.errors import LimnerError
from limner.runtime.graphs.prepared import forget_old
from limner.runtime.marking.marks import environment_marks
from limner.runtime.server import catalogue, edits, images
from limner.runtime.server.bundles import Hosts
from limner.runtime.server.errors import Refusal, as_refusal
from limner.runtime.server.jobs import routes
from limner.runtime.server.jobs.store import JobStore
from limner.runtime.server.jobs.worker import Worker
from limner.runtime.server.keys import KeyFile
from limner.runtime.server.metrics import Metrics
from limner.runtime.server.middleware import Passage
from limner.runtime.server.rates import Rates
from limner.runtime.server.results import Results
from limner.runtime.server.running import Engine, Runner
from limner.runtime.server.settings import ServerSettings
from limner.runtime.server.state import State, state_of
from limner.runtime.server.tracing import tracing_of
from limner.runtime.versions import package_version

__all__ = ["GRACE_S", "make_app"]

logger = logging.getLogger("limner.server")
LOOK_S = 5.0  # how often the folders of bundles are looked at
GRACE_S = 30.0  # that running edits have at the end


def make_app(
    settings: ServerSettings,
    grace_s: float = GRACE_S,
    engine: Callable[[Metrics], Engine] | None = None,  # None: threads of this process
) -> FastAPI:
    """The application; raises LimnerError for a bundle, provider or file of keys that cannot be used."""
    environment_marks()  # a signer that cannot sign is said now
    settings.work.mkdir(parents=True, exist_ok=True)
    forget_old(settings.uploads, max(3600.0, 2 * settings.limits.seconds))  # of servers that were killed
    hosts = Hosts(settings, loads=engine is None)
    metrics = Metrics(hosts)
    state = State(settings, hosts, KeyFile(settings.keys), metrics,
                  engine(metrics) if engine else Runner(settings.limits, metrics, settings.uploads),
                  Rates(settings.limits.requests_per_minute),
                  Results(settings.work / "results", int(settings.limits.results_mb * 1e6)),
                  tracing_of(os.environ))  # fmt: skip
    app = FastAPI(
        title="Limner",
        version=package_version("limner") or "0",
        summary="Edits images by words.",
        lifespan=_life(grace_s),
    )
    app.state.limner = state
    app.state.jobs = JobStore(settings.work / "jobs", settings.database)
    app.add_middleware(Passage, metrics=metrics, tracing=state.tracing, body_bytes=int(settings.limits.upload_mb * 1e6))
    for kind in (Refusal, LimnerError, OSError, SQLAlchemyError):
        app.add_exception_handler(kind, _answer)
    app.add_exception_handler(HTTPException, _of_starlette)
    app.add_exception_handler(RequestValidationError, _of_fastapi)
    for one in (edits.router, images.router, catalogue.router, routes.router):
        app.include_router(one)
    app.get("/healthz", tags=["running it"])(healthz)
    app.get("/readyz", tags=["running it"])(readyz)
    app.get("/metrics", tags=["running it"], response_class=Response)(metrics_text)
    return app


async def healthz() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


async def readyz(request: Request) -> Response:
    """Graphs are loaded and measured, and it takes work."""
    ready = state_of(request).ready
    return JSONResponse({"status": "ready" if ready else "not ready"}, 200 if ready else 503)


async def metrics_text(request: Request) -> Response:
    """Counters as Prometheus reads them."""
    state = state_of(request)
    state.keys.find(request.headers.get("authorization")).require("metrics")
    return Response(state.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _life(grace_s: float) -> Any:
    @contextlib.asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        state: State = app.state.limner
        app.state.worker = worker = Worker(state, app.state.jobs)
        tasks = [asyncio.create_task(one) for one in (_warm(state), _look(state), worker.work())]
        try:
            yield
        finally:
            state.ready = False
            for task in tasks:
                task.cancel()
            await state.engine.end(grace_s)
            await worker.end()
            await asyncio.to_thread(app.state.jobs.close)
            await asyncio.to_thread(state.hosts.close)
            await asyncio.to_thread(state.tracing.close)

    return life


async def _warm(state: State) -> None:
    try:
        await state.engine.warm(state.hosts)
    except Exception as reason:
        logger.error("not warm: %s", reason)
    else:
        state.ready = True
        logger.info("ready")


async def _look(state: State) -> None:
    while True:
        await asyncio.sleep(LOOK_S)
        await asyncio.to_thread(state.hosts.look)


async def _answer(request: Request, error: Exception) -> Response:
    refusal = as_refusal(error, request.state.id)
    return JSONResponse(refusal.body(), refusal.status, refusal.headers)


async def _of_starlette(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code)
    refusal = Refusal(error.status_code, f"{request.method} {request.url.path[:120]}: {error.detail}", None, code)
    return JSONResponse(refusal.body(), refusal.status, {**refusal.headers, **(error.headers or {})})


async def _of_fastapi(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"][1:])
    refusal = Refusal(400, f"{field}: {first['msg']}", field or None, "invalid_value")
    return JSONResponse(refusal.body(), refusal.status, refusal.headers)
