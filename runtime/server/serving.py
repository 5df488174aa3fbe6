"""Listening: uvicorn with the application, logs as JSON lines on stderr, an end that lets running edits finish."""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import uvicorn
from fastapi import FastAPI

from limner.runtime.listening import address_of, listening
from limner.runtime.server.app import GRACE_S, make_app
from limner.runtime.server.metrics import Metrics
from limner.runtime.server.running import Engine
from limner.runtime.server.settings import Cluster, ServerSettings
from limner.runtime.storage.stopping import Stopped, orderly

__all__ = ["run_server"]


def run_server(
    settings: ServerSettings,
    host: str,
    port: int,
    say: Callable[[str], None],
    cluster: Cluster | None = None,  # None: edits run in threads of this process
    dressed: Callable[[FastAPI, str], FastAPI] | None = None,  # what else is to be served, at that address
    access: bool = True,  # a line in the log a request
) -> None:
    """Serve until SIGINT or SIGTERM. Raises LimnerError for what cannot be served, or not there."""
    logging.basicConfig(stream=sys.stderr, format="%(message)s", level=logging.WARNING)
    for name in ("limner.server", "limner.access") if access else ("limner.server",):
        logging.getLogger(name).setLevel(logging.INFO)
    with listening(host, port) as opened, _engine(settings, cluster) as engine:
        app = make_app(settings, engine=engine)
        if dressed is not None:
            app = dressed(app, address_of(opened))
        names = ", ".join(app.state.limner.hosts.models())
        say(f"limner: {address_of(opened)} serves {names}")
        config = uvicorn.Config(
            app, log_config=None, access_log=False, server_header=False, timeout_keep_alive=30,
            timeout_graceful_shutdown=int(GRACE_S) + 5, h11_max_incomplete_event_size=65_536,
        )  # fmt: skip
        with orderly(), suppress(Stopped):  # uvicorn raises the signal again when everything has ended
            uvicorn.Server(config).run(sockets=[opened])
    say("limner: ended")


@contextmanager
def _engine(settings: ServerSettings, cluster: Cluster | None) -> Iterator[Callable[[Metrics], Engine] | None]:
    if cluster is None:
        yield None
        return
    from limner.runtime.server.cluster.launch import running_replicas

    with running_replicas(settings, cluster) as engine:
        yield engine
