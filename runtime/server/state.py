"""What the endpoints share: one object a server."""

from dataclasses import dataclass
from typing import Any

from starlette.requests import Request

from limner.runtime.graphs.tickets import Ticket
from limner.runtime.server.bundles import Hosted, Hosts
from limner.runtime.server.keys import Key, KeyFile, Right
from limner.runtime.server.metrics import Metrics
from limner.runtime.server.orders import Order, Watching
from limner.runtime.server.rates import Rates
from limner.runtime.server.results import Results
from limner.runtime.server.running import Engine
from limner.runtime.server.settings import Limits, ServerSettings
from limner.runtime.server.tracing import Tracing

__all__ = ["State", "state_of"]


@dataclass(eq=False)
class State:
    """The parts of a running server."""

    settings: ServerSettings
    hosts: Hosts
    keys: KeyFile
    metrics: Metrics
    engine: Engine
    rates: Rates
    results: Results
    tracing: Tracing
    ready: bool = False

    @property
    def limits(self) -> Limits:
        """Of the settings."""
        return self.settings.limits

    async def made(
        self,
        hosted: Hosted,
        order: Order,
        request: Request | None = None,
        ticket: Ticket | None = None,
        patient: bool = False,
        watching: Watching | None = None,
    ) -> dict[str, Any]:
        """The engine's answer to an order, counted; see Engine."""
        with self.tracing.edit(order.model) as traced:
            try:
                answer = await self.engine.run(hosted, order, request, ticket, patient, watching)
            except BaseException as reason:
                self.metrics.failed(order.model, reason)
                raise
            self.metrics.done(order.model, answer["timing"])
            traced(answer["timing"])
        return answer

    def allow(self, request: Request, right: Right) -> Key:
        """The key of a request that may do this now; 401, 403 or 429 otherwise."""
        key = self.keys.find(request.headers.get("authorization"))
        request.state.key = key.name
        key.require(right)
        self.rates.count(key.name)
        return key


def state_of(request: Request) -> State:
    """The server that a request came to."""
    found: State = request.app.state.limner
    return found
