"""What every request passes: an id, a limit on its body, a line in the log, and no answer but JSON where it fails."""

import json
import logging
import re
import time
import uuid
from typing import Any

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from limner.runtime.server.errors import Refusal, as_refusal
from limner.runtime.server.metrics import Metrics
from limner.runtime.server.tracing import Tracing

__all__ = ["Passage"]

access = logging.getLogger("limner.access")
OWN_ID = re.compile(r"[\w.-]{1,64}", re.ASCII)
FORM_EXTRA = 100_000  # bytes of a body beside its picture


class Passage:
    """The one middleware."""

    def __init__(self, app: ASGIApp, metrics: Metrics, tracing: Tracing, body_bytes: int) -> None:
        self.app, self.metrics, self.tracing, self.body_bytes = app, metrics, tracing, body_bytes + FORM_EXTRA

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        asked = headers.get("x-request-id", "")
        name = asked if OWN_ID.fullmatch(asked) else uuid.uuid4().hex
        scope.setdefault("state", {})["id"] = name
        began, status, started = time.perf_counter(), 500, False

        async def answer(message: Message) -> None:
            nonlocal status, started
            if message["type"] == "http.response.start":
                status, started = message["status"], True
                message["headers"] = [*message.get("headers", []), (b"x-request-id", name.encode()),
                                      (b"x-content-type-options", b"nosniff")]  # fmt: skip
            await send(message)

        with self.tracing.request(scope["method"], scope["path"][:200], headers, name) as traced:
            try:
                await self.app(scope, self._limited(receive, headers), answer)
            except Exception as reason:
                refusal = as_refusal(reason, name)
                if not started:
                    await JSONResponse(refusal.body(), refusal.status, refusal.headers)(scope, receive, answer)
            finally:
                self._log(scope, name, status, time.perf_counter() - began, traced(status))

    def _limited(self, receive: Receive, headers: Headers) -> Receive:
        """413 once a body is larger than allowed, whatever its length says."""
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length) > self.body_bytes:
            too_large(self.body_bytes)
        had = 0

        async def limited() -> Message:
            nonlocal had
            message = await receive()
            had += len(message.get("body", b""))
            if had > self.body_bytes:
                too_large(self.body_bytes)
            return message

        return limited

    def _log(self, scope: Scope, name: str, status: int, seconds: float, trace: str) -> None:
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "id": name,
            "client": (scope.get("client") or ("", 0))[0],
            "method": scope["method"],
            "path": scope["path"][:200],
            "status": status,
            "ms": round(1000 * seconds, 1),
            "key": scope.get("state", {}).get("key", ""),
        }
        if trace:
            line["trace"] = trace
        if status >= 400:
            self.metrics.refused.labels(str(status)).inc()
        access.info(json.dumps(line))


def too_large(size: int) -> None:
    """Refuse a body."""
    raise Refusal(413, f"the request is larger than {size / 1e6:.3g} MB", None, "too_large")
