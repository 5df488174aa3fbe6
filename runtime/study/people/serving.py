"""`limner study serve`: the pages over HTTP. Needs starlette and uvicorn, of the extra `study`.

GET  /                      the page; PROLIFIC_PID of the address is kept with what its rater answers
GET  /state                 what the browser's rater has before it: words and pictures of every page, and the next one
POST /begin                 {"agree": true}: a rater, as a cookie
POST /answers               {"position", "value", "seconds"}: kept when it is answered with 200
GET  /pictures/POSITION/NAME.png

Nothing is asked of another server, and nothing that a browser gets names a method.
"""

import html
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from http import HTTPStatus
from importlib.resources import files
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from limner.runtime.errors import InputError, LimnerError
from limner.runtime.listening import address_of, listening
from limner.runtime.schema import parse_json
from limner.runtime.study.people.consent import consent_of
from limner.runtime.study.people.pictures import Pictures
from limner.runtime.study.people.store import Full, Rater, Store

__all__ = ["Desk", "asset", "make_pages_app", "page_html", "serve_pages"]

logger = logging.getLogger("limner.study")
COOKIE = "limner_rater"
COOKIE_S = 30 * 86_400
MOST_BYTES = 4096  # of a request
PANEL = "PROLIFIC_PID"
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self' data:; style-src 'self'; script-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


def asset(name: str) -> str:
    """A file of the page."""
    return files("limner.runtime.study.people").joinpath("assets", name).read_text(encoding="utf-8")


def page_html(style: str, script: str) -> str:
    """The page with its style and script, as tags."""
    return asset("page.html").replace("%STYLE%", style).replace("%SCRIPT%", script)


@dataclass(frozen=True)
class Desk:
    """What the endpoints share."""

    store: Store
    pictures: Pictures
    own: tuple[str, ...] = ()  # paragraphs of the consent
    contact: str = ""
    code: str = ""  # shown at the end in the place of the rater's own
    secure: bool = False  # the cookie goes over HTTPS alone
    pages: Callable[[int], list[dict[str, object]]] = field(init=False)

    def __post_init__(self) -> None:
        seen = lru_cache(maxsize=256)(lambda number: [self.pictures.seen(page) for page in self.store.pages(number)])
        object.__setattr__(self, "pages", seen)

    def state(self, rater: Rater | None) -> dict[str, object]:
        """As the page reads it."""
        pages = self.pages(0 if rater is None else rater.number)
        if rater is None:
            closed = "" if self.store.is_open() else "All places of this study are taken."
            about = consent_of(self.store.study.plan, len(pages), self.own, self.contact).seen(closed)
            return {"agreed": False, "about": about, "pages": [], "next": 0, "ended": None}
        ended = (self.code or rater.code) if rater.ended else None
        return {"agreed": True, "pages": pages, "next": self.store.position(rater), "ended": ended}

    def rater(self, request: Request) -> Rater | None:
        """The browser's rater; that of the panel's id in the address goes before, so that one browser may be shared."""
        token, panel_id = request.cookies.get(COOKIE), request.query_params.get(PANEL)
        known = self.store.of_panel(panel_id) if panel_id else None
        found = self.store.rater(token) if token else None
        if panel_id and found is not None and found.panel_id != panel_id:
            found = None
        return known or found


def make_pages_app(desk: Desk) -> Starlette:
    """The application."""
    refused: dict[Any, Any] = dict.fromkeys((InputError, Full, HTTPException), _refused)
    app = Starlette(
        routes=[
            Route("/", _page),
            Route("/page.js", _script),
            Route("/page.css", _style),
            Route("/state", _state),
            Route("/begin", _begin, methods=["POST"]),
            Route("/answers", _answers, methods=["POST"]),
            Route("/pictures/{position:int}/{name}.png", _picture),
            Route("/healthz", _health),
        ],
        exception_handlers=refused | dict.fromkeys((LimnerError, Exception), _failed),
    )
    app.state.desk = desk
    app.add_middleware(_Headers)
    return app


def _desk(request: Request) -> Desk:
    found: Desk = request.app.state.desk
    return found


async def _page(request: Request) -> Response:
    return HTMLResponse(page_html('<link rel="stylesheet" href="page.css">', '<script src="page.js"></script>'))


async def _script(request: Request) -> Response:
    return Response(asset("page.js"), media_type="text/javascript")


