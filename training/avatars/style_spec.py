"""What a style is: the drawing's options, the attributes read off them, and DiceBear's names for both."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Option:
    """One choice the renderer takes."""

    name: str  # e.g. "hair"
    choices: tuple[tuple[str, str, float], ...]  # (drawing value, attribute value, weight)
    depends_on: str = ""  # when set, choices are limited to `allowed[value of that attribute]`
    allowed: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def values(self) -> tuple[str, ...]:
        return tuple(c[0] for c in self.choices)


@dataclass(frozen=True)
class StyleSpec:
    """One DiceBear style: its options, the attributes read off them, and what makes an identity."""

    name: str  # DiceBear style name
    options: tuple[Option, ...]
    attributes: tuple[tuple[str, str], ...]  # (attribute name, option it is read from)
    identity: tuple[str, ...]  # option names
    licence: str
    creator: str
    source: str
    components: tuple[tuple[str, str], ...]  # (option name, DiceBear component); the value "none" leaves it out
    colors: tuple[tuple[str, tuple[str, ...]], ...]  # (option name, DiceBear colours)
    fixed: tuple[tuple[str, str], ...] = ()  # DiceBear options that never vary

    def option(self, name: str) -> Option:
        return next(o for o in self.options if o.name == name)

    def attribute_values(self, name: str) -> tuple[str, ...]:
        """All values of an attribute, in table order, without repeats. Hair colour has "hidden" last."""
        option = self.option(dict(self.attributes)[name])
        values = tuple(dict.fromkeys(c[1] for c in option.choices))
        return (*values, "hidden") if name == "hair_color" else values


def group(attribute: str, weight: float, *values: str) -> tuple[tuple[str, str, float], ...]:
    return tuple((value, attribute, weight / len(values)) for value in values)


def colors(**hex_by_name: str) -> tuple[tuple[str, str, float], ...]:
    return tuple((code, name, 1.0) for name, code in hex_by_name.items())
