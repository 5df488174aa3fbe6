"""Edits of the page: in the server's threads, with progress, pictures on the way and a stop."""

import asyncio
import threading
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from limner.runtime.edit import Edit
from limner.runtime.editor import Editor
from limner.runtime.errors import InputError
from limner.runtime.graphs.tickets import Ticket
from limner.runtime.methods.registry import Method
from limner.runtime.pictures.images import checked_u8
from limner.runtime.server.bundles import Hosted
from limner.runtime.server.running import Runner
from limner.runtime.server.state import State
from limner.runtime.timing import Previews, Progress

__all__ = ["Done", "Edits", "Shown", "Told"]

T = TypeVar("T")
PREVIEWS = 4
MOST_LIVE = 24  # edits whose strength changes without a run, of all visitors


@dataclass(frozen=True)
class Told:
    """How far it is."""

    step: int
    steps: int


@dataclass(frozen=True, eq=False)
class Shown:
    """A picture on the way, uint8 [H,W,3]."""

    image: NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Done(Generic[T]):
    """What came out."""

    result: T


async def latest(heard: asyncio.Queue[Told | Shown | None]) -> Told | Shown | None:
    """The last of what was heard meanwhile, a picture before all else: a page is slower than an edit."""
    found = [await heard.get()]
    while not heard.empty():
        found.append(heard.get_nowait())
    if None in found:
        return None
    return next((one for one in reversed(found) if isinstance(one, Shown)), found[-1])


class Edits:
    """What runs for the visitors of the page, one edit a tab at one time."""

    def __init__(self, state: State, runner: Runner) -> None:
        self.state, self.runner = state, runner
        self._tickets: dict[str, Ticket] = {}
        self._live: OrderedDict[tuple[str, int], tuple[Hosted, Edit]] = OrderedDict()
        self._lock = threading.Lock()

    def hosted(self, model: str) -> tuple[Hosted, Method]:
        """The bundle and method of a model's name; Refusal for one that is not served any more."""
        hosted, method = self.state.hosts.find(model)
        if method is None:
            raise InputError("method", repr(model), "a method of a bundle")
        return hosted, method

    async def watched(
        self, tab: str, model: str, make: Callable[[Editor, Progress], T]
    ) -> AsyncIterator[Told | Shown | Done[T]]:
        """Run `make` as one edit; what is heard of it, and at the end its result. Raises what it raises."""
        hosted, _ = self.hosted(model)
        loop = asyncio.get_running_loop()
        heard: asyncio.Queue[Told | Shown | None] = asyncio.Queue()

        def tell(one: Told | Shown) -> None:
            loop.call_soon_threadsafe(heard.put_nowait, one)

        progress = Previews(
            PREVIEWS, lambda step, steps, image: tell(Shown(checked_u8(image))),
            lambda step, steps, losses: tell(Told(step, steps)),
        )  # fmt: skip
        ticket = Ticket.within(self.state.limits.seconds)
        task = asyncio.create_task(self.runner.work(hosted, lambda: make(hosted.editor, progress), ticket=ticket))
        task.add_done_callback(lambda _: heard.put_nowait(None))
        self.stop(tab)
        self._tickets[tab] = ticket
        try:
            while (one := await latest(heard)) is not None:
                yield one
            result = task.result()
        except BaseException as reason:
            self.state.metrics.failed(model, reason)
            raise
        finally:
            if not task.done():
                self.runner.stop(ticket)
            if self._tickets.get(tab) is ticket:
                del self._tickets[tab]
        yield Done(result)

    async def alone(self, model: str, make: Callable[[Editor], T]) -> T:
        """The same for something short that nobody watches."""
        hosted, _ = self.hosted(model)
        return await self.runner.work(
            hosted, lambda: make(hosted.editor), ticket=Ticket.within(self.state.limits.seconds)
        )

    def stop(self, tab: str) -> bool:
        """Stop what runs for a tab; whether anything did."""
        ticket = self._tickets.get(tab)
        if ticket is not None:
            self.runner.stop(ticket)
        return ticket is not None

    def remember(self, desk: str, number: int, model: str, edit: Edit) -> None:
        """Keep an edit at hand, for its strength."""
        with self._lock:
            self._live[desk, number] = self.hosted(model)[0], edit
            self._live.move_to_end((desk, number))
            while len(self._live) > MOST_LIVE:
                self._live.popitem(last=False)

    def live(self, desk: str, number: int) -> Edit | None:
        """The edit of a version, where it is still at hand and its bundle is still served."""
        with self._lock:
            hosted, edit = self._live.get((desk, number), (None, None))
            return edit if hosted is not None and not (hosted.closed or hosted.replaced) else None