async def _style(request: Request) -> Response:
    return Response(asset("page.css"), media_type="text/css")


async def _health(request: Request) -> Response:
    return JSONResponse({"study": _desk(request).store.study.digest})


async def _state(request: Request) -> Response:
    desk = _desk(request)

    def work() -> Response:
        rater = desk.rater(request)
        return _with_cookie(JSONResponse(desk.state(rater)), rater, desk)

    return await run_in_threadpool(work)


async def _begin(request: Request) -> Response:
    desk = _desk(request)
    body = await _body(request, {"agree": bool})
    if body["agree"] is not True:
        raise InputError("agree", body["agree"], "true: nobody takes part who did not agree")

    def work() -> Response:
        rater = desk.rater(request) or desk.store.begin(request.query_params.get(PANEL) or None)
        return _with_cookie(JSONResponse(desk.state(rater)), rater, desk)

    return await run_in_threadpool(work)


async def _answers(request: Request) -> Response:
    desk = _desk(request)
    body = await _body(request, {"position": int, "value": dict, "seconds": (int, float)})

    def work() -> Response:
        rater = desk.store.rater(request.cookies.get(COOKIE) or "")
        if rater is None:
            raise HTTPException(403, "This browser has not agreed to take part.")
        desk.store.answer(rater, body["position"], body["value"], float(body["seconds"]))
        return JSONResponse(desk.state(desk.store.rater(rater.token)))

    return await run_in_threadpool(work)


async def _picture(request: Request) -> Response:
    desk, position = _desk(request), request.path_params["position"]

    def work() -> Response:
        rater = desk.store.rater(request.cookies.get(COOKIE) or "")
        pages = () if rater is None else desk.store.pages(rater.number)
        if not position < len(pages):
            raise HTTPException(404, "There is no such picture.")
        return Response(desk.pictures.png(pages[position], request.path_params["name"]), media_type="image/png")

    return await run_in_threadpool(work)


class _Headers:
    """Sets HEADERS on every answer."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def sending(part: Any) -> None:
            if part["type"] == "http.response.start":
                part["headers"] = [*part["headers"], *((k.lower().encode(), v.encode()) for k, v in HEADERS.items())]
            await send(part)

        await self.app(scope, receive, sending if scope["type"] == "http" else send)


def _with_cookie(response: Response, rater: Rater | None, desk: Desk) -> Response:
    if rater is not None:
        response.set_cookie(COOKIE, rater.token, COOKIE_S, httponly=True, samesite="lax", secure=desk.secure)
    return response


async def _body(request: Request, fields: dict[str, Any]) -> dict[str, Any]:
    """The JSON of a request; InputError for another one, which a form of another site cannot send."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise InputError("Content-Type", repr(request.headers.get("content-type"))[:100], "application/json")
    data = b""
    async for part in request.stream():
        data += part
        if len(data) > MOST_BYTES:
            raise InputError("body", f"more than {MOST_BYTES} bytes", "a short answer")
    found = parse_json(data, "body")
    if not isinstance(found, dict) or set(found) != set(fields):
        raise InputError("body", "other keys", ", ".join(fields))
    for name, kind in fields.items():
        if not isinstance(found[name], kind) or (isinstance(found[name], bool) and kind is not bool):
            raise InputError(name, repr(found[name])[:100], "another type of value")
    return found


async def _refused(request: Request, reason: Exception) -> Response:
    status = reason.status_code if isinstance(reason, HTTPException) else 409 if isinstance(reason, Full) else 422
    said = reason.detail if isinstance(reason, HTTPException) else str(reason)
    return JSONResponse({"message": said or HTTPStatus(status).phrase}, status)


async def _failed(request: Request, reason: Exception) -> Response:
    logger.error(json.dumps({"path": html.escape(request.url.path), "failure": f"{type(reason).__name__}: {reason}"}))
    return JSONResponse({"message": "The server has a problem."}, 500)


def serve_pages(desk: Desk, host: str, port: int, say: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM. InputError where something listens there already."""
    with listening(host, port) as opened:
        plan = desk.store.study.plan
        say(f"limner: {address_of(opened)} asks {plan.raters} raters about {plan.name}; answers in {desk.store.path}")
        config = uvicorn.Config(make_pages_app(desk), log_level="error", access_log=False, server_header=False)
        uvicorn.Server(config).run(sockets=[opened])
    say("limner: ended")
