"""Settings as they are declared: each once, with its range, default and one line of help.

A method's parameters, the options of its texts and the settings of a picture's inversion are frozen dataclasses of
`setting`s. A command line, a JSON schema and a table of documentation are read from these declarations; a recipe holds
them typed, and remembers which were said (`said`): what was not takes the bundle's presets when it runs.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from functools import cache
from types import UnionType
from typing import Any, ClassVar, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from limner.runtime.errors import InputError, nearest
from limner.runtime.schema import SAID, ErrorType, Remembering, from_dict, require_int, require_number, said

__all__ = [
    "HELP",
    "HIGH",
    "LOW",
    "SAMPLERS",
    "TAKES_ETA",
    "DiffusionInversionParameters",
    "InversionParameters",
    "NoOptions",
    "SamplerName",
    "SamplingParameters",
    "Settings",
    "idle_sampling",
    "laid_over",
    "number_types",
    "options_of",
    "require_sampler",
    "said",
    "setting",
    "typed",
    "without",
]

S = TypeVar("S", bound="Settings")
HELP, LOW, HIGH, HINT = "help", "low", "high", "hint"


def setting(default: Any, help: str, low: float | None = None, high: float | None = None, hint: str = "") -> Any:
    """A field of settings: its default, what it does, and the range of a number (a whole one where `low` is)."""
    data = {HELP: help, LOW: low, HIGH: high, HINT: hint}
    if isinstance(default, (dict, list)):
        return field(default_factory=lambda: type(default)(default), metadata=data)
    return field(default=default, metadata=data)


@dataclass(frozen=True)
class Settings(Remembering):
    """Base of everything that is declared; raises InputError naming the field for a number out of its range."""

    where: ClassVar[str] = "parameters"  # what errors call the object that holds the field

    def __post_init__(self) -> None:
        cls: Any = type(self)
        for one in fields(self):
            value, low, high = getattr(self, one.name), one.metadata.get(LOW), one.metadata.get(HIGH)
            if low is None or value is None:
                continue
            check = require_int if float not in number_types(cls, one.name) else require_number
            check(f"{self.where}.{one.name}", value, low, high, one.metadata[HINT])  # type: ignore[arg-type]


@cache
def number_types(cls: Any, name: str) -> tuple[Any, ...]:
    """The types that a field's value may have, None left out."""
    hint = get_type_hints(cls)[name]
    if get_origin(hint) not in (Union, UnionType):
        return (hint,)
    return tuple(one for one in get_args(hint) if one is not type(None))


def typed(cls: type[S], data: object, where: str, error: ErrorType = InputError) -> S:
    """Return `cls` from JSON data, or data that is one already."""
    if isinstance(data, cls):
        return data
    if data == {}:
        return without(cls(), (one.name for one in fields(cls)))
    return from_dict(cls, data, where, error)


def laid_over(presets: S, settings: S) -> S:
    """Return `presets` with what `settings` say in their place; InputError for values that do not go together."""
    names = said(settings)
    return replace(presets, **{name: getattr(settings, name) for name in names})


def without(settings: S, names: Iterable[str]) -> S:
    """Return the settings with fewer names said; the values stay."""
    found = replace(settings)
    object.__setattr__(found, SAID, said(settings) - set(names))
    return found


def options_of(cls: type[Any]) -> Mapping[str, Field[Any]]:
    """The declared fields by name."""
    return {one.name: one for one in fields(cls)}


@dataclass(frozen=True)
class NoOptions(Settings):
    """Of a method whose texts take none."""

    where: ClassVar[str] = "prompts.options"


def default_of(one: Field[Any]) -> Any:
    """A field's default."""
    return one.default_factory() if one.default_factory is not MISSING else one.default


# --- what several methods declare ---------------------------------------------------------------------------

SamplerName = Literal[
    "ddim", "pndm", "euler", "euler-ancestral", "dpm-solver++", "lms", "heun", "ddpm", "unipc", "deis",
    "dpm-solver++-sde", "lcm", "tcd",
]  # fmt: skip
SAMPLERS: tuple[str, ...] = get_args(SamplerName)
TAKES_ETA = ("ddim", "tcd")
MAX_STEPS = 1000
MAX_SIDE = 4096
MAX_GUIDANCE = 100.0
MOST_SHARED = 50  # steps


