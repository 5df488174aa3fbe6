"""An edit as data: method, source, words, strengths, parameters.

    >>> recipe = Recipe("global-directions", Source.from_seed(7), (PromptEdit("a person with a beard"),))
    >>> Recipe.from_json(recipe.to_json()) == recipe
    True

A Recipe that exists is valid in itself: an unknown method, an empty prompt or a number out of its range is
refused when it is made. What only a bundle can tell (a beta that leaves no channel, a text of too many
tokens) is refused by the Editor. Keys that the recipe leaves out take the bundle's presets, then the method's
published defaults; the recipe that comes back in `Edit.recipe` has all that act filled in, and none that cannot, so
that it replays without looking anything up.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from limner.runtime.errors import InputError
from limner.runtime.faces.face import Face
from limner.runtime.grammar import refuse_markup
from limner.runtime.methods.registry import Family, Method, find_method, methods_of, methods_with
from limner.runtime.schema import (
    from_dict,
    parse_json,
    read_json,
    require_int,
    require_number,
    require_sha256,
    said,
    to_dict,
)
from limner.runtime.settings import Settings, options_of, typed

__all__ = [
    "MAX_CHARACTERS",
    "MAX_SEED",
    "RECIPE_VERSION",
    "STRENGTH_LIMIT",
    "TRUNCATION",
    "PromptEdit",
    "Recipe",
    "Source",
    "check_text",
]

RECIPE_VERSION = 2
MAX_WORDS = 120  # a CLIP text holds 77 tokens; the tokenizer counts them and names what falls off
MAX_CHARACTERS = 600
SOURCE_KINDS = ("image", "seed", "w_plus", "prompt")
FAMILY_SOURCES: dict[Family, tuple[str, ...]] = {
    "stylegan2": ("image", "seed", "w_plus"),
    "diffusion": ("image", "prompt"),
}
TRUNCATION = 0.7
MAX_SEED = 2**32 - 1  # what numpy's RandomState takes
STRENGTH_LIMIT = 100.0  # the widest range of any method; each method narrows it


@dataclass(frozen=True)
class Source:
    """The picture to start from.

    kind "image": the file `path` is inverted, to W+ or to noise; "seed": z comes from numpy's RandomState(seed),
    then the mapping network with truncation psi; "w_plus": float32 [num_ws, w_dim] in the .npy file `path`;
    "prompt": the diffusion model makes the picture from the text `prompt` and the seed. Without a path an image
    or a w_plus is handed to the Editor as an array. `sha256` is that of the file's bytes (or of the array's),
    filled in by the Editor, and compared where it was given. For an image, `prompt` may say what it shows;
    methods on a diffusion bundle read it. `face` is the part of an image that is edited; without one it is the
    centred square.
    """

    kind: Literal["image", "seed", "w_plus", "prompt"]
    path: str | None = None
    seed: int | None = None
    sha256: str | None = None
    truncation: float = TRUNCATION  # psi of a seed, 0 (the mean face) to 1 (no truncation)
    prompt: str | None = None
    face: Face | None = None

    def __post_init__(self) -> None:
        if self.kind not in SOURCE_KINDS:
            raise InputError("source.kind", repr(self.kind), ", ".join(map(repr, SOURCE_KINDS)))
        require_number("source.truncation", self.truncation, 0.0, 1.0)
        if self.truncation != TRUNCATION and self.kind != "seed":
            raise InputError("source.truncation", f"{self.truncation:g} for a source of kind {self.kind!r}", "a seed")
        if self.prompt is not None and self.kind not in ("prompt", "image"):
            raise InputError("source.prompt", repr(self.prompt), f"no prompt for a source of kind {self.kind!r}")
        if self.kind == "prompt" or self.prompt:
            check_text("source.prompt", "" if self.prompt is None else self.prompt)
        if self.kind in ("seed", "prompt"):
            require_int("source.seed", self.seed, 0, MAX_SEED)
            if self.path is not None:
                raise InputError("source.path", repr(self.path), f"no path beside a {self.kind}")
        elif self.seed is not None:
            raise InputError("source.seed", repr(self.seed), f"no seed for a source of kind {self.kind!r}")
        if self.path is not None and (not isinstance(self.path, str) or not self.path.strip()):
            raise InputError("source.path", repr(self.path), "the path of a file")
        if self.path is not None:
            _check_characters("source.path", self.path)
        if self.sha256 is not None:
            require_sha256("source.sha256", self.sha256)
        if self.face is not None and self.kind != "image":
            raise InputError("landmarks", f"a face of a source of kind {self.kind!r}", "a face of a picture file")

    @classmethod
    def from_image(cls, path: str | Path, prompt: str | None = None) -> "Source":
        """A picture file, inverted by the bundle's encoder; `prompt` says what it shows."""
        return cls("image", path=str(path), prompt=prompt)

    @classmethod
    def from_prompt(cls, prompt: str, seed: int) -> "Source":
        """A picture that the diffusion model makes from a text and a seed."""
        return cls("prompt", seed=seed, prompt=prompt)

    @classmethod
    def from_seed(cls, seed: int, truncation: float = TRUNCATION) -> "Source":
        """A picture that the generator makes from a seed."""
        return cls("seed", seed=seed, truncation=truncation)

    @classmethod
    def from_w_plus(cls, path: str | Path) -> "Source":
        """Latents that were saved before, float32 [num_ws, w_dim] in a .npy file."""
        return cls("w_plus", path=str(path))


