"""A server's edits for asyncio: `Client`, awaited. What an edit leaves out at first is asked for in a thread."""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any

import httpx2
import numpy as np
from numpy.typing import NDArray

from limner.runtime.client.errors import ServerError
from limner.runtime.client.messages import (
    RETRIED,
    Asked,
    Followed,
    edit_of,
    job_of,
    lost,
    object_of,
    pause,
    refusal_of,
    request_of,
)
from limner.runtime.client.synchronous import Client
from limner.runtime.edit import Edit
from limner.runtime.recipe import Recipe
from limner.runtime.timing import Progress

__all__ = ["AsyncClient"]


class AsyncClient:
    """A server, as an `Editor` whose edits are awaited."""

    def __init__(
        self, url: str, key: str | None = None, *, retries: int = 4, timeout: float = 600.0, model: str = ""
    ) -> None:
        self._waits = Client(url, key, retries=retries, timeout=timeout, model=model)  # of pictures asked for later
        self.url, self.retries, self.model = self._waits.url, retries, model
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        limit = httpx2.Timeout(timeout, connect=10.0)
        self._http = httpx2.AsyncClient(base_url=self.url, headers=headers, timeout=limit, follow_redirects=False)

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def close(self) -> None:
        """Let the connections go."""
        self._waits.close()
        await self._http.aclose()

    async def edit(
        self,
        recipe: Recipe,
        progress: Progress | None = None,  # with one, the edit is a job that tells how far it is
        *,
        given: NDArray[np.uint8] | None = None,  # of a picture without a path
        compare: bool = True,
    ) -> Edit:
        """Run a recipe there; cancelled, the edit ends there too. Raises as `Client.edit`."""
        asked = request_of(recipe, given, compare, self.model)
        answer = await (self._post("/v1/edits", asked) if progress is None else self._job(asked, progress))
        return edit_of(asked, answer, self._waits.again)

    async def models(self) -> list[str]:
        """Every name that `model` may have."""
        return [str(one["id"]) for one in (await self._json("GET", "/v1/models"))["data"]]

    async def _job(self, asked: Asked, progress: Progress) -> Mapping[str, Any]:
        followed = Followed(await self._post("/v1/jobs", job_of(asked, progress)), progress)
        job = followed.job["id"]
        try:
            await self._follow(followed, job)
        except BaseException:
            with suppress(Exception):
                await asyncio.shield(self._http.post(f"/v1/jobs/{job}/cancel", timeout=5.0))
            raise
        return await self._json("GET", f"/v1/jobs/{job}/result")

    async def _follow(self, followed: Followed, job: str) -> None:
        """Pass the job's events on until its end, over as many connections as that takes."""
        attempt = 0
        while not followed.over:
            try:
                async with self._http.stream("GET", f"/v1/jobs/{job}/events", timeout=60.0) as stream:
                    if stream.status_code != 200:
                        await stream.aread()
                        raise refusal_of(stream, self.url)
                    async for line in stream.aiter_lines():
                        if followed.line(line):
                            attempt = 0
            except (httpx2.TransportError, ServerError) as reason:  # noqa: PERF203 - a try a connection
                if attempt >= self.retries or (isinstance(reason, ServerError) and reason.status not in RETRIED):
                    raise lost(reason, self.url) from reason
                await asyncio.sleep(pause(attempt, None))
                attempt += 1

    async def _post(self, path: str, asked: Asked) -> Mapping[str, Any]:
        headers = {"Idempotency-Key": asked.once}
        return await self._json("POST", path, data=asked.data, files=asked.files or None, headers=headers)

    async def _json(self, method: str, path: str, **more: Any) -> Mapping[str, Any]:
        for attempt in range(self.retries + 1):
            last = attempt == self.retries
            try:
                answer = await self._http.request(method, path, **more)
            except httpx2.TransportError as reason:
                if last:
                    raise lost(reason, self.url) from reason
                await asyncio.sleep(pause(attempt, None))
                continue
            if answer.is_success:
                return object_of(answer, self.url)
            if last or answer.status_code not in RETRIED:
                raise refusal_of(answer, self.url)
            await asyncio.sleep(pause(attempt, answer.headers.get("retry-after")))
        raise AssertionError("the last try returns or raises")
