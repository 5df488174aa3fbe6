"""A server's edits, one call each."""

import time
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
from limner.runtime.edit import Edit
from limner.runtime.errors import InputError
from limner.runtime.recipe import Recipe
from limner.runtime.timing import Progress

__all__ = ["Client"]


class Client:
    """A server, as an `Editor` whose edits are made elsewhere. Safe to use from several threads."""

    def __init__(
        self,
        url: str,  # "http://host:8080"
        key: str | None = None,
        *,
        retries: int = 4,  # of a request that met a busy server, or none
        timeout: float = 600.0,  # seconds
        model: str = "",  # of every recipe; needed where several bundles have the method
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise InputError("server", repr(url), "http://... or https://...")
        self.url, self.retries, self.model = url.rstrip("/"), retries, model
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        limit = httpx2.Timeout(timeout, connect=10.0)
        self._http = httpx2.Client(base_url=self.url, headers=headers, timeout=limit, follow_redirects=False)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Let the connections go."""
        self._http.close()

    def edit(
        self,
        recipe: Recipe,
        progress: Progress | None = None,  # with one, the edit is a job that tells how far it is
        *,
        given: NDArray[np.uint8] | None = None,  # of a picture without a path
        compare: bool = True,
    ) -> Edit:
        """Run a recipe there. Raises ServerError for what the server refuses, InputError for what is wrong here."""
        asked = request_of(recipe, given, compare, self.model)
        answer = self._post("/v1/edits", asked) if progress is None else self._job(asked, progress)
        return edit_of(asked, answer, self.again)

    def models(self) -> list[str]:
        """Every name that `model` may have."""
        return [str(one["id"]) for one in self._json("GET", "/v1/models")["data"]]

    def methods(self) -> list[Mapping[str, Any]]:
        """The methods with the JSON schemas of their recipes."""
        return list(self._json("GET", "/v1/methods")["data"])

    def again(self, asked: Asked) -> Mapping[str, Any]:
        """The answer to a request, as JSON."""
        return self._post("/v1/edits", asked)

    def _job(self, asked: Asked, progress: Progress) -> Mapping[str, Any]:
        followed = Followed(self._post("/v1/jobs", job_of(asked, progress)), progress)
        job = followed.job["id"]
        try:
            self._follow(followed, job)
        except BaseException:
            with suppress(Exception):
                self._http.post(f"/v1/jobs/{job}/cancel", timeout=5.0)
            raise
        return self._json("GET", f"/v1/jobs/{job}/result")

    def _follow(self, followed: Followed, job: str) -> None:
        """Pass the job's events on until its end, over as many connections as that takes."""
        attempt = 0
        while not followed.over:
            try:
                with self._http.stream("GET", f"/v1/jobs/{job}/events", timeout=60.0) as stream:
                    if stream.status_code != 200:
                        stream.read()
                        raise refusal_of(stream, self.url)
                    for line in stream.iter_lines():
                        if followed.line(line):
                            attempt = 0
            except (httpx2.TransportError, ServerError) as reason:  # noqa: PERF203 - a try a connection
                if attempt >= self.retries or (isinstance(reason, ServerError) and reason.status not in RETRIED):
                    raise lost(reason, self.url) from reason
                time.sleep(pause(attempt, None))
                attempt += 1

    def _post(self, path: str, asked: Asked) -> Mapping[str, Any]:
        headers = {"Idempotency-Key": asked.once}
        return self._json("POST", path, data=asked.data, files=asked.files or None, headers=headers)

    def _json(self, method: str, path: str, **more: Any) -> Mapping[str, Any]:
        for attempt in range(self.retries + 1):
            last = attempt == self.retries
            try:
                answer = self._http.request(method, path, **more)
            except httpx2.TransportError as reason:
                if last:
                    raise lost(reason, self.url) from reason
                time.sleep(pause(attempt, None))
                continue
            if answer.is_success:
                return object_of(answer, self.url)
            if last or answer.status_code not in RETRIED:
                raise refusal_of(answer, self.url)
            time.sleep(pause(attempt, answer.headers.get("retry-after")))
        raise AssertionError("the last try returns or raises")
