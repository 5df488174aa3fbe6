"""Answers as CSV, a line each; every line says whether people gave it."""

import csv
import io
from datetime import datetime, timezone

from limner.runtime.study.people.store import Store

__all__ = ["COLUMNS", "as_csv"]

COLUMNS = ("study", "raters", "rater", "number", "panel_id", "position", "question", "kind", "edit", "sample", "shown",
           "shown_right", "repeats", "made", "kept", "rating", "better", "seconds", "at")  # fmt: skip
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet would run


def as_csv(store: Store) -> str:
    """All answers, rater by rater."""
    stream = io.StringIO()
    table = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
    table.writeheader()
    for one in store.given():
        page = one.page
        table.writerow({
            "study": store.study.digest[:12], "raters": store.kind, "rater": one.rater, "number": one.number,
            "panel_id": _plain(one.panel_id or ""), "position": one.position, "question": page.question,
            "kind": page.kind, "edit": page.edit, "sample": page.sample, "shown": page.shown[0],
            "shown_right": page.shown[1] if len(page.shown) > 1 else "",
            "repeats": "" if page.repeats is None else page.repeats,
            **{name: str(value).lower() if isinstance(value, bool) else value for name, value in one.value.items()},
            "seconds": f"{one.seconds:.3f}",
            "at": datetime.fromtimestamp(one.at, timezone.utc).isoformat("T", "seconds"),
        })  # fmt: skip
    return stream.getvalue()


def _plain(text: str) -> str:
    return f"'{text}" if text.startswith(FORMULA) else text