@dataclass(frozen=True)
class PromptEdit:
    """One text to move towards, and how far.

    `strength` is alpha for global directions (in standard deviations of a channel) and the part of the way, 1
    for all of it, for latent optimization; None takes the default. `options` are those that the method declares
    (`limner methods show METHOD`), as a mapping or as its own dataclass, which a Recipe makes of it.
    """

    text: str
    strength: float | None = None
    options: Any = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_text("prompts.text", self.text)
        if not isinstance(self.options, (Mapping, Settings)):
            raise InputError("prompts.options", repr(self.options), "an object")
        if self.strength is not None:
            require_number("prompts.strength", self.strength, -STRENGTH_LIMIT, STRENGTH_LIMIT)

    def with_options(self, **changed: Any) -> "PromptEdit":
        """This text with some options changed."""
        return replace(self, options=replace(self.options, **changed))


@dataclass(frozen=True, eq=False)
class Recipe:
    """One edit; see the module's text.

    `parameters` and `inversion` are given as mappings or as the dataclasses that the method declares, and held as
    these; what they leave out has its default, and takes the bundle's preset at the run.
    """

    method: str
    source: Source
    prompts: tuple[PromptEdit, ...]
    parameters: Any = field(default_factory=dict)  # the method's own dataclass
    inversion: Any = field(default_factory=dict)  # (Diffusion)InversionParameters; says nothing unless for an image
    seed: int = 0  # of the draws at the inversion of a picture, where it draws any (edit-friendly)
    bundle: str | None = None  # Bundle.digest, filled in by the Editor and compared where it was given
    version: int = RECIPE_VERSION

    def __post_init__(self) -> None:
        if not isinstance(self.version, int) or self.version != RECIPE_VERSION:
            raise InputError("version", repr(self.version), str(RECIPE_VERSION), "update limner")
        method = find_method(self.method)
        if not 1 <= len(self.prompts) <= method.max_prompts:
            raise InputError("prompts", f"{len(self.prompts)} texts", f"1 to {method.max_prompts} texts")
        require_int("seed", self.seed, 0, MAX_SEED)
        if self.bundle is not None:
            require_sha256("bundle", self.bundle)
        object.__setattr__(self, "parameters", typed(method.parameters, self.parameters, "parameters"))
        check_family(method, self.source)
        object.__setattr__(self, "prompts", tuple(_typed_prompt(method, prompt) for prompt in self.prompts))
        _check_seed(method, self)
        if said(_inversion(method, self)) and self.source.kind != "image":
            given = f"settings for a source of kind {self.source.kind!r}"
            raise InputError("inversion", given, "settings for an image only")
        method.check(self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Recipe) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash(self.to_json())

    @classmethod
    def from_dict(cls, data: object) -> "Recipe":
        """Build a recipe from JSON data; InputError names what is unknown, mistyped or out of range."""
        if not isinstance(data, dict) or "method" not in data:
            return from_dict(cls, data, "")
        method = find_method(data["method"])
        types: dict[tuple[type, str], type] = {(cls, "parameters"): method.parameters}
        types |= {(cls, "inversion"): method.inversion, (PromptEdit, "options"): method.options}
        return from_dict(cls, as_today(data, method), "", types=types)

    @classmethod
    def from_json(cls, text: str | bytes) -> "Recipe":
        """Parse a recipe; the opposite of `to_json`."""
        return cls.from_dict(parse_json(text, "recipe"))

    @classmethod
    def from_file(cls, path: str | Path) -> "Recipe":
        """Read a recipe from a JSON file."""
        return cls.from_dict(read_json(Path(path), "recipe"))

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe as JSON data."""
        result: dict[str, Any] = to_dict(self)
        return result

    def to_json(self, indent: int | None = None) -> str:
        """Return the recipe as JSON; equal recipes give equal text."""
        return json.dumps(self.to_dict(), indent=indent, ensure_ascii=False, allow_nan=False, sort_keys=True)

    def scaled(self, strength: float) -> "Recipe":
        """Return this recipe with every prompt's strength, None counting as 1, multiplied by `strength`.

        Products have 12 digits: 6 times 0.7 is 4.2.
        """
        whole = (1.0 if p.strength is None else p.strength for p in self.prompts)
        prompts = (
            replace(p, strength=float(f"{one * strength:.12g}")) for p, one in zip(self.prompts, whole, strict=True)
        )
        return replace(self, prompts=tuple(prompts))


def check_text(where: str, text: object) -> None:
    if not isinstance(text, str):
        raise InputError(where, repr(text), "a text")
    _check_characters(where, text)
    if not any(character.isalnum() for character in text):
        raise InputError(where, "an empty text" if not text.strip() else repr(text[:60]), "a text of at least one word")
    words = len(text.split())
    if words > MAX_WORDS:
        raise InputError(where, f"{words} words", f"at most {MAX_WORDS} words")
    if len(text) > MAX_CHARACTERS:
        raise InputError(where, f"{len(text)} characters", f"at most {MAX_CHARACTERS} characters")
    refuse_markup(text, where)


def _check_characters(where: str, text: str) -> None:
    """A recipe is UTF-8: no half characters, as bytes of other encodings on a command line become."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as reason:
        given = f"{text[:60]!a}, which is no UTF-8 from character {reason.start + 1} on"
        raise InputError(where, given, "characters that UTF-8 can write") from reason


