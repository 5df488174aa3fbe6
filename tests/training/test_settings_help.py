"""`limner train FAMILY --help`: every setting with its type, value and meaning, from where it is declared."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from support.shipped_runs import leaves

from limner.training.families import FAMILIES, JOBS
from limner.training.running import resolve
from limner.training.settings_help import as_text, field_comments, kind_of, settings_of


@dataclass(frozen=True)
class Inner:
    """A part."""

    # what stands above
    above: int = 1
    beside: float = 0.5  # what stands beside
    long: tuple[str, ...] = (  # of several lines
        "a",
        "b",
    )
    bare: bool = True


@dataclass(frozen=True)
class Outer:
    """A whole."""

    inner: Inner = field(default_factory=Inner)
    choice: Literal["a", "b"] | None = None  # one of two


def test_comments_are_meanings() -> None:
    assert field_comments(Inner) == {
        "above": "what stands above", "beside": "what stands beside", "long": "of several lines",
    }  # fmt: skip
    rows = {one.name: (one.kind, one.value, one.meaning) for one in settings_of(Outer())}
    assert rows["inner.beside"] == ("number", "0.5", "what stands beside")
    assert rows["inner.bare"] == ("true | false", "true", "")
    assert rows["choice"] == ("a | b | null", "null", "one of two")
    assert kind_of(tuple[int, ...]) == "list of whole number" and kind_of(dict[str, float]) == "names to number"


@pytest.mark.parametrize("name", sorted([*FAMILIES, *JOBS]))
def test_every_setting_has_a_meaning_and_is_listed(name: str, limner: Any) -> None:
    run: Any = resolve(name)
    rows = {one.name: one for one in settings_of(run)}
    assert not [row for row in rows.values() if not row.meaning]
    structured = ("prompts", "channels", "weights")  # a list of mappings, and mappings of free names
    flat = {key for key in leaves(run) if not set(key.split(".")) & set(structured)}
    assert flat <= rows.keys()
    shown = limner("train", name, "--help")
    assert shown.code == 0 and as_text(run) in shown.out


def test_a_listed_setting_can_be_set(limner: Any) -> None:
    rows = [one for one in settings_of(resolve("judge")) if one.kind in ("number", "whole number")]
    words = [word for one in rows for word in ("--set", f"{one.name}={one.value}")]
    assert limner("train", "judge", "--dry-run", *words).code == 0
