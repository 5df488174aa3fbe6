"""What a server allows and how it runs, each once: the command line and the documentation are read from here."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from limner.runtime.settings import Settings, setting

__all__ = ["Limits", "ServerSettings"]


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
