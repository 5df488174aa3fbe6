"""A plan: what is compared, on what, by whom and how it will be tested, written down before the first answer.

A plan is a YAML or JSON file:

    name: beard and glasses
    samples: out/samples/test      # folder of samples, beside the plan or from where the command runs
    part: real                     # real: held-out pictures; generated: what the models make of seeds or descriptions
    edits: [beard, glasses]        # of the samples' table; all if left out
    count: 50                      # samples an edit
    arms:
      - {method: global-directions, grid: {alpha: [4, 6, 8]}}      # three arms
      - {method: latent-optimization, settings: {steps: 50}}
    questions: [acceptable, quality]   # asked of people: `study.people.questions` has their words
    raters: 30
    people: {pages: {acceptable: 60, quality: 20}, repeats: 3, checks: 3, controls: 4, screen: {checks: 0.7}}
    comparisons:
      - {arms: [global-directions alpha=6, latent-optimization], outcome: success}

A comparison of two arms is McNemar's test (success, strict, acceptable), an ordinal model (rating) or Bradley and
Terry's (pair); of more arms, where just success, strict or acceptable are asked, it is Cochran's Q. What is not among
`comparisons` may be looked at, and is called exploratory wherever it is shown.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from limner.runtime.errors import InputError, nearest
from limner.runtime.schema import from_dict, require_int, require_number
from limner.runtime.storage.files import read_plain
from limner.runtime.study.recipes import INVERSION, method_of, require_study_method

__all__ = [
    "Arm",
    "ArmSpec",
    "Comparison",
    "Outcome",
    "People",
    "Plan",
    "Question",
    "Screen",
    "arms_of",
    "read_plan",
    "shipped_plans",
]

HERE = Path(__file__).resolve().parent
MAX_BYTES = 1_000_000
MOST_ARMS = 200
PAGES = 30  # a rater's of a question
MOST_PAGES = 1000
Outcome = Literal["success", "strict", "acceptable", "rating", "pair"]
Question = Literal["acceptable", "quality", "pair"]


@dataclass(frozen=True)
class ArmSpec:
    """A method with settings, or with several: every combination of a grid is an arm."""

    method: str  # as `limner study run` takes it
    settings: dict[str, Any] = field(default_factory=dict)  # beyond the bundle's presets; inversion.NAME of a picture's
    grid: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    bundle: str = ""  # folder of a bundle; the shipped one of the method's family if not given


@dataclass(frozen=True)
class Comparison:
    """Arms that are tested against each other."""

    arms: tuple[str, ...]  # names of two; of more where the outcome is yes or no
    outcome: Outcome
    edit: str = ""  # one edit; all together if not given


@dataclass(frozen=True)
class Screen:
    """Whose answers are left out, by rules that are fixed before the first answer."""

    checks: float = 0.7  # least share of pages with a known answer that are right
    repeats: float = 0.3  # least share of pages asked again that got the same answer (quality: or the next one)
    seconds: float = 0.7  # least median time of a page
    same: float = 0.95  # largest share of one and the same rating, or side of a pair

    def __post_init__(self) -> None:
        for name in ("checks", "repeats", "same"):
            require_number(f"screen.{name}", getattr(self, name), 0.0, 1.0)
        require_number("screen.seconds", self.seconds, 0.0, 60.0)


@dataclass(frozen=True)
class People:
    """What a rater sees."""

    pages: dict[str, int] = field(default_factory=dict)  # question -> pages of edits; 30 each if not said
    repeats: int = 3  # of a question's pages asked once more, later
    checks: int = 3  # further pages of a question whose answer is known
    controls: int = 4  # quality: further pages with an untouched picture
    screen: Screen = field(default_factory=Screen)

    def __post_init__(self) -> None:
        for name, value in self.pages.items():
            require_int(f"people.pages.{name}", value, 1, MOST_PAGES)
        for name in ("repeats", "checks", "controls"):
            require_int(f"people.{name}", getattr(self, name), 0, 100)

    def pages_of(self, question: str) -> int:
        """How many edits a rater sees with a question."""
        return self.pages.get(question, PAGES)


@dataclass(frozen=True)
class Plan:
    """Everything that a study asks."""

    name: str
    samples: str
    arms: tuple[ArmSpec, ...]
    edits: tuple[str, ...] = ()
    part: Literal["real", "generated"] = "real"
    count: int = 50
    questions: tuple[Question, ...] = ()
    raters: int = 0
    people: People = field(default_factory=People)
    comparisons: tuple[Comparison, ...] = ()
    about: str = ""  # what for, in words
    seed: int = 0  # of orders and pairs
    version: int = 1

    def __post_init__(self) -> None:
        require_int("plan.count", self.count, 1, 100_000)
        require_int("plan.raters", self.raters, 0, 10_000)
        require_int("plan.seed", self.seed, 0, 2**32 - 1)
        if self.version != 1:
            raise InputError("plan.version", self.version, "1")
        if not self.arms:
            raise InputError("plan.arms", "none", "one arm or more")
        if bool(self.raters) != bool(self.questions):
            given = f"{self.raters} with {len(self.questions)} questions"
            raise InputError("plan.raters", given, "raters with questions, or neither")
        other = next((name for name in self.people.pages if name not in self.questions), None)
        if other is not None:
            allowed = ", ".join(self.questions) or "nothing: the plan asks no question"
            raise InputError("plan.people.pages", repr(other), allowed, nearest(other, self.questions))
        twice = next((name for name in self.questions if self.questions.count(name) > 1), None)
        if twice is not None:
            raise InputError("plan.questions", f"{twice!r} twice", "each question once")
        if not self.name.strip():
            raise InputError("plan.name", "nothing", "a name")


@dataclass(frozen=True)
class Arm:
    """One method with one set of settings."""

    name: str
    method: str
    settings: dict[str, Any]
    bundle: str = ""

    @property
    def folder(self) -> str:
        """Its folder's name below the study's."""
        return "".join(letter if letter.isalnum() or letter in "-._=" else "_" for letter in self.name)


def shipped_plans() -> list[str]:
    """Names of the plans that ship."""
    return sorted(path.stem for path in HERE.glob("*.yaml"))


def read_plan(path: Path) -> Plan:
    """Read a plan, or one that ships by its name, its names checked; InputError names what is wrong."""
    if not path.exists() and str(path) in shipped_plans():
        path = HERE / f"{path}.yaml"
    if not path.exists():
        allowed = f"a file, or a plan that ships: {', '.join(shipped_plans())}"
        raise InputError("plan", repr(str(path)), allowed, nearest(str(path), shipped_plans()))
    text = read_plain(path, "plan", MAX_BYTES, "a plan (.yaml or .json)").decode("utf-8", errors="replace")
    try:
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
            raise InputError("plan", f"{path.name!r} with an alias (*name)", "a plan that says everything in its place")
        data = yaml.safe_load(text)
    except RecursionError as reason:
        raise InputError("plan", f"{path.name!r}, whose brackets go too deep", "a plan") from reason
    except yaml.YAMLError as reason:
        mark = getattr(reason, "problem_mark", None)
        where = f"line {mark.line + 1}" if mark is not None else "somewhere"
        raise InputError("plan", f"{path.name!r}, which is no YAML from {where} on", "a plan") from reason
    plan = from_dict(Plan, data, "plan")
    arms_of(plan)
    return plan


def arms_of(plan: Plan) -> tuple[Arm, ...]:
    """The arms of a plan, grids spread out, in its order. InputError for unknown methods, names that meet, or
    comparisons of what is not there.
    """
    found = []
    for number, spec in enumerate(plan.arms):
        where = f"plan.arms.{number}"
        try:
            require_study_method(spec.method, method_of(spec.method).family)
        except InputError as reason:
            raise InputError(f"{where}.method", reason.given, reason.allowed, reason.hint) from reason
        empty = next((name for name, values in spec.grid.items() if not values), None)
        if empty is not None:
            raise InputError(f"{where}.grid.{empty}", "no value", "one value or more")
        both = next((name for name in spec.grid if name in spec.settings), None)
        if both is not None:
            raise InputError(f"{where}.grid.{both}", "a grid beside a setting of that name", "either of them")
        for values in itertools.product(*spec.grid.values()):
            chosen = dict(zip(spec.grid, values, strict=True))
            name = " ".join([spec.method, *(f"{key}={value}" for key, value in chosen.items())])
            found.append((where, Arm(name, spec.method, {**spec.settings, **chosen}, spec.bundle)))
    names = [arm.name for _, arm in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError("plan.arms", f"{twice!r} twice", "arms that differ by method or by their grid")
    if len(names) > MOST_ARMS:
        raise InputError("plan.arms", f"{len(names)} arms", f"at most {MOST_ARMS}")
    for where, arm in found:
        _check_settings(arm, where)
    _check_comparisons(plan, names)
    return tuple(arm for _, arm in found)


def _check_settings(arm: Arm, where: str) -> None:
    """InputError for settings that the method does not have, or not in that range."""
    method = method_of(arm.method)
    own = {name: value for name, value in arm.settings.items() if not name.startswith(INVERSION)}
    inversion = {name[len(INVERSION) :]: value for name, value in arm.settings.items() if name.startswith(INVERSION)}
    try:
        from_dict(method.parameters, own, "parameters")
        from_dict(method.inversion, inversion, "inversion")
    except InputError as reason:
        given = f"{reason.given} in the arm {arm.name!r}"
        raise InputError(f"{where}: {reason.field}", given, reason.allowed, reason.hint) from reason


def _check_comparisons(plan: Plan, names: list[str]) -> None:
    asked = {"rating": "quality", "pair": "pair", "acceptable": "acceptable"}
    for number, one in enumerate(plan.comparisons):
        where = f"plan.comparisons.{number}"
        if len(one.arms) < 2 or len(set(one.arms)) < len(one.arms):
            raise InputError(f"{where}.arms", f"{list(one.arms)}", "two different arms, or more")
        if len(one.arms) > 2 and one.outcome in ("rating", "pair"):
            given = f"{len(one.arms)} arms with the outcome {one.outcome!r}"
            raise InputError(
                f"{where}.arms", given, "two arms; more where the outcome is success, strict or acceptable"
            )
        for name in one.arms:
            if name not in names:
                raise InputError(f"{where}.arms", repr(name), ", ".join(names), nearest(name, names))
        needs = asked.get(one.outcome)
        if needs is not None and needs not in plan.questions:
            raise InputError(f"{where}.outcome", repr(one.outcome), f"with the question {needs!r} in plan.questions")
        if one.edit and plan.edits and one.edit not in plan.edits:
            raise InputError(f"{where}.edit", repr(one.edit), ", ".join(plan.edits), nearest(one.edit, plan.edits))