def as_today(data: dict[str, Any], method: Method) -> dict[str, Any]:
    """Data of an earlier version of the format as it is written now: 1 had `neutral` and `beta` beside a text."""
    if type(data.get("version", 1)) is not int or data.get("version", 1) != 1:
        return data
    prompts = data.get("prompts")
    if not isinstance(prompts, list):
        return data | {"version": RECIPE_VERSION}
    return data | {"version": RECIPE_VERSION, "prompts": [_prompt_as_today(prompt, method) for prompt in prompts]}


def _prompt_as_today(prompt: Any, method: Method) -> Any:
    if not isinstance(prompt, dict):
        return prompt
    known = options_of(method.options)
    moved = {
        name: prompt[name]
        for name in ("neutral", "beta")
        if name in prompt and (name in known or prompt[name] is not None)
    }
    rest = {name: value for name, value in prompt.items() if name not in ("neutral", "beta")}
    return rest | {"options": {**prompt.get("options", {}), **moved}} if moved else rest


def _typed_prompt(method: Method, prompt: PromptEdit) -> PromptEdit:
    """The text with its options as the method declares them; InputError names the methods that have one."""
    if isinstance(prompt.options, method.options):
        return prompt
    known = options_of(method.options)
    for name, value in prompt.options.items() if isinstance(prompt.options, Mapping) else ():
        if name not in known and (others := methods_with(name)):
            hint = f"{', '.join(others)} {'has' if len(others) == 1 else 'have'} it"
            allowed = f"nothing for the method {method.name!r}"
            raise InputError(f"prompts.options.{name}", repr(value), allowed, hint)
    return replace(prompt, options=typed(method.options, prompt.options, "prompts.options"))


def _inversion(method: Method, recipe: Recipe) -> Settings:
    found = typed(method.inversion, recipe.inversion, "inversion")
    object.__setattr__(recipe, "inversion", found)
    return found


def check_family(method: Method, source: Source) -> None:
    """InputError unless the source is one that the method's models can start from."""
    kinds = FAMILY_SOURCES[method.family]
    if source.kind not in kinds:
        allowed = f"{' or '.join(map(repr, kinds))} for the method {method.name!r}"
        others = [family for family, known in FAMILY_SOURCES.items() if source.kind in known]
        hint = f"a {source.kind} is for {', '.join(name for family in others for name in methods_of(family))}"
        if source.kind == "seed":
            hint = "say what the picture of the seed shows: --source-prompt TEXT makes it a prompt"
        raise InputError("source.kind", repr(source.kind), allowed, hint)
    if source.prompt is not None and method.family != "diffusion":
        allowed = f"no prompt for the method {method.name!r}"
        hint = f"{', '.join(methods_of('diffusion'))} take one"
        raise InputError("source.prompt", repr(source.prompt), allowed, hint)


def _check_seed(method: Method, recipe: Recipe) -> None:
    if recipe.seed and not (method.has("seed") and recipe.source.kind == "image"):
        allowed = f"0 for the method {method.name!r} from a source of kind {recipe.source.kind!r}, which draws nothing"
        hint = f"it is for {', '.join(methods_with('seed'))} with a picture file"
        raise InputError("seed", str(recipe.seed), allowed, hint)
