"""Jobs in a database: SQLite beside the files, or whatever SQLAlchemy reaches, so that several servers share them.

    queued -> running -> succeeded | failed | cancelled          running -> queued, when its server is gone

Every step is one transaction that asks for the state before, so that two servers never take the same job. A server says
every BEAT_S that it is alive; a job whose server was silent for STALE_S is free again. The result lies in a file before
the state says so: a job whose result is there is never run again.
"""

import json
import os
import secrets
import shutil
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import (
    Column,
    Engine,
    Float,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    create_engine,
    event,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from limner.runtime.errors import InputError
from limner.runtime.server.errors import Refusal
from limner.runtime.storage.files import write_atomically

__all__ = ["BEAT_S", "ENDED", "MOST_PREVIEWS", "Job", "JobStore"]

BEAT_S, STALE_S = 2.0, 15.0
KEPT_S = 7 * 86_400.0  # ended jobs
ENDED = ("succeeded", "failed", "cancelled")
RESULT, PREVIEW = "result.json", "preview-"
MOST_PREVIEWS = 3

metadata = MetaData()
jobs = Table(
    "limner_jobs",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("owner", String(200), nullable=False),  # name of the key
    Column("once", String(300), unique=True),  # owner and Idempotency-Key
    Column("digest", String(64), nullable=False),  # of everything that decides the result
    Column("model", String(200), nullable=False),
    Column("asked", Text, nullable=False),  # JSON: recipe, and what the answer is to hold
    Column("state", String(12), nullable=False, index=True),
    Column("created", Float, nullable=False),
    Column("started", Float),
    Column("ended", Float),
    Column("step", Integer, nullable=False, default=0),
    Column("steps", Integer, nullable=False, default=0),
    Column("error", Text),  # JSON, as an answer's
    Column("attempts", Integer, nullable=False, default=0),
    Column("server", String(200)),
    Column("beat", Float),
    Column("stop", Integer, nullable=False, default=0),  # whether somebody asked to cancel it
)


@dataclass(frozen=True)
class Job:
    """A job as it is now."""

    id: str
    owner: str
    digest: str
    model: str
    asked: Mapping[str, Any]
    state: str
    created: float
    started: float | None
    ended: float | None
    step: int
    steps: int
    error: Mapping[str, Any] | None
    attempts: int
    stop: bool

    @property
    def over(self) -> bool:
        """Whether nothing will change any more."""
        return self.state in ENDED

    def shown(self) -> dict[str, Any]:
        """As a client sees it."""
        return {
            "id": self.id, "object": "job", "state": self.state, "model": self.model, "created": self.created,
            "started": self.started, "ended": self.ended, "step": self.step, "steps": self.steps, "error": self.error,
            "attempts": self.attempts,
        }  # fmt: skip


class JobStore:
    """The jobs of one database and one folder; several processes may use both."""

    def __init__(self, folder: Path, url: str = "") -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        host = socket.gethostname().replace(":", "-")
        self.server = f"{host}:{os.getpid()}:{_begun(os.getpid())}:{secrets.token_hex(4)}"
        try:
            self._engine: Engine = create_engine(url or f"sqlite:///{folder / 'jobs.sqlite'}", pool_pre_ping=True)
            if self._engine.dialect.name == "sqlite":
                event.listen(self._engine, "connect", _durable)
            metadata.create_all(self._engine)
        except (SQLAlchemyError, ImportError) as reason:
            line = str(reason).splitlines()[0][:200]
            raise InputError("database", line, "SQLAlchemy's URL of a database that can be reached") from reason

    def place(self, job: str) -> Path:
        """The folder of a job's files."""
        return self.folder / job

    # --- clients ----------------------------------------------------------------------------------------

    def accept(
        self, owner: str, model: str, asked: Mapping[str, Any], digest: str, picture: bytes | None, most: int,
        once: str | None = None,
    ) -> tuple[Job, bool]:  # fmt: skip
        """Keep a job for good and return it, and whether it is new: the same Idempotency-Key gives the same job."""
        once = None if once is None else f"{owner}\n{once}"
        if once is not None and (known := self._once(once, digest)) is not None:
            return known, False
        waiting = select(func.count()).where(jobs.c.owner == owner, jobs.c.state.not_in(ENDED))
        with self._engine.connect() as connection:
            if (connection.execute(waiting).scalar() or 0) >= most:
                raise Refusal(429, f"this key has {most} jobs that are not ended", None, "too_many_jobs", 10)
        name = f"job-{secrets.token_hex(12)}"
        row = {"id": name, "owner": owner, "once": once, "digest": digest, "model": model, "asked": json.dumps(asked),
               "state": "queued", "created": time.time(), "step": 0, "steps": 0, "attempts": 0, "stop": 0}  # fmt: skip
        try:
            if picture is not None:
                self.place(name).mkdir()
                _write(self.place(name) / "source", picture)
            with self._engine.begin() as connection:
                connection.execute(insert(jobs).values(**row))
        except Exception as reason:
            shutil.rmtree(self.place(name), ignore_errors=True)
            same = isinstance(reason, IntegrityError) and once is not None  # the same key at the same moment
            if not same or (known := self._once(once or "", digest)) is None:
                raise
            return known, False
        return self.get(name), True

    def get(self, name: str, owner: str | None = None) -> Job:
        """A job by its id; 404 for one that is not there, or another key's."""
        with self._engine.connect() as connection:
            row = connection.execute(select(jobs).where(jobs.c.id == name)).mappings().first()
        if row is None or (owner is not None and row["owner"] != owner):
            raise Refusal(404, f"there is no job {name[:60]!r}", "id", "job_not_found")
        return _job(row)

    def listed(self, owner: str, most: int = 100) -> list[Job]:
        """The last jobs of a key, the newest first."""
        query = select(jobs).where(jobs.c.owner == owner).order_by(jobs.c.created.desc()).limit(most)
        with self._engine.connect() as connection:
            return [_job(row) for row in connection.execute(query).mappings()]

    def cancel(self, name: str) -> None:
        """Ask for a job's end: one that waits is over at once, one that runs when its server sees it."""
        with self._engine.begin() as connection:
            done = connection.execute(
                update(jobs).where(jobs.c.id == name, jobs.c.state == "queued")
                .values(state="cancelled", ended=time.time())
            )  # fmt: skip
            if done.rowcount == 0:
                connection.execute(update(jobs).where(jobs.c.id == name, jobs.c.state == "running").values(stop=1))

    # --- servers ----------------------------------------------------------------------------------------

    def take(self) -> Job | None:
        """The oldest job that waits, which is this server's now; those that a server went down with come last."""
        order = (jobs.c.attempts, jobs.c.created)
        oldest = select(jobs.c.id).where(jobs.c.state == "queued").order_by(*order).limit(1)
        with self._engine.begin() as connection:
            name = connection.execute(oldest).scalar()
            if name is None:
                return None
            now = time.time()
            values = {"state": "running", "server": self.server, "beat": now, "started": now, "step": 0}
            waits = update(jobs).where(jobs.c.id == name, jobs.c.state == "queued")
            taken = connection.execute(waits.values(**values, attempts=jobs.c.attempts + 1))
        return self.get(name) if taken.rowcount else self.take()

    def beat(self, name: str, step: int, steps: int) -> bool:
        """Say that a job goes on; False where it is to end, or is no longer this server's."""
        with self._engine.begin() as connection:
            own = (jobs.c.id == name, jobs.c.server == self.server, jobs.c.state == "running")
            done = connection.execute(update(jobs).where(*own).values(beat=time.time(), step=step, steps=steps))
            stop = connection.execute(select(jobs.c.stop).where(*own)).scalar()
        return bool(done.rowcount) and not stop

    def end(self, name: str, result: Mapping[str, Any] | None, error: Mapping[str, Any] | None, state: str) -> None:
        """A job's result or error, kept; of a job that is another server's by now, nothing changes."""
        if result is not None:
            self.place(name).mkdir(exist_ok=True)
            _write(self.place(name) / RESULT, json.dumps(result).encode())
        with self._engine.begin() as connection:
            own = (jobs.c.id == name, jobs.c.server == self.server, jobs.c.state == "running")
            text = None if error is None else json.dumps(error)
            connection.execute(update(jobs).where(*own).values(state=state, error=text, ended=time.time()))

    def give_back(self, name: str) -> None:
        """A job that this server does not end; another one may."""
        with self._engine.begin() as connection:
            own = (jobs.c.id == name, jobs.c.server == self.server, jobs.c.state == "running")
            connection.execute(update(jobs).where(*own).values(state="queued", server=None))

    def show(self, name: str, number: int, picture: bytes) -> None:
        """Keep a picture on the way, 0 the first; one for which there is no room is left out."""
        with suppress(OSError, InputError):
            self.place(name).mkdir(exist_ok=True)
            write_atomically(self.place(name) / f"{PREVIEW}{number}", picture)

    def shown(self, name: str, seen: int) -> list[bytes]:
        """The pictures on the way that come after the first `seen`."""
        paths = [self.place(name) / f"{PREVIEW}{number}" for number in range(seen, MOST_PREVIEWS)]
        return [path.read_bytes() for path in paths if path.is_file()]

    def result(self, name: str) -> dict[str, Any] | None:
        """The answer of a job that succeeded."""
        path = self.place(name) / RESULT
        found: dict[str, Any] | None = json.loads(path.read_bytes()) if path.is_file() else None
        return found

    def recover(self) -> int:
        """Free the jobs of servers that are gone; those whose result is there have succeeded. Returns how many."""
        query = select(jobs.c.id, jobs.c.server, jobs.c.beat).where(jobs.c.state == "running")
        with self._engine.connect() as connection:
            lost = [row for row in connection.execute(query) if _gone(row.server or "", row.beat or 0.0, self.server)]
        for name, server, _ in lost:
            done = (self.place(name) / RESULT).is_file()
            values = {"state": "succeeded", "ended": time.time()} if done else {"state": "queued", "server": None}
            with self._engine.begin() as connection:
                was = (jobs.c.id == name, jobs.c.server == server, jobs.c.state == "running")
                connection.execute(update(jobs).where(*was).values(**values))
        return len(lost)

    def forget(self, now: float | None = None) -> list[str]:
        """Remove jobs that ended long ago; their ids, whose folders may go."""
        before = (time.time() if now is None else now) - KEPT_S
        old = (jobs.c.state.in_(ENDED), jobs.c.ended < before)
        with self._engine.begin() as connection:
            names = [row.id for row in connection.execute(select(jobs.c.id).where(*old))]
            connection.execute(jobs.delete().where(jobs.c.id.in_(names)))
        return names

    def close(self) -> None:
        """Let the database go."""
        self._engine.dispose()

    def _once(self, once: str, digest: str) -> Job | None:
        with self._engine.connect() as connection:
            row = connection.execute(select(jobs).where(jobs.c.once == once)).mappings().first()
        if row is not None and row["digest"] != digest:
            raise Refusal(409, "this Idempotency-Key was given for another edit", "Idempotency-Key", "other_edit")
        return None if row is None else _job(row)


def _job(row: Mapping[Any, Any]) -> Job:
    names = ("id", "owner", "digest", "model", "state", "created", "started", "ended", "step", "steps", "attempts")
    error = None if row["error"] is None else json.loads(row["error"])
    asked, found = json.loads(row["asked"]), {name: row[name] for name in names}
    return Job(**found, asked=asked, error=error, stop=bool(row["stop"]))


def _gone(server: str, beat: float, own: str) -> bool:
    """Whether a server is silent for too long, or is a process of this machine that is no more."""
    if time.time() - beat > STALE_S:
        return True
    host, process, begun, _ = [*server.split(":"), "", "", ""][:4]
    return host == own.partition(":")[0] and process.isdigit() and _begun(int(process)) != begun


def _begun(process: int) -> str:
    """When a process of this machine began, in the system's ticks; empty if there is none, "?" where nobody says."""
    if not Path("/proc/self/stat").is_file():
        return "?"
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _write(path: Path, data: bytes) -> None:
    """A file that is whole and on the disk, or not there."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with beside.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        beside.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    finally:
        beside.unlink(missing_ok=True)


def _durable(connection: Any, _: Any) -> None:
    """A commit is on the disk, and readers do not wait for writers."""
    cursor = connection.cursor()
    for line in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=30000", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {line}")
    cursor.close()
