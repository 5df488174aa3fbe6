"""One replica: a process with graphs on some machine, which makes edits as a server's threads do.

Bundles are loaded when they are asked for and go when others need their place (Ray Serve's multiplexing): a bundle's
name there is its folder and digest, so that one that was exchanged is another one. What fails travels as data: no
exception of ours has to be read by another process.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from limner.runtime.errors import LimnerError, StoppedError
from limner.runtime.graphs.tickets import Ticket
from limner.runtime.server.bundles import Hosted, open_bundle, warm_bundle
from limner.runtime.server.errors import Refusal, as_refusal
from limner.runtime.server.metrics import Metrics
from limner.runtime.server.orders import Order, Watching
from limner.runtime.server.running import Runner
from limner.runtime.server.settings import Cluster, ServerSettings

__all__ = ["Loaded", "Replica", "key_of"]

logger = logging.getLogger("limner.server")
TELL_S = 0.05  # how often an edit says how far it is
Event = tuple[str, Any]
"""("told", (step, steps)), ("shown", (number, file)); last ("answer", {}), ("stopped", reason) or ("refused", what)."""


def key_of(hosted: Hosted) -> str:
    """The name of a bundle on replicas."""
    return f"{hosted.editor.bundle.digest}:{hosted.folder.absolute()}"


class Loaded:
    """A bundle on a replica; Ray Serve calls `__del__` when it has to go."""

    def __init__(self, hosted: Hosted) -> None:
        self.hosted = hosted

    def __del__(self) -> None:
        self.hosted.replace()  # closed when the last edit on it has ended


class Replica:
    """Makes edits. `hosted` comes from a subclass, which Ray Serve's decorator keeps within its number of bundles."""

    def __init__(self, settings: ServerSettings, cluster: Cluster) -> None:
        lanes = settings.lanes or (max(1, int(cluster.cpus)) if settings.provider == "cpu" else None)
        self.settings = replace(settings, lanes=lanes)
        self.all: list[Hosted] = []
        self.runner = Runner(settings.limits, Metrics(self), settings.uploads)

    async def hosted(self, key: str) -> Loaded:
        """The bundle of that name, loaded."""
        raise NotImplementedError

    async def opened(self, key: str) -> Loaded:
        """Load a bundle and measure its graphs. Raises Refusal 503 where another one lies in the folder by now."""
        digest, _, folder = key.partition(":")
        one = await asyncio.to_thread(open_bundle, self.settings, Path(folder))
        if one.editor.bundle.digest != digest:
            raise Refusal(503, "the bundle was just replaced", "model", "bundle_replaced", 1)
        await asyncio.to_thread(warm_bundle, self.settings, one)
        self.all = [other for other in self.all if not other.closed] + [one]
        return Loaded(one)

    async def load(self, key: str) -> None:
        """Have a bundle ready."""
        await self.hosted(key)

    async def perform(self, order: Order, key: str, timed: bool, partial: int) -> AsyncIterator[Event]:
        """The events of one edit; an iterator that is closed stops it."""
        loop, queue, last = asyncio.get_running_loop(), asyncio.Queue[Event | None](), [0.0]

        def put(item: Event | None) -> None:
            loop.call_soon_threadsafe(queue.put_nowait, item)

        def told(step: int, steps: int) -> None:  # in the edit's thread
            if step == steps or time.monotonic() - last[0] > TELL_S:
                last[0] = time.monotonic()
                put(("told", (step, steps)))

        watching = Watching(partial, told, lambda number, data: put(("shown", (number, data))))
        task = asyncio.ensure_future(self._answer(order, key, timed, watching))
        task.add_done_callback(lambda _: put(None))
        try:
            while (item := await queue.get()) is not None:
                yield item
            yield await task
        finally:
            task.cancel()

    async def _answer(self, order: Order, key: str, timed: bool, watching: Watching) -> Event:
        try:
            loaded = await self.hosted(key)
            ticket = Ticket.within(self.settings.limits.seconds) if timed else Ticket()
            return "answer", await self.runner.run(loaded.hosted, order, None, ticket, True, watching)
        except StoppedError as reason:
            return "stopped", reason.reason
        except (Refusal, LimnerError, OSError) as reason:
            found = as_refusal(reason, order.request)
            return "refused", (found.status, found.message, found.param, found.code, found.retry_after)
