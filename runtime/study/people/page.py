"""`limner study page`: one rater's pages as one file, for places without a server; `collect` takes its answers back.

The file has its style, script and pictures inside and asks nobody for anything. Answers stay in the browser until they
are saved as a file of JSON:

    {"study": digest, "rater": number, "panel_id": text or null,
     "answers": [{"position": 0, "value": {...}, "seconds": 3.1}, ...]}
"""

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limner.runtime.errors import InputError
from limner.runtime.schema import from_dict, parse_json
from limner.runtime.storage.files import read_plain
from limner.runtime.study.people.consent import consent_of
from limner.runtime.study.people.dealing import cells_of, deal
from limner.runtime.study.people.pictures import Pictures
from limner.runtime.study.people.serving import asset, page_html
from limner.runtime.study.people.store import Rater, Store

__all__ = ["collect", "static_page"]

MAX_BYTES = 1_000_000


@dataclass(frozen=True)
class SavedAnswer:
    """One answer of a file."""

    position: int
    value: dict[str, Any]
    seconds: float


@dataclass(frozen=True)
class Saved:
    """What a page saves."""

    study: str
    rater: int
    answers: tuple[SavedAnswer, ...]
    panel_id: str | None = None


def static_page(pictures: Pictures, number: int, own: tuple[str, ...] = (), contact: str = "") -> str:
    """The pages of a rater's number (from 0) as HTML; InputError for a number beyond the plan's."""
    study = pictures.study
    pages = deal(study, number, cells_of(study))
    about = consent_of(study.plan, len(pages), own, contact, by_file=True).seen()
    inside = {
        "study": study.digest,
        "number": number,
        "about": about,
        "pages": [pictures.seen(page) for page in pages],
        "pictures": [{name: _data_url(pictures.png(page, name)) for name in pictures.names(page)} for page in pages],
    }
    data = json.dumps(inside).replace("<", "\\u003c")
    policy = ("default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
              "base-uri 'none'; form-action 'none'")  # fmt: skip
    head = f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n<style>\n{asset("page.css")}</style>'
    tail = f'<script id="study" type="application/json">{data}</script>\n<script>\n{asset("page.js")}</script>'
    return page_html(head, tail)


def collect(store: Store, path: Path) -> Rater:
    """Take the answers that a page saved; the rater that they make. InputError for a file of another study, of a rater
    whose answers are there already, one that stops before its end, or answers that its pages do not have.
    """
    read: Any = parse_json(read_plain(path, "answers", MAX_BYTES, "a file that a page saved"), "answers")
    saved = from_dict(Saved, read, "answers")
    name = repr(path.name)
    if saved.study != store.study.digest:
        raise InputError("answers", f"{name} of the study {saved.study[:12]!r}", f"{store.study.digest[:12]!r}")
    pages = store.pages(saved.rater)
    if [one.position for one in saved.answers] != list(range(len(pages))):
        raise InputError("answers", f"{name} with {len(saved.answers)} answers", f"all {len(pages)}, in their order")
    return store.take(saved.rater, saved.panel_id, [(one.value, one.seconds) for one in saved.answers], name)


def _data_url(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
