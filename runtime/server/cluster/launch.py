"""Starting replicas on a Ray cluster: behind `limner serve --engine ray`, and as an application of `serve run`.

RAY_ADDRESS names a cluster that runs; without it one is started on this machine. Access to it needs a token (Ray's own,
RAY_AUTH_MODE=token): whoever reaches a cluster without one runs code there.
"""

import logging
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

os.environ.setdefault("RAY_AUTH_MODE", "token")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anybody

import ray
from fastapi import FastAPI
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from limner.runtime.errors import InputError, ProviderError
from limner.runtime.server.app import GRACE_S, make_app
from limner.runtime.server.bundles import Hosts
from limner.runtime.server.cluster.engine import ClusterEngine
from limner.runtime.server.cluster.replica import Loaded, Replica, key_of
from limner.runtime.server.metrics import Metrics
from limner.runtime.server.running import Engine
from limner.runtime.server.settings import Cluster, ServerSettings

__all__ = ["application", "replicas", "running_replicas"]

REACH_S = 5.0
APPLICATION, EDITS = "limner-edits", "edits"
LOOK_BACK_S = 10.5  # that the load is averaged over; Ray Serve measures it every 10


def replicas(settings: ServerSettings, cluster: Cluster) -> Any:
    """The deployment that makes edits, as an application."""
    hosts = Hosts(settings, loads=False)
    keys = [key_of(one) for one in hosts.all][: cluster.loaded]
    hosts.close()

    class Sized(Replica):
        # Ray Serve awaits it: a replica gets work when its bundles are loaded
        async def __init__(self) -> None:  # type: ignore[misc]
            super().__init__(settings, cluster)
            for key in keys:
                await self.hosted(key)

        @serve.multiplexed(  # type: ignore[untyped-decorator]
            max_num_models_per_replica=cluster.loaded
        )
        async def hosted(self, key: str) -> Loaded:
            return await self.opened(key)

    deployment: Any = serve.deployment(
        Sized,
        name=EDITS,
        max_ongoing_requests=settings.limits.running,
        ray_actor_options={"num_cpus": cluster.cpus, "num_gpus": cluster.gpus},
        graceful_shutdown_timeout_s=GRACE_S,
        autoscaling_config={
            "min_replicas": cluster.replicas_least,
            "max_replicas": cluster.replicas_most,
            "target_ongoing_requests": cluster.load,
            "upscale_delay_s": cluster.up_s,
            "downscale_delay_s": cluster.down_s,
            "look_back_period_s": LOOK_BACK_S,
        },
    )
    return deployment.bind()


def running(application: str) -> int:
    """How many replicas make edits now."""
    states = serve.status().applications[application].deployments[EDITS].replica_states
    return sum(count for state, count in states.items() if str(getattr(state, "value", state)) == "RUNNING")


@contextmanager
def running_replicas(settings: ServerSettings, cluster: Cluster) -> Iterator[Callable[[Metrics], Engine]]:
    """Replicas on the cluster while the block runs; what makes the engine that asks them. InputError without them."""
    edits = replicas(settings, cluster)
    _connect()
    try:
        _roomy(cluster)
        serve.start(proxy_location="Disabled")
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        try:
            handle = _run(edits)
            yield lambda metrics: ClusterEngine(
                handle, settings.limits, cluster, metrics, partial(running, APPLICATION)
            )
        finally:
            serve.delete(APPLICATION)
    finally:
        ray.shutdown()


def _run(edits: Any) -> Any:
    try:
        return serve.run(edits, name=APPLICATION, route_prefix=None)
    except (RuntimeError, RayError, RayServeException) as reason:
        line = (str(reason).strip() or type(reason).__name__).splitlines()[0][:300]
        raise ProviderError("engine", f"replicas that do not start: {line}", "replicas that do") from reason


def _reachable(address: str) -> None:
    """Refuse a cluster that nobody answers for; Ray itself asks for minutes. ProviderError."""
    host, _, port = address.rpartition(":")
    if address in ("auto", "local"):
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_S).close()
    except (OSError, ValueError, OverflowError) as reason:
        allowed = "HOST:PORT of a cluster's head that can be reached, or none for a cluster of its own"
        raise ProviderError("RAY_ADDRESS", repr(address), allowed) from reason


def _roomy(cluster: Cluster) -> None:
    """Refuse replicas that a cluster of this machine alone never has room for; InputError."""
    if os.environ.get("RAY_ADDRESS", "local") not in ("", "local"):
        return  # it may grow
    has: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    for name, kind in (("cpus", "CPU"), ("gpus", "GPU")):
        if getattr(cluster, name) > has.get(kind, 0.0):
            raise InputError(f"ray.{name}", getattr(cluster, name), f"at most {has.get(kind, 0.0):g} on this machine")


def _connect() -> None:
    address = os.environ.get("RAY_ADDRESS", "") or "local"  # Ray's own "" would join whatever runs on this machine
    _reachable(address)
    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address, namespace="limner", log_to_driver=False, include_dashboard=False, logging_level=logging.ERROR)
    except Exception as reason:
        line = (str(reason).strip() or type(reason).__name__).splitlines()[0][:200]
        raise ProviderError("RAY_ADDRESS", line, "a cluster that can be reached with its token") from reason
    finally:
        signal.signal(signal.SIGTERM, before)  # Ray's own ends the process at once


def application(settings: ServerSettings, cluster: Cluster) -> Any:
    """The whole server as an application of Ray Serve: servers in front behind its proxies, and replicas."""
    edits = replicas(settings, cluster)

    def build() -> FastAPI:  # on the machine of a server in front
        name = serve.get_replica_context().app_name
        handle, count = serve.get_deployment_handle(EDITS, name), partial(running, name)
        return make_app(
            settings, engine=lambda metrics: ClusterEngine(handle, settings.limits, cluster, metrics, count)
        )

    front: Any = serve.deployment(
        serve.ingress(build)(),
        name="front",
        num_replicas=cluster.fronts,
        max_ongoing_requests=1000,
        ray_actor_options={"num_cpus": 0.1},
        graceful_shutdown_timeout_s=GRACE_S + 10,
    )
    return front.bind(edits)
