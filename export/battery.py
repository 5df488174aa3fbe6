"""The battery: does an edit by words do what it says, and nothing else? Judged on held-out pictures.

Twelve edits, each on `count` held-out pictures that do not have the asked attribute yet. The pictures are
rendered avatars of identities that no model was trained on; they are inverted by the runtime's encoder and
edited by the runtime's methods (ONNX Runtime, no torch). A judge, a classifier trained on rendered training
pictures alone and used in no loss, then reads all attributes of the result. An edit succeeds when the judge
sees the asked attribute and at least 85 % of the other attributes are those of the original picture, by the
renderer's own record and not by the judge. Hair colour is left out of "the others" where one of the two
pictures shows no hair (bald, hats), because the edit asked for that.

    python -m limner.export.battery --split validation --count 20 --method global-directions --set alpha=6
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limner.runtime.bundle.loading import load_bundle
from limner.runtime.bundle.presets import presets, resolved
from limner.runtime.methods.global_directions import GlobalDirectionsParameters
from limner.runtime.methods.latent_mapper import LatentMapperParameters
from limner.runtime.methods.latent_optimization import LatentOptimizationParameters, OptimizationOptions
from limner.runtime.pictures.images import to_float, to_u8
from limner.runtime.recipe import PromptEdit
from limner.runtime.settings import InversionParameters, typed
from limner.runtime.study.judge import JudgeGraph
from limner.runtime.stylegan2.global_directions import (
    channel_direction,
    edit_styles,
    editable_channels,
    templated_features,
    text_direction,
)
from limner.runtime.stylegan2.inversion import invert
from limner.runtime.stylegan2.latent_mapper import mapper_steps, render_steps
from limner.runtime.stylegan2.latent_optimization import render as render_latents
from limner.runtime.stylegan2.latent_optimization import walk
from limner.runtime.stylegan2.networks import Models
from limner.runtime.text.templates import STYLECLIP_TEMPLATES
from limner.runtime.timing import Timer
from limner.training.avatars.attributes import AVATAAARS, Avatar, StyleSpec, sample_in_split
from limner.training.avatars.render import render

log = logging.getLogger("limner")
FloatArray = NDArray[np.float32]
KEPT_SHARE = 0.85  # of the other attributes
OWN = ("start", "start_beta", "steps", "direction_scale")  # of latent optimization, where an edit has its own


@dataclass(frozen=True)
class BatteryEdit:
    """One edit: the words given to the method, and what the judge should then see."""

    name: str
    attribute: str
    value: str
    text: str
    neutral: str = "a person"
    alpha: float | None = None  # of global directions, where the edit has its own, chosen on validation pictures
    beta: float | None = None
    start: float | None = None  # of latent optimization, likewise
    start_beta: float | None = None
    steps: int | None = None
    direction_scale: float | None = None
    scale: float | None = None  # of SEGA's concepts on a generated picture, likewise
    threshold: float | None = None


EDITS = (
    BatteryEdit("beard", "facial_hair", "beard", "a person with a beard", alpha=6.0, beta=0.35),
    BatteryEdit("glasses", "eyewear", "glasses", "a person with glasses", alpha=6.0, beta=0.22, threshold=0.95),
    BatteryEdit("sunglasses", "eyewear", "sunglasses", "a person with sunglasses", alpha=8.0, beta=0.35, scale=4.5),
    BatteryEdit("bald", "hair", "bald", "a bald person", alpha=10.0, beta=0.14),
    BatteryEdit("smiling", "expression", "smiling", "a smiling person", alpha=6.0, beta=0.16),
    BatteryEdit("surprised", "expression", "surprised", "a surprised person", alpha=8.0, beta=0.35, scale=4.5),
    BatteryEdit(
        "sad",
        "expression",
        "sad",
        "a person with a frown",
        "a person with a smile",
        alpha=10.0,
        beta=0.42,
        start=9.0,
        start_beta=0.38,
        steps=20,
        direction_scale=4.0,
    ),
    BatteryEdit("long hair", "hair", "long", "a person with long hair", alpha=8.0, beta=0.22, scale=4.5),
    BatteryEdit("blonde", "hair_color", "blonde", "a person with blonde hair", alpha=10.0, beta=0.14, scale=4.5),
    BatteryEdit("red hair", "hair_color", "red", "a person with red hair", alpha=10.0, beta=0.28),
    BatteryEdit("blue background", "background", "blue", "a person, blue background", alpha=6.0, beta=0.28),
    BatteryEdit("red clothes", "clothes_color", "red", "a person wearing red clothes", alpha=4.0, beta=0.28, scale=4.5),
)


@dataclass(frozen=True)
class Score:
    """Of one edit: how many of `count` succeeded, saw the attribute, and the mean share of the others kept."""

    name: str
    count: int
    success: int
    seen: int
    kept: float
    identity: float  # mean cosine of the edited picture with the inverted one


def wilson(success: int, count: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's 95 % interval of a share (Wilson 1927)."""
    p = success / count
    centre = (p + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(p * (1 - p) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    return centre - half, centre + half


class Pictures:
    """Held-out avatars of one split, rendered and inverted as they are asked for."""

    def __init__(self, models: Models, split: str, inversion: InversionParameters, seed: int = 0,
                 style: StyleSpec = AVATAAARS) -> None:  # fmt: skip
        self.models, self.split, self.inversion, self.seed, self.style = models, split, inversion, seed, style
        self.size = models.bundle.generator.size
        self._w_plus: dict[int, FloatArray] = {}

    def avatar(self, index: int) -> Avatar:
        return sample_in_split(self.style, self.split, index, self.seed)

    def attributes(self, index: int) -> dict[str, str]:
        return self.avatar(index).attributes(self.style)

    def image(self, index: int) -> NDArray[np.uint8]:
        return render(self.style, self.avatar(index), self.size)

    def w_plus(self, indices: Sequence[int]) -> FloatArray:
        missing = [i for i in indices if i not in self._w_plus]
        for start in range(0, len(missing), 25):
            rows = missing[start : start + 25]
            found = invert(self.models, to_float(np.stack([self.image(i) for i in rows])), self.inversion)
            self._w_plus |= {i: one.w_plus[0] for i, one in zip(rows, found, strict=True)}
        return np.stack([self._w_plus[i] for i in indices])

    def suitable(self, edit: BatteryEdit, count: int) -> list[int]:
        """The first `count` pictures where the edit has something to do and somewhere to do it."""
        chosen: list[int] = []
        index = 0
        while len(chosen) < count:
            words = self.attributes(index)
            visible = edit.attribute != "hair_color" or words["hair_color"] != "hidden"
            if words[edit.attribute] != edit.value and visible:
                chosen.append(index)
            index += 1
        return chosen


Method = Callable[[BatteryEdit, FloatArray], FloatArray]  # w_plus [N,L,D] -> image [N,3,H,W]


def global_directions(models: Models, parameters: GlobalDirectionsParameters) -> Method:
    """The runtime's global directions on many pictures at once."""
    templates = parameters.templates or STYLECLIP_TEMPLATES

    def run(edit: BatteryEdit, w_plus: FloatArray) -> FloatArray:
        target = templated_features(models, edit.text, templates, "prompts.text")
        neutral = templated_features(models, edit.neutral, templates, "prompts.neutral")
        tensors = models.bundle.relevance
        direction = channel_direction(tensors["relevance"], tensors["style_std"], text_direction(target, neutral),
                                      editable_channels(models.bundle),
                                      beta=parameters.beta if edit.beta is None else edit.beta,
                                      channels=parameters.channels)  # fmt: skip
        styles = edit_styles(
            models.affine(w_plus), [direction], [parameters.alpha if edit.alpha is None else edit.alpha]
        )
        return np.concatenate(
            [models.synthesis_from_styles(s) for s in np.array_split(styles, max(1, len(styles) // 25))]
        )

    return run


def latent_optimization(models: Models, parameters: LatentOptimizationParameters, batch: int = 10) -> Method:
    """The runtime's latent optimization on many pictures at once."""

    def run(edit: BatteryEdit, w_plus: FloatArray) -> FloatArray:
        own = {name: value for name in OWN if (value := getattr(edit, name)) is not None}
        chosen = replace(parameters, **own)
        neutral = edit.neutral if parameters.objective == "direction" else None
        prompt = PromptEdit(edit.text, options=OptimizationOptions(neutral))
        images = []
        for rows in np.array_split(w_plus, max(1, math.ceil(len(w_plus) / batch))):
            found = walk(models, rows, [prompt] * len(rows), chosen, Timer())
            images.append(render_latents(models, np.stack([one.latents for one in found]), chosen))
        return np.concatenate(images)

    return run


def latent_mapper(models: Models, parameters: LatentMapperParameters) -> Method:
    """The runtime's mapper of the edit's name on many pictures at once; `mapped` tells which edits have one."""

    def run(edit: BatteryEdit, w_plus: FloatArray) -> FloatArray:
        suggested = models.bundle.manifest.mappers[edit.name].strength
        strength = suggested if parameters.strength is None else parameters.strength
        images = []
        for rows in np.array_split(w_plus, max(1, math.ceil(len(w_plus) / 25))):
            steps = mapper_steps(models, [edit.name], rows)
            images.append(render_steps(models, rows, steps, {edit.name: strength}))
        return np.concatenate(images)

    return run


def mapped(models: Models, edits: Sequence[BatteryEdit]) -> list[BatteryEdit]:
    """The edits that the bundle has a mapper for."""
    return [edit for edit in edits if edit.name in models.bundle.manifest.mappers]


class Judging:
    """The judge's words for pictures [N,3,H,W]."""

    def __init__(self, folder: str | Path) -> None:
        self.graph = JudgeGraph(folder)

    def __call__(self, image: FloatArray) -> list[dict[str, str]]:
        return self.graph.words(np.stack([to_u8(one[None])[0] for one in image]))  # what a file would hold


def others_kept(edit: BatteryEdit, before: dict[str, str], after: dict[str, str]) -> float:
    """The share of the other attributes that stayed as they were."""
    others = [name for name in before if name != edit.attribute]
    if edit.attribute == "hair" and "hidden" in (before["hair_color"], after["hair_color"]):
        others.remove("hair_color")
    return sum(before[name] == after[name] for name in others) / len(others)


def run_battery(method: Method, pictures: Pictures, judge: Judging, count: int,
                edits: Sequence[BatteryEdit] = EDITS) -> list[Score]:  # fmt: skip
    """Score every edit on `count` pictures."""
    scores = []
    for edit in edits:
        indices = pictures.suitable(edit, count)
        w_plus = pictures.w_plus(indices)
        started = time.perf_counter()
        image = method(edit, w_plus)
        seconds = time.perf_counter() - started
        after = judge(image)
        before = [pictures.attributes(i) for i in indices]
        kept = np.array([others_kept(edit, b, a) for b, a in zip(before, after, strict=True)])
        seen = np.array([a[edit.attribute] == edit.value for a in after])
        source = pictures.models.synthesis(w_plus)
        cosine = (pictures.models.identity(source) * pictures.models.identity(image)).sum(1)
        score = Score(edit.name, count, int((seen & (kept >= KEPT_SHARE)).sum()), int(seen.sum()),
                      float(kept.mean()), float(cosine.mean()))  # fmt: skip
        scores.append(score)
        log.info("%-16s success %d of %d, seen %d, kept %.3f, identity %.3f, %.1f s", edit.name, score.success, count,
                 score.seen, score.kept, score.identity, seconds)  # fmt: skip
    return scores


def table(scores_by_method: dict[str, list[Score]]) -> str:
    """A Markdown table: success with its Wilson interval per edit and method; a method may lack some edits."""
    methods = list(scores_by_method)
    lines = ["| edit | " + " | ".join(methods) + " |", "|---|" + "---|" * len(methods)]
    found = {(method, score.name): score for method, rows in scores_by_method.items() for score in rows}
    for name in dict.fromkeys(name for _, name in found):
        scores = [found.get((method, name)) for method in methods]
        lines.append(f"| {name} | " + " | ".join(_share(s.success, s.count) if s else "" for s in scores) + " |")
    totals = [(sum(s.success for s in rows), sum(s.count for s in rows)) for rows in scores_by_method.values()]
    lines.append("| **all** | " + " | ".join(f"**{_share(*t)}**" for t in totals) + " |")
    kept = [float(np.mean([s.kept for s in rows])) for rows in scores_by_method.values()]
    identity = [float(np.mean([s.identity for s in rows])) for rows in scores_by_method.values()]
    lines.append("| off-target change, mean | " + " | ".join(f"{1 - mean:.3f}" for mean in kept) + " |")
    lines.append("| identity cosine, mean | " + " | ".join(f"{mean:.3f}" for mean in identity) + " |")
    return "\n".join(lines)


def _share(success: int, count: int) -> str:
    low, high = wilson(success, count)
    return f"{100 * success / count:.0f} % ({100 * low:.0f}-{100 * high:.0f})"


METHODS: dict[str, tuple[type[Any], Callable[..., Method]]] = {
    "latent-optimization": (LatentOptimizationParameters, latent_optimization),
    "global-directions": (GlobalDirectionsParameters, global_directions),
    "latent-mapper": (LatentMapperParameters, latent_mapper),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the battery and print its table; --out writes battery.json and battery.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="checkpoints/avatars/bundle")
    parser.add_argument("--judge", default="checkpoints/avatars/judge")
    parser.add_argument("--split", default="test", choices=("validation", "test"))
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--method", action="append", choices=list(METHODS))
    parser.add_argument("--edit", action="append", choices=[e.name for e in EDITS])
    parser.add_argument("--mapped", action="store_true", help="only edits that the bundle has a mapper for")
    parser.add_argument("--set", action="append", default=[], help="key=value of the method's parameters")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    models = Models(load_bundle(given.bundle), threads=given.threads)
    judge = Judging(given.judge)
    settings = {k: json.loads(v) for k, v in (item.split("=", 1) for item in given.set)}
    inversion = presets(models.bundle, InversionParameters, "inversion")
    pictures = Pictures(models, given.split, inversion)
    edits = [e for e in EDITS if not given.edit or e.name in given.edit]
    edits = mapped(models, edits) if given.mapped else edits
    results: dict[str, list[Score]] = {}
    for name in given.method or METHODS:
        parameters_class, make = METHODS[name]
        parameters = resolved(models.bundle, typed(parameters_class, settings, "parameters"), name)
        log.info("%s on %s pictures: %s", name, given.split, parameters)
        chosen = mapped(models, edits) if name == "latent-mapper" else edits
        if chosen:
            results[name] = run_battery(make(models, parameters), pictures, judge, given.count, chosen)
    print(table(results))
    if given.out:
        folder = Path(given.out)
        folder.mkdir(parents=True, exist_ok=True)
        report = {name: [asdict(s) for s in rows] for name, rows in results.items()}
        (folder / "battery.json").write_text(json.dumps({"split": given.split, "results": report}, indent=1))
        (folder / "battery.md").write_text(table(results) + "\n")


if __name__ == "__main__":
    main()
