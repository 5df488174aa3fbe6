"""`Sessions` that many edits share, each in a thread of its own: who calls next, and what is called together.

What an edit asks of a graph waits until a lane is free. The edit that has had least of the lanes goes first, and while
ordinary edits come, long ones leave them a lane (`graphs.reserve`), so that a short one is through soon beside long
ones. Where a graph is worth it and no other lane is free, waiting calls of other edits that fit together go through it
as one (`graphs.joined`): edits of any method at any step. An edit stops between two calls, when it is told to or past
its deadline; what fails or is not finite stays with the edit that it belongs to.

Rows come out of a joined call with the same bits as alone on the CPU, but for gradients, which differ by rounding.
"""

import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limner.runtime.bundle.loading import Bundle
from limner.runtime.errors import StoppedError
from limner.runtime.graphs.joined import Joinable, joinable, joined_inputs, own_outputs
from limner.runtime.graphs.reserve import Reserve
from limner.runtime.graphs.sessions import Sessions
from limner.runtime.graphs.tickets import Ticket

__all__ = ["JoinLimit", "ScheduledSessions"]

Arrays = dict[str, NDArray[Any]]
WINDOW = 0.2  # of its graph's time, that a call which may be joined waits for edits that have none waiting
WINDOW_S = 0.02  # and at most


@dataclass(frozen=True)
class JoinLimit:
    """How much goes through a graph at once."""

    rows: int  # together, at most
    places: int  # of the largest input, all rows together: larger pictures are fewer


@dataclass(eq=False)
class Call:
    """One call that waits."""

    graph: str
    wanted: Sequence[str]
    inputs: Mapping[str, NDArray[Any]]
    fits: Joinable
    ticket: Ticket
    began: float = field(default_factory=time.monotonic)
    found: Arrays | None = None
    error: BaseException | None = None

    def answer(self, found: Arrays | None = None, error: BaseException | None = None) -> None:
        """Let the edit go on."""
        self.found, self.error = found, error
        self.ticket.changed.set()

    @property
    def answered(self) -> bool:
        """Whether the edit may go on."""
        return self.found is not None or self.error is not None


