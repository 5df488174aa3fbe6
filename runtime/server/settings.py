"""What a server allows and how it runs, each once: the command line and the documentation are read from here."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from limner.runtime.errors import InputError
from limner.runtime.settings import Settings, setting

__all__ = ["Cluster", "Limits", "ServerSettings"]


@dataclass(frozen=True)
class Limits(Settings):
    """What one request, one key and all of them together may ask for."""

    where: ClassVar[str] = "limits"
    upload_mb: float = setting(20.0, "megabytes of a request's body", 0.001, 1000.0)
    megapixels: float = setting(25.0, "of a picture that is sent", 0.001, 50.0)
    side: int = setting(1024, "pixels of a picture that is made, a side", 16, 4096)
    steps: int = setting(500, "of a method that has steps", 1, 1000)
    texts: int = setting(16, "texts of a recipe", 1, 64)
    pictures: int = setting(4, "of a request for several", 1, 10)
    seconds: float = setting(300.0, "that an edit may take before it is stopped", 0.1, 86_400.0)
    running: int = setting(8, "edits at one time", 1, 256)
    waiting: int = setting(32, "requests that wait for a place", 0, 10_000)
    requests_per_minute: int = setting(240, "of one key", 1, 1_000_000)
    jobs: int = setting(100, "of one key that are not ended", 1, 100_000)
    results_mb: float = setting(500.0, "megabytes of results that are kept for the same recipe again", 0.0, 1_000_000.0)


@dataclass(frozen=True)
class Cluster(Settings):
    """How edits are spread over the machines of a Ray cluster."""

    where: ClassVar[str] = "ray"
    replicas_least: int = setting(1, "replicas that are always there", 1, 1000)
    replicas_most: int = setting(4, "replicas at the most", 1, 1000)
    load: float = setting(2.0, "edits of a replica, waiting ones too, above which another one starts", 0.1, 256.0)
    up_s: float = setting(5.0, "seconds of such a load before another one starts", 0.0, 3600.0)
    down_s: float = setting(120.0, "seconds of less before one ends", 0.0, 86_400.0)
    cpus: float = setting(1.0, "cores that a replica takes; its lanes on a CPU", 0.0, 256.0)
    gpus: float = setting(0.0, "GPUs that a replica takes", 0.0, 16.0)
    loaded: int = setting(4, "bundles that a replica has loaded at one time", 1, 1000)
    attempts: int = setting(8, "replicas that may go down while they make one edit", 1, 1000)
    fronts: int = setting(1, "servers in front, where Ray Serve runs them", 1, 100)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.replicas_most < self.replicas_least:
            raise InputError("ray.replicas_most", self.replicas_most, f"{self.replicas_least} or more, replicas_least")


@dataclass(frozen=True)
class ServerSettings:
    """How a server runs."""

    bundles: tuple[tuple[str, Path], ...]  # name (empty: the bundle's own) and folder
    work: Path  # folder of uploads, jobs and results; nothing is written anywhere else
    provider: str = "cpu"
    lanes: int | None = None  # graph calls at one time; None: the cores on a CPU, 1 elsewhere
    threads: int | None = None  # of a lane; None: 1 on a CPU
    join: bool | None = None  # calls of different edits together; None: where a measurement at start shows that it pays
    keys: Path | None = None  # file of keys; None: whoever reaches the server may use it
    database: str = ""  # SQLAlchemy's URL of the jobs; empty is an SQLite file in `work`
    limits: Limits = Limits()

    @property
    def uploads(self) -> Path:
        """Where pictures lie while they are edited."""
        return self.work / "uploads"
