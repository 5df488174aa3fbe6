"""What does the jobs: takes one where there is a place for an edit, says how far it is, and keeps what comes out."""

import asyncio
import logging
import shutil
import threading
import time
from contextlib import suppress
from functools import partial
from typing import Any

from limner.runtime.errors import StoppedError
from limner.runtime.graphs.tickets import Ticket
from limner.runtime.recipe import Recipe
from limner.runtime.server.errors import Refusal, as_refusal
from limner.runtime.server.jobs.store import BEAT_S, Job, JobStore
from limner.runtime.server.orders import Order, Watching
from limner.runtime.server.state import State

__all__ = ["Worker"]

logger = logging.getLogger("limner.server")
LOOK_S = 0.5  # how often it looks for jobs that other servers accepted
TELL_S = 0.25  # how often a job says how far it is
PASSING = ("no_replica", "bundle_replaced")  # refusals that say nothing of the job: it is tried again
MOST_ATTEMPTS = 50  # of a job whose server goes down each time: it may be the reason


class Worker:
    """The jobs of one server."""

    def __init__(self, state: State, store: JobStore) -> None:
        self.state, self.store = state, store
        self.wake = asyncio.Event()
        self._running: set[asyncio.Task[None]] = set()
        self._ending = False

    async def work(self) -> None:
        """Take jobs until the end; a database that does not answer is asked again."""
        while not self._ending:
            if (reason := (await asyncio.gather(self._take(), return_exceptions=True))[0]) is not None:
                logger.error("jobs: %s", str(reason).splitlines()[0][:200])
                await asyncio.sleep(BEAT_S)

    async def _take(self) -> None:
        """Take jobs while nothing fails."""
        looked = 0.0
        while not self._ending:
            if time.monotonic() - looked > BEAT_S:
                looked = time.monotonic()
                if freed := await asyncio.to_thread(self.store.recover):
                    logger.warning("%d jobs of servers that are gone are taken up", freed)
                for name in await asyncio.to_thread(self.store.forget):
                    shutil.rmtree(self.store.place(name), ignore_errors=True)
            most = max(1, await self.state.engine.places() - 1)  # one place is left to edits that somebody waits for
            job = await asyncio.to_thread(self.store.take) if len(self._running) < most else None
            if job is not None:
                task = asyncio.create_task(self._do(job))
                self._running.add(task)
                task.add_done_callback(self._over)
                continue
            self.wake.clear()
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self.wake.wait(), LOOK_S)

    async def end(self) -> None:
        """Take no more; those that run are ended by the runner, and go back."""
        self._ending = True
        self.wake.set()
        await asyncio.gather(*self._running, return_exceptions=True)

    def _over(self, task: "asyncio.Task[None]") -> None:
        self._running.discard(task)
        self.wake.set()
        if not task.cancelled() and (reason := task.exception()) is not None:
            logger.error("a job's end was not kept; it will be done again", exc_info=reason)

    async def _do(self, job: Job) -> None:
        ticket, told = Ticket(), Told()
        beats = asyncio.create_task(self._beats(job, ticket, told))
        result: dict[str, Any] | None = None
        error: dict[str, Any] | None = None
        state = "failed"
        try:
            result = await self._edit(job, ticket, told)
            state = "succeeded"
        except StoppedError as reason:
            if reason.reason == "end":
                await asyncio.to_thread(self.store.give_back, job.id)
                return
            state, error = ("cancelled", None) if reason.reason == "cancelled" else (state, as_refusal(reason).body())
        except Refusal as reason:
            if reason.code in PASSING:
                await asyncio.sleep(BEAT_S)  # it counts as an attempt
                await asyncio.to_thread(self.store.give_back, job.id)
                return
            error = reason.body()
        except Exception as reason:
            error = as_refusal(reason, job.id).body()
        finally:
            beats.cancel()
        await asyncio.to_thread(self.store.beat, job.id, told.step, told.steps)
        await asyncio.to_thread(self.store.end, job.id, result, None if error is None else error["error"], state)

    async def _edit(self, job: Job, ticket: Ticket, told: "Told") -> dict[str, Any]:
        if job.attempts > MOST_ATTEMPTS:
            message = f"the server went down {MOST_ATTEMPTS} times while it ran"
            raise Refusal(500, message, None, "too_many_attempts")
        recipe = Recipe.from_dict(dict(job.asked["recipe"]))
        hosted, _ = self.state.hosts.find(job.model, recipe.method)
        if (known := await asyncio.to_thread(self.state.results.get, job.digest)) is not None:
            return known | {"id": job.id}
        source = self.store.place(job.id) / "source"
        picture = await asyncio.to_thread(source.read_bytes) if job.asked["name"] else None
        order = Order(job.model, job.asked, picture, job.id)
        watching = Watching(job.asked.get("partial_images", 0), told, partial(self.store.show, job.id))
        answer = await self.state.made(hosted, order, None, ticket, patient=True, watching=watching)
        await asyncio.to_thread(self.state.results.put, job.digest, answer)
        return answer

    async def _beats(self, job: Job, ticket: Ticket, told: "Told") -> None:
        """Say that the job goes on, and end it where it is to end."""
        last, step = 0.0, -1
        while True:
            await asyncio.sleep(TELL_S)
            if told.step == step and time.monotonic() - last < BEAT_S / 2:
                continue
            last, step = time.monotonic(), told.step
            if not await asyncio.to_thread(self.store.beat, job.id, told.step, told.steps):
                self.state.engine.stop(ticket)
                return


class Told:
    """How far a method says it is."""

    def __init__(self) -> None:
        self.step, self.steps = 0, 0
        self._lock = threading.Lock()

    def __call__(self, step: int, steps: int) -> None:
        with self._lock:
            self.step, self.steps = step, steps
