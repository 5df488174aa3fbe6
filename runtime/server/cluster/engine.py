"""The engine of a server in front of replicas: each edit is a stream of one of them.

A replica that goes down takes its edits with it, and they are made again on another: the same recipe gives the same
pixels, so nobody sees more than the wait. Ray Serve itself tries nothing again.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import Any

from ray.exceptions import RayError, TaskCancelledError
from ray.serve.exceptions import BackPressureError, RayServeException, RequestCancelledError
from starlette.requests import Request

from limner.runtime.errors import StoppedError
from limner.runtime.graphs.tickets import Ticket
from limner.runtime.server.bundles import Hosted, Hosts
from limner.runtime.server.cluster.replica import key_of
from limner.runtime.server.errors import Refusal
from limner.runtime.server.metrics import Metrics
from limner.runtime.server.orders import Order, Watching
from limner.runtime.server.running import LOOK_S
from limner.runtime.server.settings import Cluster, Limits

__all__ = ["ClusterEngine"]

logger = logging.getLogger("limner.server")
ASK_S = 2.0  # how often it is asked how many replicas there are
PAUSE_S, LONGEST_PAUSE_S = 0.2, 5.0  # before the second try, and twice as long before each further one
Asked = tuple[Order, str, bool, int]


class ClusterEngine:
    """Edits on replicas."""

    def __init__(
        self,
        handle: Any,
        limits: Limits,
        cluster: Cluster,
        metrics: Metrics,
        count: Callable[[], int],  # of replicas that run; asks the cluster
    ) -> None:
        self.handle, self.limits, self.cluster, self.metrics, self.count = handle, limits, cluster, metrics, count
        self._replicas, self._asked = cluster.replicas_least, -ASK_S
        self._tasks: dict[Ticket, asyncio.Task[dict[str, Any]]] = {}
        self._ending = False

    async def places(self) -> int:
        """Edits at one time on the replicas of now; each keeps a place for edits that somebody waits for."""
        if time.monotonic() - self._asked > ASK_S:
            self._asked = time.monotonic()
            with contextlib.suppress(RayError, RayServeException, KeyError):
                self._replicas = max(1, await asyncio.to_thread(self.count))
        return 1 + (self.limits.running - 1) * self._replicas

    async def warm(self, hosts: Hosts) -> None:
        """Have every bundle loaded on a replica."""
        for one in hosts.all:
            await self.handle.options(multiplexed_model_id=key_of(one)).load.remote(key_of(one))

    async def run(
        self,
        hosted: Hosted,
        order: Order,
        request: Request | None = None,
        ticket: Ticket | None = None,
        patient: bool = False,
        watching: Watching | None = None,
    ) -> dict[str, Any]:
        """The answer to an order; see Engine."""
        if self._ending:
            raise StoppedError("end")
        most = self.limits.running * self.cluster.replicas_most + self.limits.waiting
        if not patient and len(self._tasks) >= most:
            raise Refusal(429, "too many requests wait already", None, "overloaded", 2)
        timed, ticket = ticket is None, ticket or Ticket()
        asked = order, key_of(hosted), timed, 0 if watching is None else watching.partial
        with hosted:
            task = asyncio.ensure_future(self._tried(asked, watching or Watching()))
            self._tasks[ticket] = task
            self.metrics.running.set(len(self._tasks))
            try:
                return await self._watched(task, ticket, request)
            finally:
                del self._tasks[ticket]
                self.metrics.running.set(len(self._tasks))

    def stop(self, ticket: Ticket) -> None:
        """Stop an edit."""
        self._stop(ticket, "cancelled")

    async def end(self, within: float) -> None:
        """Take nothing new; let what runs end within so many seconds, and stop the rest."""
        self._ending = True
        if self._tasks:
            await asyncio.wait(list(self._tasks.values()), timeout=within)
        for ticket in list(self._tasks):
            self._stop(ticket, "end")
        if self._tasks:
            await asyncio.wait(list(self._tasks.values()), timeout=LOOK_S)

    def _stop(self, ticket: Ticket, reason: str) -> None:
        ticket.stopped = ticket.stopped or reason
        if (task := self._tasks.get(ticket)) is not None:
            task.cancel()

    async def _watched(
        self, task: "asyncio.Task[dict[str, Any]]", ticket: Ticket, request: Request | None
    ) -> dict[str, Any]:
        try:
            while not (await asyncio.wait([task], timeout=LOOK_S))[0]:
                if request is not None and await request.is_disconnected():
                    self._stop(ticket, "cancelled")
            return await task
        except asyncio.CancelledError:
            task.cancel()
            if ticket.stopped and task.cancelled():
                raise StoppedError(ticket.stopped) from None
            raise

    async def _tried(self, asked: Asked, watching: Watching) -> dict[str, Any]:
        """The answer of whichever replica lives long enough."""
        for attempt in range(self.cluster.attempts):
            if attempt:
                await asyncio.sleep(min(PAUSE_S * 2.0 ** min(attempt - 1, 10), LONGEST_PAUSE_S))
            try:
                found = await self._once(asked, watching)
            except BackPressureError as reason:
                raise Refusal(429, "too many requests wait already", None, "overloaded", 2) from reason
            except (RequestCancelledError, TaskCancelledError) as reason:
                raise StoppedError("cancelled") from reason
            except (RayError, RayServeException) as reason:
                logger.warning("%s: a replica went down: %s", asked[0].request, str(reason).splitlines()[0][:200])
                continue
            if found is not None:
                return found
            logger.warning("%s: a replica ended before its edit", asked[0].request)
        message = f"{self.cluster.attempts} machines went down while they made this edit"
        raise Refusal(503, message, None, "no_replica", 5)

    async def _once(self, asked: Asked, watching: Watching) -> dict[str, Any] | None:
        """The answer of one replica; None where it ended before."""
        stream = self.handle.options(stream=True, multiplexed_model_id=asked[1]).perform.remote(*asked)
        try:
            async for kind, value in stream:
                if kind == "told":
                    watching.told(*value)
                elif kind == "shown":
                    await asyncio.to_thread(watching.shown, *value)
                elif kind == "answer":
                    answer: dict[str, Any] = value
                    return answer
                elif kind == "refused":
                    raise Refusal(*value)
                elif value != "end":
                    raise StoppedError(value)
        except asyncio.CancelledError:
            with contextlib.suppress(Exception):
                stream.cancel()
            raise
        return None
