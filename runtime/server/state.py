"""What the endpoints share: one object a server."""

from dataclasses import dataclass
from pathlib import Path

from starlette.requests import Request

from limner.runtime.server.bundles import Hosts
from limner.runtime.server.keys import Key, KeyFile, Right
from limner.runtime.server.metrics import Metrics
from limner.runtime.server.rates import Rates
from limner.runtime.server.results import Results
from limner.runtime.server.running import Runner
from limner.runtime.server.settings import Limits, ServerSettings

__all__ = ["State", "state_of"]


@dataclass(eq=False)
class State:
    """The parts of a running server."""

    settings: ServerSettings
    hosts: Hosts
    keys: KeyFile
    metrics: Metrics
    runner: Runner
    rates: Rates
    results: Results
    ready: bool = False

    @property
    def limits(self) -> Limits:
        """Of the settings."""
        return self.settings.limits

    @property
    def uploads(self) -> Path:
        """Where pictures lie while they are edited."""
        return self.settings.work / "uploads"

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
