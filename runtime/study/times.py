"""How long an edit takes: the first one of a fresh process, the next ones, and each of a batch.

A method on a provider is measured in a process of its own (`limner study time` starts one for each), so that "first"
holds everything: importing, checking the bundle, loading graphs. Edits of the samples' pictures include inversion;
those of generated pictures the generation. The picture without the edit is not made (`compare=False`).
"""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

from limner.runtime.editor import Editor
from limner.runtime.errors import InputError
from limner.runtime.machine import machine
from limner.runtime.recipe import Recipe
from limner.runtime.settings import options_of
from limner.runtime.study.recipes import edits_of, method_of, recipe_of
from limner.runtime.study.samples import EditSpec, Sample, Samples

__all__ = ["Times", "measure", "timed_recipes", "times_table"]

TITLES = ("method", "part", "provider", "steps", "first edit, s", "next, s", "slowest, s", "same picture again, s",
          "in a batch, s")  # fmt: skip


@dataclass(frozen=True)
class Times:
    """Seconds of one method on one provider."""

    method: str
    part: str  # real, or generated
    provider: str
    steps: int | None  # of a method that has them
    first: float  # of a fresh process
    next: float  # median of other sources, words known
    slowest: float  # of these
    same: float  # median of the last source again, by other words and by these
    batch: float  # an edit, of so many together
    count: int  # sources
    together: int


def timed_recipes(
    editor: Editor, samples: Samples, method: str, part: str, count: int, steps: int | None = None
) -> tuple[list[Recipe], Recipe]:
    """One edit of `count` samples, and another edit of the last one. InputError for too few samples.

    The edit is the first of the samples' table that so many samples ask for.
    """
    asked = edits_of(method, editor.bundle, samples.edits(()))
    given = {"steps": steps} if steps is not None and "steps" in options_of(method_of(method).parameters) else {}

    def recipe(edit: EditSpec, sample: Sample) -> Recipe:
        picture = str(samples.picture(sample)) if part == "real" else None
        return recipe_of(editor.bundle, method, edit, sample, picture, given)

    for edit in asked:
        fitting = [sample for sample in samples if edit.name in sample.edits][:count]
        other = next((one for one in asked if fitting and one is not edit and one.name in fitting[-1].edits), None)
        if len(fitting) == count and other is not None:
            return [recipe(edit, one) for one in fitting], recipe(other, fitting[-1])
    raise InputError("count", count, f"at most the samples that one edit of {method!r} fits, and one other edit")


def measure(
    began: float,  # time.time() when the process was started
    editor: Editor,
    recipes: Sequence[Recipe],
    other: Recipe,  # another edit of the last one's source
    part: str,
    name: str,
    together: int = 8,
) -> Times:
    """Run the edits and take the times."""

    def seconds(*edits: Recipe) -> float:
        begin = time.perf_counter()
        editor.edit_batch(edits, batch=together, compare=False)
        return time.perf_counter() - begin

    first = editor.edit(recipes[0], compare=False)
    until = time.time() - began
    new = [seconds(one) for one in recipes[1:]]
    same = [seconds(one) for one in (other, recipes[-1]) * 2]
    several = [recipes[k % len(recipes)] for k in range(together)]
    batch = min(seconds(*several) for _ in range(2)) / together
    return Times(
        method=name,
        part=part,
        provider=editor.provider,
        steps=getattr(first.recipe.parameters, "steps", None),
        first=until,
        next=statistics.median(new),
        slowest=max(new),
        same=statistics.median(same),
        batch=batch,
        count=len(new),
        together=together,
    )


def times_table(rows: Sequence[Times]) -> str:
    """Markdown, the machine's name above it."""
    here = machine()
    gpus = ", ".join(here["gpus"]) or "no GPU"
    lines = [
        f"{here['processor']}, {here['cores']} cores, {here['memory_gb']} GB, {gpus}, Python {here['python']}.",
        "",
        f"| {' | '.join(TITLES)} |",
        "|" + "---|" * len(TITLES),
    ]
    for row in rows:
        numbers = (row.first, row.next, row.slowest, row.same, row.batch)
        cells = [row.method, row.part, row.provider, "-" if row.steps is None else str(row.steps)]
        lines.append(f"| {' | '.join([*cells, *(f'{value:.2f}' for value in numbers)])} |")
    return "\n".join(lines) + "\n"