def require_sampler(field: str, name: object) -> str:
    """Return `name` if there is such a sampler; InputError lists the known ones and the nearest."""
    if not isinstance(name, str) or name not in SAMPLERS:
        raise InputError(field, repr(name), ", ".join(SAMPLERS), nearest(str(name), SAMPLERS))
    return name


@dataclass(frozen=True)
class InversionParameters(Settings):
    """How hard to work on the encoder's answer. Without refinement the encoder's answer is taken as it is."""

    where: ClassVar[str] = "inversion"
    refine_steps: int = setting(0, "steps of refinement in W+ behind the encoder", 0, 10_000)
    learning_rate: float = setting(0.03, "of the refinement", 1e-6, 10.0)
    pixel_weight: float = setting(1.0, "on the mean over a picture in [-1,1]", 0.0, 1000.0)
    clip_weight: float = setting(0.1, "on CLIP's distance", 0.0, 1000.0)
    identity_weight: float = setting(0.1, "on the identity network's distance", 0.0, 1000.0)
    l2_weight: float = setting(0.0005, "on the sum over all of w_plus", 0.0, 1000.0)
    patience: int = setting(0, "steps without improvement that end it; 0 never stops", 0, 10_000)
    feature_steps: int | None = setting(
        None, "steps in a feature map behind that; if not said, 20 behind a refinement in W+, else 0", 0, 10_000
    )
    feature_fade: float = setting(
        0.4, "change of a pixel by the edit, of 2, that takes away what was found there; 0 keeps all", 0.0, 2.0
    )


@dataclass(frozen=True)
class DiffusionInversionParameters(Settings):
    """None takes the method's own: SEGA inverts edit-friendly and Prompt-to-Prompt directly; the source's text guides
    an edit-friendly inversion at 3.5 and others at 1.
    """

    where: ClassVar[str] = "inversion"
    kind: Literal["edit-friendly", "ddim", "negative-prompt", "direct"] | None = setting(
        None, "how a picture becomes noise; the method's own if not said"
    )
    skip: float = setting(0.15, "edit-friendly: the part of the steps that is left out", 0.0, 0.9)
    guidance_scale: float | None = setting(None, "of the source's text while inverting", 0.0, MAX_GUIDANCE)


@dataclass(frozen=True)
class SamplingParameters(Settings):
    """How pictures are made; methods extend it."""

    steps: int = setting(50, "calls of the network, more or less", 1, MAX_STEPS)
    guidance_scale: float = setting(7.5, "w of classifier-free guidance; 1 and less is none", 0.0, MAX_GUIDANCE)
    sampler: SamplerName | None = setting(None, "how steps are taken; the model's own if not said")  # noqa: RUF009
    eta: float = setting(0.0, "noise of DDIM", 0.0, 1.0)
    height: int | None = setting(None, "pixels; the model's own if not said", 8, MAX_SIDE)
    width: int | None = setting(None, "pixels; the model's own if not said", 8, MAX_SIDE)
    cache_interval: int = setting(1, "steps that share the UNet's deep features; 1 is exact", 1, MOST_SHARED)
    guidance_until: float = setting(1.0, "part of the steps after which nothing is guided; 1 is exact", 0.1, 1.0)

    @property
    def exact(self) -> bool:
        """Whether every step computes all that the method asks for."""
        return self.cache_interval == 1 and self.guidance_until == 1.0

    def guided_steps(self, total: int) -> int:
        """How many of `total` steps are guided."""
        return math.ceil(self.guidance_until * total - 1e-6)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sampler is not None:
            require_sampler("parameters.sampler", self.sampler)


def idle_sampling(parameters: SamplingParameters) -> dict[str, str]:
    """Return the settings that a sampler, where it is named, has no use for, with the reason."""
    if parameters.sampler in (None, *TAKES_ETA):
        return {}
    return {"parameters.eta": f"sampler, which is {parameters.sampler!r}"}