class ScheduledSessions(Sessions):
    """The graphs of one bundle for many edits at a time."""

    def __init__(
        self,
        bundle: Bundle,
        provider: str = "cpu",
        threads: int | None = None,  # of each lane
        provider_options: Mapping[str, str] | None = None,
        *,
        lanes: int = 1,  # graph calls at one time
        join: Mapping[str, JoinLimit] | None = None,  # graphs whose calls go together; none if not said
    ) -> None:
        super().__init__(bundle, provider, threads, provider_options)
        self.lanes = lanes
        self.join = dict(join or {})
        self.counts: Counter[str] = Counter()  # "GRAPH.runs", "GRAPH.calls", "GRAPH.rows", "GRAPH.alone"
        self.seconds: dict[str, float] = {}  # graph -> of lanes
        self._tickets: set[Ticket] = set()
        self._queue: list[Call] = []
        self._running: list[list[Call]] = []  # what each busy lane runs
        self._reserve = Reserve(lanes)
        self._ended = False
        self._changed = threading.Condition()
        self._local = threading.local()
        self._threads = [threading.Thread(target=self._serve, daemon=True, name=f"lane-{k}") for k in range(lanes)]
        for thread in self._threads:
            thread.start()

    @property
    def device(self) -> None:
        """Arrays that stay on a device would go past what is scheduled."""
        return None

    @property
    def waiting(self) -> int:
        """Calls that wait for a lane."""
        return len(self._queue)

    @contextmanager
    def edit(self, ticket: Ticket | None = None) -> Iterator[Ticket]:
        """What this thread calls inside belongs to one edit."""
        ticket = Ticket() if ticket is None else ticket
        before = getattr(self._local, "ticket", None)
        with self._changed:
            ticket.spent = min((other.spent for other in self._tickets), default=0.0)
            self._tickets.add(ticket)
        self._local.ticket = ticket
        try:
            yield ticket
        finally:
            self._local.ticket = before
            with self._changed:
                self._tickets.discard(ticket)
                self._reserve.ended(ticket)
                self._changed.notify_all()

    def stop(self, ticket: Ticket, reason: str = "cancelled") -> None:
        """Stop an edit from any thread: a call that waits is given up, a later one is refused."""
        with self._changed:
            ticket.stopped = ticket.stopped or reason
            self._give_up([call for call in self._queue if call.ticket is ticket], reason)

    def call(self, graph: str, wanted: Sequence[str], inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        """Wait for a lane, and for what comes out of it. Raises StoppedError for an edit that is not to go on."""
        ticket: Ticket = getattr(self._local, "ticket", None) or Ticket()
        ticket.check()
        self._session(graph)  # loaded by the edit, so that what fails to load is its own
        call = Call(graph, wanted, inputs, joinable(graph, self.bundle.graph(graph), inputs), ticket)
        with self._changed:
            if self._ended:
                raise StoppedError("end")
            ticket.changed.clear()
            self._queue.append(call)
            self._changed.notify_all()
        ticket.changed.wait(ticket.left)
        with self._changed:
            if not call.answered and call in self._queue:  # past its deadline
                self._give_up([call], "deadline")
        ticket.changed.wait()  # a call that runs is waited for: its inputs are in use
        if call.error is not None:
            raise call.error
        ticket.check()
        assert call.found is not None
        return call.found

    def close(self) -> None:
        """Give up what waits, wait for what runs, and drop the loaded graphs; there is no way back."""
        with self._changed:
            self._ended = True
            self._give_up(list(self._queue), "end")
        for thread in self._threads:
            thread.join()
        super().close()

    def _give_up(self, calls: Sequence[Call], reason: str) -> None:
        """Answer waiting calls with StoppedError; the lock is held."""
        for call in calls:
            self._queue.remove(call)
            call.answer(error=StoppedError(reason))
        self._changed.notify_all()

    def once(self, graph: str, wanted: Sequence[str], inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        """Run checked inputs now, past all that wait."""
        return super().call(graph, wanted, inputs)

    # --- lanes ------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        while (calls := self._next()) is not None:
            began = time.monotonic()
            self._run(calls)
            took, rows = time.monotonic() - began, sum(call.fits.rows for call in calls)
            with self._changed:
                self.seconds[calls[0].graph] = self.seconds.get(calls[0].graph, 0.0) + took
                for call in calls:
                    part = took * call.fits.rows / max(rows, 1)
                    call.ticket.spent += part
                    call.ticket.had += part
                self._running.remove(calls)
                self._changed.notify_all()

    def _next(self) -> list[Call] | None:
        """What a lane runs next, together; None at the end."""
        with self._changed:
            while not self._ended:
                calls, pause = self._chosen()
                if calls and pause is None:
                    for call in calls:
                        self._queue.remove(call)
                    self._running.append(calls)
                    return calls
                self._changed.wait(pause)
            return None

    def _chosen(self) -> tuple[list[Call], float | None]:
        """The call of the edit that has had least with what fits, and the seconds to wait for something better."""
        busy = sum(any(self._reserve.is_long(call.ticket) for call in calls) for calls in self._running)
        for_long = self._reserve.lanes(self._tickets) - busy
        allowed = [call for call in self._queue if for_long > 0 or not self._reserve.is_long(call.ticket)]
        if not allowed:
            return [], self._reserve.left if self._queue else None
        first = min(allowed, key=lambda call: (call.ticket.spent, call.began))
        limit = self.join.get(first.graph)
        if limit is None or first.fits.key is None:
            return [first], None
        fitting = [first, *(call for call in allowed if call is not first and call.fits.key == first.fits.key)]
        free = self.lanes - len(self._running)
        if self._reserve.is_long(first.ticket):
            free = min(free, for_long)
        most = min(limit.rows, limit.places // max(first.fits.places, 1))
        taken = _within(fitting[: -(-len(fitting) // free)], most)
        running = sum(len(calls) for calls in self._running)
        everyone = len(self._queue) + running >= len(self._tickets)
        if free > 1 or everyone or len(taken) < len(fitting):
            return taken, None
        left = first.began + self._window(first.graph) - time.monotonic()
        return taken, left if left > 0.0 else None

    def _window(self, graph: str) -> float:
        """Seconds that a call of this graph may wait for others."""
        runs = self.counts[f"{graph}.runs"]
        return min(WINDOW * self.seconds.get(graph, 0.0) / runs, WINDOW_S) if runs else WINDOW_S

    def _run(self, calls: Sequence[Call]) -> None:
        """Run calls as one and answer them; if that fails, each alone finds out whose fault it is."""
        graph, total = calls[0].graph, sum(call.fits.rows for call in calls)
        with self._changed:
            self.counts.update({f"{graph}.runs": 1, f"{graph}.calls": len(calls), f"{graph}.rows": total})
        try:
            if len(calls) == 1:
                calls[0].answer(self.once(graph, calls[0].wanted, calls[0].inputs))
            else:
                self._run_joined(calls)
        except BaseException as reason:  # whatever it is, it belongs to an edit and not to the lane
            if len(calls) == 1:
                calls[0].answer(error=reason)
                return
            with self._changed:
                self.counts[f"{graph}.alone"] += len(calls)
            for call in calls:
                self._run([call])

    def _run_joined(self, calls: Sequence[Call]) -> None:
        graph, rows = calls[0].graph, [call.fits.rows for call in calls]
        meta = self.bundle.graph(graph)
        wanted = list(dict.fromkeys(name for call in calls for name in call.wanted))
        outputs = self.once(graph, wanted, joined_inputs(meta, [call.inputs for call in calls], rows))
        firsts = np.cumsum([0, *rows[:-1]]).tolist()
        parts = [
            own_outputs(meta, outputs, call.inputs, call.wanted, first, call.fits.rows)
            for call, first in zip(calls, firsts, strict=True)
        ]
        for call, part in zip(calls, parts, strict=True):
            call.answer(part)


def _within(calls: Sequence[Call], most: int) -> list[Call]:
    """The first call, and of the others those that go with it in so many rows."""
    taken, rows = [calls[0]], calls[0].fits.rows
    for call in calls[1:]:
        if rows + call.fits.rows <= most:
            taken.append(call)
            rows += call.fits.rows
    return taken
