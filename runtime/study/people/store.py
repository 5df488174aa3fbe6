"""Answers, in one SQLite file beside the study: written before they are acknowledged, each once.

STUDY/answers.sqlite             people's
STUDY/answers-simulated.sqlite   made up by `limner study simulate`; never in one file or one table with people's

A file is bound to one study, by its digest, and to one kind. Every answer is a transaction of its own with
`synchronous=FULL`: what was acknowledged is there after kill -9 and after a power cut.
"""

import json
import secrets
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from limner.runtime.errors import InputError, LimnerError
from limner.runtime.schema import parse_json
from limner.runtime.study.people.dealing import Page, cells_of, deal
from limner.runtime.study.people.questions import check_answer
from limner.runtime.study.plans.making import Study

__all__ = ["ANSWERS_FILE", "SIMULATED_FILE", "Full", "Given", "Rater", "RaterKind", "Store"]

RaterKind = Literal["people", "simulated"]
ANSWERS_FILE, SIMULATED_FILE = "answers.sqlite", "answers-simulated.sqlite"
FILES: dict[RaterKind, str] = {"people": ANSWERS_FILE, "simulated": SIMULATED_FILE}
IDLE_S = 3600.0  # a rater who answered nothing for so long gives the place to another
CODE_LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"
MOST_ID = 100  # letters of an id that a panel gives
WAIT_S = 30.0  # for another writer
TABLES = (
    "CREATE TABLE IF NOT EXISTS about (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS raters (token TEXT PRIMARY KEY, number INTEGER NOT NULL, code TEXT NOT NULL UNIQUE, "
    "panel_id TEXT UNIQUE, began REAL NOT NULL, seen REAL NOT NULL, ended REAL, way TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS answers (token TEXT NOT NULL REFERENCES raters(token), position INTEGER NOT NULL, "
    "value TEXT NOT NULL, seconds REAL NOT NULL, at REAL NOT NULL, PRIMARY KEY (token, position))",
)


class Full(LimnerError):
    """Every place of the plan is taken."""


@dataclass(frozen=True)
class Rater:
    """Somebody who agreed to take part; nothing says who it is."""

    token: str  # a secret of the browser
    number: int  # from 0: which pages
    code: str  # what the rater is shown at the end, and is called in every table
    panel_id: str | None  # PROLIFIC_PID, where it was given
    ended: bool
    way: str  # server, file or simulated


@dataclass(frozen=True)
class Given:
    """One answer."""

    rater: str  # code
    number: int
    panel_id: str | None
    position: int
    page: Page
    value: dict[str, Any]
    seconds: float  # from when the page was shown to the answer
    at: float  # seconds since 1970


