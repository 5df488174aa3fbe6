"""An edit of a request: a place to run, a thread of its own, and its end when the client leaves or time is up."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from starlette.requests import Request

from limner.runtime.bundle.loading import Bundle
from limner.runtime.completing import completed
from limner.runtime.errors import StoppedError
from limner.runtime.graphs.tickets import Ticket
from limner.runtime.recipe import Recipe
from limner.runtime.server.bundles import Hosted, Hosts
from limner.runtime.server.errors import Refusal, refused
from limner.runtime.server.metrics import Metrics
from limner.runtime.server.orders import Order, Watching, perform
from limner.runtime.server.settings import Limits
from limner.runtime.settings import SamplingParameters

__all__ = ["LOOK_S", "Engine", "Runner", "check_recipe"]

T = TypeVar("T")
LOOK_S = 0.1  # how often it is looked whether the client is still there


class Engine(Protocol):
    """What makes edits: threads of this process, or machines of a cluster."""

    async def places(self) -> int:
        """How many edits run at one time."""
        ...

    async def run(
        self,
        hosted: Hosted,
        order: Order,
        request: Request | None = None,  # whose client may leave
        ticket: Ticket | None = None,
        patient: bool = False,  # waits for a place however many do
        watching: Watching | None = None,
    ) -> dict[str, Any]:
        """The answer to an order. Raises Refusal 429 without a place to wait, StoppedError for one that was stopped."""

    def stop(self, ticket: Ticket) -> None:
        """Stop an edit that runs; one that has not begun does not."""

    async def warm(self, hosts: Hosts) -> None:
        """Come back when every bundle can be used at once."""

    async def end(self, within: float) -> None:
        """Take nothing new; let what runs end within so many seconds, and stop the rest."""


class Runner:
    """Places for so many edits at one time in threads of this process, and for so many that wait for one."""

    def __init__(self, limits: Limits, metrics: Metrics, uploads: Path) -> None:
        self.limits, self.metrics, self.uploads = limits, metrics, uploads
        self._threads = ThreadPoolExecutor(limits.running, thread_name_prefix="edit")
        self._places = asyncio.Semaphore(limits.running)
        self._waiting = 0
        self._tickets: dict[Ticket, Hosted] = {}
        self._lock = threading.Lock()
        self._ending = False

    @property
    def busy(self) -> int:
        """Edits that run."""
        return len(self._tickets)

    async def places(self) -> int:
        """Those of the limits."""
        return self.limits.running

    async def warm(self, hosts: Hosts) -> None:
        """Load and measure the graphs."""
        await asyncio.to_thread(hosts.warm)

    async def run(
        self,
        hosted: Hosted,
        order: Order,
        request: Request | None = None,
        ticket: Ticket | None = None,
        patient: bool = False,
        watching: Watching | None = None,
    ) -> dict[str, Any]:
        """The answer to an order, made in a thread as one edit on `hosted`; see Engine."""
        make = partial(perform, hosted.editor, order, self.uploads, self.limits, watching)
        return await self.work(hosted, make, request, ticket, patient)

    async def work(
        self,
        hosted: Hosted,
        make: Callable[[], T],  # on the editor of `hosted`
        request: Request | None = None,
        ticket: Ticket | None = None,
        patient: bool = False,
    ) -> T:
        """What `make` returns, called in a thread as one edit on `hosted`; see Engine."""
        if self._ending:
            raise StoppedError("end")
        if not patient and self._places.locked() and self._waiting >= self.limits.waiting:
            raise Refusal(429, "too many requests wait already", None, "overloaded", 2)
        with hosted:  # from here on: a bundle that is replaced stays until this edit has ended
            await self._waited(request)
            ticket = Ticket.within(self.limits.seconds) if ticket is None else ticket
            try:
                return await self._run(hosted, make, request, ticket)
            finally:
                self._places.release()

    async def _waited(self, request: Request | None) -> None:
        self._waiting += 1
        self.metrics.waiting.set(self._waiting)
        try:
            await self._place(request)
        finally:
            self._waiting -= 1
            self.metrics.waiting.set(self._waiting)

    def stop(self, ticket: Ticket) -> None:
        """Stop an edit that runs; one that has not begun does not."""
        with self._lock:
            hosted = self._tickets.get(ticket)
        ticket.stopped = ticket.stopped or "cancelled"
        if hosted is not None:
            hosted.sessions.stop(ticket)

    async def _place(self, request: Request | None) -> None:
        """Wait for a place as long as the client does."""
        place = asyncio.ensure_future(self._places.acquire())
        try:
            while not (await asyncio.wait([place], timeout=LOOK_S))[0]:
                if self._ending:
                    raise StoppedError("end")
                if request is not None and await request.is_disconnected():
                    raise StoppedError("cancelled")
        except BaseException:
            if not place.cancel() and not place.cancelled() and place.exception() is None:
                self._places.release()  # it came at the last moment
            raise

    async def _run(self, hosted: Hosted, make: Callable[[], T], request: Request | None, ticket: Ticket) -> T:
        def whole() -> T:
            with hosted.sessions.edit(ticket):
                ticket.check()
                return make()

        with self._lock:
            self._tickets[ticket] = hosted
            self.metrics.running.set(len(self._tickets))
        future = asyncio.get_running_loop().run_in_executor(self._threads, whole)
        try:
            while not (await asyncio.wait([future], timeout=LOOK_S))[0]:
                if request is not None and await request.is_disconnected():
                    hosted.sessions.stop(ticket)
            return await future
        except asyncio.CancelledError:
            hosted.sessions.stop(ticket)
            raise
        finally:
            with self._lock:
                self._tickets.pop(ticket, None)
                self.metrics.running.set(len(self._tickets))

    async def end(self, within: float) -> None:
        """Take nothing new; let what runs end within so many seconds, and stop the rest."""
        self._ending = True
        loop = asyncio.get_running_loop()
        until = loop.time() + within
        while self.busy and loop.time() < until:
            await asyncio.sleep(0.05)
        with self._lock:
            left = list(self._tickets.items())
        for ticket, hosted in left:
            hosted.sessions.stop(ticket, "end")
        while self.busy and loop.time() < until + 30.0:
            await asyncio.sleep(0.05)
        self._threads.shutdown(wait=False, cancel_futures=True)


def check_recipe(recipe: Recipe, bundle: Bundle, limits: Limits) -> None:
    """Refuse a recipe that asks for more than the server gives, the bundle's presets included, naming the field."""
    recipe = completed(bundle, recipe)
    _most("recipe.prompts", len(recipe.prompts), limits.texts, "texts")
    parameters: Any = recipe.parameters
    _most("recipe.parameters.steps", getattr(parameters, "steps", 0), limits.steps, "steps")
    if isinstance(parameters, SamplingParameters):
        for name in ("height", "width"):
            _most(f"recipe.parameters.{name}", getattr(parameters, name) or 0, limits.side, "pixels")
    for name in ("refine_steps", "feature_steps"):
        _most(f"recipe.inversion.{name}", getattr(recipe.inversion, name, None) or 0, limits.steps, "steps")


def _most(field: str, given: int, most: int, what: str) -> None:
    if given > most:
        raise refused(field, given, f"at most {most} {what} on this server", code="too_much")
