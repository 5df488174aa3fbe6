"""From prompts and settings to the control of a run: everything that can be known before the first step."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from limner.runtime.attention.aligners import Kind, align, infer_kind
from limner.runtime.attention.control import EditControl
from limner.runtime.attention.local_blend import BlendSettings
from limner.runtime.attention.windows import cross_schedule, self_steps
from limner.runtime.attention.words import Prompt, find_word, pair_tokens
from limner.runtime.errors import InputError
from limner.runtime.methods.prompt_to_prompt import ControlParameters, EditOptions, Window, read_window

__all__ = ["Control", "EditPlan", "Plan", "plan_edits"]

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class Control:
    """What is asked of one edit: what holds for all of a run, and what is its own."""

    parameters: ControlParameters
    options: EditOptions

    def window(self, name: str) -> Window:
        """The window `cross_replace` or `self_replace`: the edit's own, else that of all."""
        own = getattr(self.options, name)
        return read_window(f"parameters.{name}", getattr(self.parameters, name) if own is None else own)


@dataclass(frozen=True, eq=False)
class EditPlan:
    """One edit of a source."""

    prompt: Prompt
    kind: Kind
    control: EditControl
    blend: BlendSettings | None  # of a local edit; its maps are indices into `Plan.words`


@dataclass(frozen=True, eq=False)
class Plan:
    """All edits of one source in one batch."""

    source: Prompt
    edits: tuple[EditPlan, ...]
    words: FloatArray  # [N+1,K,77], the blend words of the source and of its edits; K may be 0

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        """The source's prompt and those of the edits."""
        return (self.source, *(edit.prompt for edit in self.edits))


def plan_edits(
    source: Prompt,
    targets: Sequence[tuple[Prompt, Control]],  # the edits
    steps: int,
    tokens: int = 77,
) -> Plan:
    """Return what a run of `steps` steps does.

    Raises InputError for a word that is not in its prompt, for prompts that the kind of edit does not take, and for
    an edit that asks for nothing.
    """
    columns: list[tuple[int, list[int], list[int]]] = []  # (edit, tokens in the source, tokens in the edit) of a map
    edits = []
    for member, (target, control) in enumerate(targets, start=1):
        blend = _blend(source, target, control, steps, member, columns)
        kind, found = _control(source, target, control, steps, tokens)
        edits.append(EditPlan(target, kind, found, blend))
    words = np.zeros((len(edits) + 1, len(columns), tokens), dtype=np.float32)
    for index, (member, left, right) in enumerate(columns):
        words[0, index, left] = 1
        words[member, index, right] = 1
    return Plan(source, tuple(edits), words)


def _control(source: Prompt, target: Prompt, control: Control, steps: int, tokens: int) -> tuple[Kind, EditControl]:
    options = control.options
    kind = infer_kind(source, target) if options.kind == "auto" else options.kind
    if source.ids == target.ids and not options.weights:
        allowed = "a text other than the source's, or weights for some of its words"
        raise InputError("prompts.text", f"{target.text!r}, the source's own text, and no weights", allowed)
    weights = np.ones(tokens, dtype=np.float32)
    for word, places in _apart(target, options.weights, "prompts.options.weights").items():
        weights[list(places)] = options.weights[word]
    _apart(target, options.word_windows, "prompts.options.word_windows")
    alpha = cross_schedule(
        target,
        steps,
        control.window("cross_replace"),
        {word: read_window("prompts.options.word_windows", window) for word, window in options.word_windows.items()},
        tokens,
    )
    alignment = align(kind, source, target, control.parameters.compat, tokens=tokens)
    return kind, EditControl(alignment, weights, alpha, self_steps(steps, control.window("self_replace")))


def _apart(target: Prompt, words: Iterable[str], field: str) -> dict[str, tuple[int, ...]]:
    """Return the tokens of each word; InputError for two that share one, of which one would have no say."""
    found: dict[str, tuple[int, ...]] = {}
    for word in words:
        places = find_word(target, word, field)
        for other, taken in found.items():
            if set(taken) & set(places):
                hint = "a word that stands there twice has its places as word#1 and word#2"
                raise InputError(field, f"{word!r} beside {other!r}, which are one word of {target.text!r}",
                                 "each word once", hint)  # fmt: skip
        found[word] = places
    return found


def _blend(
    source: Prompt,
    target: Prompt,
    control: Control,
    steps: int,
    member: int,
    columns: list[tuple[int, list[int], list[int]]],
) -> BlendSettings | None:
    """Add the maps of the edit's blend words to `columns`."""
    options, parameters = control.options, control.parameters
    if not options.blend and options.drawn is None:
        return None
    words, subtract = None, None
    if options.blend:
        words = len(columns)
        columns.append((member, *pair_tokens(source, target, options.blend, "blend")))
    if options.subtract:
        subtract = len(columns)
        columns.append((member, *pair_tokens(source, target, options.subtract, "subtract")))
    start = int(parameters.blend_start * steps)
    return BlendSettings(
        words, subtract, start, parameters.blend_threshold, parameters.subtract_threshold, options.drawn
    )