class Store:
    """The answers of one study by raters of one kind; may be used by several threads and processes."""

    def __init__(self, study: Study, kind: RaterKind = "people", must_exist: bool = False) -> None:
        self.study, self.kind = study, kind
        self.path = study.folder / FILES[kind]
        if must_exist and not self.path.is_file():
            given = f"{str(study.folder)!r}, which has no {self.path.name}"
            allowed = "a study that was answered: `limner study serve`, or `limner study page` and `collect`"
            raise InputError("study", given, allowed)
        self._cells = cells_of(study)
        self._pages: dict[int, tuple[Page, ...]] = {}
        with self._connected() as db:
            for statement in TABLES:
                db.execute(statement)
            self._own(db, "study", study.digest)
            self._own(db, "kind", kind)

    def _own(self, db: sqlite3.Connection, name: str, value: str) -> None:
        db.execute("INSERT OR IGNORE INTO about VALUES (?, ?)", (name, value))
        found = db.execute("SELECT value FROM about WHERE name = ?", (name,)).fetchone()[0]
        if found != value:
            given = f"{self.path.name!r} of {name} {found[:12]!r}"
            raise InputError("answers", given, f"answers of {name} {value[:12]!r}")

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        """A connection in a transaction of its own; LimnerError for a file that is no such database."""
        try:
            with closing(sqlite3.connect(self.path, timeout=WAIT_S, isolation_level=None)) as db:
                db.execute("PRAGMA journal_mode=WAL")
                db.execute("PRAGMA synchronous=FULL")
                db.execute("BEGIN IMMEDIATE")
                try:
                    yield db
                except BaseException:
                    db.execute("ROLLBACK")
                    raise
                db.execute("COMMIT")
        except sqlite3.OperationalError as reason:  # no room, locked for long, no right
            raise LimnerError(f"{self.path.name}: {reason}") from reason
        except sqlite3.Error as reason:
            raise InputError("answers", f"{self.path.name!r} ({reason})", "a file that this study wrote") from reason

    def pages(self, number: int) -> tuple[Page, ...]:
        """The pages of a rater's number."""
        if number not in self._pages:
            self._pages[number] = deal(self.study, number, self._cells)
        return self._pages[number]

    def begin(self, panel_id: str | None = None) -> Rater:
        """A new rater, or the one of that panel id, who goes on. Raises Full; InputError for an id that cannot be."""
        _check_panel_id(panel_id)
        with self._connected() as db:
            known = db.execute("SELECT token FROM raters WHERE panel_id = ?", (panel_id,)).fetchone()
            if panel_id is not None and known is not None:
                return self._rater(db, known[0])
            return self._rater(db, self._add(db, self._free(db), panel_id, "server"))

    def _add(self, db: sqlite3.Connection, number: int, panel_id: str | None, way: str) -> str:
        now, token = time.time(), secrets.token_urlsafe(24)
        code = "".join(secrets.choice(CODE_LETTERS) for _ in range(8))
        db.execute("INSERT INTO raters VALUES (?, ?, ?, ?, ?, ?, NULL, ?)",
                   (token, number, code, panel_id, now, now, way))  # fmt: skip
        return token

    def is_open(self) -> bool:
        """Whether another rater can take part now."""
        with self._connected() as db:
            return self._first_free(db) is not None

    def _free(self, db: sqlite3.Connection) -> int:
        free = self._first_free(db)
        if free is None:
            raise Full(f"all {self.study.plan.raters} places of this study are taken; thank you")
        return free

    def _first_free(self, db: sqlite3.Connection) -> int | None:
        """The first number that nobody answers now or has answered."""
        query = "SELECT number FROM raters WHERE ended IS NOT NULL OR seen > ?"
        taken = {row[0] for row in db.execute(query, (time.time() - IDLE_S,))}
        return next((one for one in range(self.study.plan.raters) if one not in taken), None)

    def of_panel(self, panel_id: str) -> Rater | None:
        """The rater of a panel's id, or None."""
        with self._connected() as db:
            row = db.execute("SELECT token FROM raters WHERE panel_id = ?", (panel_id,)).fetchone()
            return None if row is None else self._rater(db, row[0])

    def rater(self, token: str) -> Rater | None:
        """The rater of a token, or None."""
        with self._connected() as db:
            return self._rater(db, token) if self._is_known(db, token) else None

    def _is_known(self, db: sqlite3.Connection, token: str) -> bool:
        return db.execute("SELECT 1 FROM raters WHERE token = ?", (token,)).fetchone() is not None

    def _rater(self, db: sqlite3.Connection, token: str) -> Rater:
        query = "SELECT token, number, code, panel_id, ended IS NOT NULL, way FROM raters WHERE token = ?"
        row = db.execute(query, (token,)).fetchone()
        return Rater(row[0], row[1], row[2], row[3], bool(row[4]), row[5])

    def position(self, rater: Rater) -> int:
        """The next page, by number; that of all pages where there is none."""
        with self._connected() as db:
            return self._position(db, rater.token)

    def _position(self, db: sqlite3.Connection, token: str) -> int:
        return int(db.execute("SELECT COUNT(*) FROM answers WHERE token = ?", (token,)).fetchone()[0])

    def answer(self, rater: Rater, position: int, value: object, seconds: float) -> int:
        """Keep an answer to the next page; the number of the page behind it. The same again is taken as said once.

        InputError for another answer to a page that has one, for another page than the next one, and for values that
        the question does not have.
        """
        pages = self.pages(rater.number)
        if not 0 <= position < len(pages):
            raise InputError("position", position, f"a page from 0 to {len(pages) - 1}")
        kept = json.dumps(check_answer(pages[position].question, value), sort_keys=True)
        if not 0.0 <= seconds < 1e7:
            raise InputError("seconds", seconds, "a time that can be")
        with self._connected() as db:
            after = self._position(db, rater.token)
            if position > after:
                raise InputError("position", position, f"{after}, the page that is next")
            if position < after:
                before = db.execute("SELECT value FROM answers WHERE token = ? AND position = ?",
                                    (rater.token, position)).fetchone()[0]  # fmt: skip
                if before != kept:
                    raise InputError("position", position, f"{after}: this page has its answer already")
                return after
            now = time.time()
            db.execute("INSERT INTO answers VALUES (?, ?, ?, ?, ?)", (rater.token, position, kept, seconds, now))
            db.execute("UPDATE raters SET seen = ?, ended = ? WHERE token = ?",
                       (now, now if after + 1 == len(pages) else None, rater.token))  # fmt: skip
            return after + 1

    def take(
        self, number: int, panel_id: str | None, answers: Sequence[tuple[object, float]], name: str, way: str = "file"
    ) -> Rater:
        """All answers of one rater, by a file of that name: all or none. InputError for a rater who is there already,
        and for answers that the pages do not have.
        """
        _check_panel_id(panel_id)
        pages = self.pages(number)
        kept = [json.dumps(check_answer(page.question, value), sort_keys=True)
                for page, (value, _) in zip(pages, answers, strict=True)]  # fmt: skip
        if any(not 0.0 <= seconds < 1e7 for _, seconds in answers):
            raise InputError("seconds", name, "times that can be")
        with self._connected() as db:
            query = "SELECT code FROM raters WHERE (number = ? AND ended IS NOT NULL) OR panel_id = ?"
            there = db.execute(query, (number, panel_id)).fetchone()
            if there is not None:
                raise InputError("answers", f"{name} of rater {number}", f"another rater's: {there[0]} answered there")
            token = self._add(db, number, panel_id, way)
            now = time.time()
            db.executemany("INSERT INTO answers VALUES (?, ?, ?, ?, ?)",
                           [(token, k, one, answers[k][1], now) for k, one in enumerate(kept)])  # fmt: skip
            db.execute("UPDATE raters SET ended = ? WHERE token = ?", (now, token))
            return self._rater(db, token)

    def raters(self) -> list[Rater]:
        """Everybody, in the order in which they began."""
        with self._connected() as db:
            tokens = [row[0] for row in db.execute("SELECT token FROM raters ORDER BY began, number")]
            return [self._rater(db, token) for token in tokens]

    def given(self) -> list[Given]:
        """Every answer, rater by rater, page by page; InputError for one that its page does not have."""
        query = ("SELECT code, number, panel_id, position, value, seconds, at FROM answers JOIN raters USING (token) "
                 "ORDER BY began, number, position")  # fmt: skip
        with self._connected() as db:
            rows = db.execute(query).fetchall()
        return [self._read(*row) for row in rows]

    def _read(
        self, code: str, number: int, panel_id: str | None, position: int, value: str, seconds: float, at: float
    ) -> Given:
        page = self.pages(number)[position]
        answer = check_answer(page.question, parse_json(value, self.path.name))
        return Given(code, number, panel_id, position, page, answer, seconds, at)


def _check_panel_id(panel_id: str | None) -> None:
    if panel_id is not None and not (0 < len(panel_id) <= MOST_ID and panel_id.isprintable()):
        raise InputError("PROLIFIC_PID", repr(panel_id[:MOST_ID]), f"1 to {MOST_ID} letters")
