"""`make battery-diffusion`: do SEGA and Prompt-to-Prompt do what the words say, and nothing else?

Three parts, each judged as `limner.export.battery` judges (the asked attribute is seen, and 85 % of the others stay):

- prompts: pictures made from full descriptions; the share of the described attributes that the judge sees
- generated: edits of such pictures, `count` seeds an edit; "the others" are what the judge reads in the source
- real: edits of held-out renders; "the others" are the renderer's record; the reconstruction's PSNR beside it

The two methods get the same words: a description of the source, and its attribute changed. SEGA's concept is the
attribute's own words; where it takes something's place the old value is a second concept with a minus.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from limner.export.battery import EDITS, KEPT_SHARE, BatteryEdit, Judging, Score, others_kept, table
from limner.runtime.bundle import load_bundle
from limner.runtime.edit import Edit
from limner.runtime.editor import Editor
from limner.runtime.errors import InputError, nearest
from limner.runtime.images import to_float
from limner.runtime.recipe import PromptEdit, Recipe, Source
from limner.runtime.shipped import checkpoints_folder, shipped_bundle
from limner.training.avatars.attributes import AVATAAARS, COVERED_HAIR, sample_in_split
from limner.training.avatars.render import render

ImageU8 = NDArray[np.uint8]
Words = Mapping[str, str]
METHODS = ("sega", "prompt-to-prompt")
BATCH = 8
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)

HAIR = {
    "bald": "no hair",
    "hat": "a hat",
    "hijab": "a hijab",
    "turban": "a turban",
    "bob": "a {c}bob",
    "bun": "a {c}bun",
}
GLASSES = {"glasses": "glasses", "sunglasses": "sunglasses"}
BEARDS = {"beard": "a beard", "moustache": "a moustache"}
DESCRIBED = ("hair", "hair_color", "facial_hair", "eyewear", "expression", "clothes_color", "background")


def describe(words: Words) -> str:
    """One sentence with an avatar's attributes: "a smiling person with short red hair, a beard and glasses, ..."."""
    color = "" if words["hair_color"] == "hidden" or words["hair"] in COVERED_HAIR else f"{words['hair_color']} "
    hair = HAIR.get(words["hair"], f"{words['hair']} {{c}}hair").replace("{c}", color)
    things = [hair, BEARDS.get(words["facial_hair"], ""), GLASSES.get(words["eyewear"], "")]
    said = [thing for thing in things if thing]
    joined = " and ".join([", ".join(said[:-1]), said[-1]] if len(said) > 1 else said)
    expression = "" if words["expression"] == "neutral" else f"{words['expression']} "
    article = "an" if expression.startswith("a") else "a"
    person = f"{article} {expression}person with {joined}"
    return f"{person}, wearing {words['clothes_color']} clothes, {words['background']} background"


def concepts(edit: BatteryEdit, before: Words, strength: float | None) -> tuple[PromptEdit, ...]:
    """SEGA's concepts of an edit: the new value, and away from the old one where that can be named."""
    scale = 5.0 if strength is None else strength
    old = _named(edit.attribute, before[edit.attribute])
    return (
        PromptEdit(_named(edit.attribute, edit.value), strength=scale),
        *([PromptEdit(old, strength=-scale)] if old else []),
    )


def _named(attribute: str, value: str) -> str:
    """A value's words alone; empty where it is the absence of something."""
    if attribute == "hair":
        return HAIR.get(value, f"{value} hair").replace("{c}", "")
    if attribute == "facial_hair":
        return BEARDS.get(value, "")
    if attribute == "eyewear":
        return GLASSES.get(value, "")
    if attribute == "expression":
        return "" if value == "neutral" else f"{value} person"
    noun = {"hair_color": "hair", "clothes_color": "clothes", "background": "background"}[attribute]
    return "" if value == "hidden" else f"{value} {noun}"


@dataclass(frozen=True)
class Battery:
    """What the parts share."""

    editor: Editor
    judge: Judging
    split: str
    parameters: dict[str, dict[str, Any]]  # method -> parameters beyond the bundle's presets
    strength: float | None = None  # of SEGA's concepts

    def words(self, index: int) -> dict[str, str]:
        """The renderer's record of a held-out avatar."""
        return sample_in_split(AVATAAARS, self.split, index, 0).attributes(AVATAAARS)

    def picture(self, index: int) -> ImageU8:
        """Its picture, at the bundle's size."""
        return render(AVATAAARS, sample_in_split(AVATAAARS, self.split, index, 0), self.editor.bundle.image_size)

    def suitable(self, edit: BatteryEdit, count: int) -> list[int]:
        """The first avatars where the edit has something to do and somewhere to do it."""
        found: list[int] = []
        index = 0
        while len(found) < count:
            words = self.words(index)
            visible = edit.attribute != "hair_color" or words["hair_color"] != "hidden"
            if words[edit.attribute] != edit.value and visible:
                found.append(index)
            index += 1
        return found

    def recipe(self, method: str, edit: BatteryEdit, index: int, real: bool) -> Recipe:
        """One edit of one avatar, as a picture or as a description with the index as its seed."""
        words = self.words(index)
        prompt = describe(words)
        source = Source("image", prompt=prompt) if real else Source.from_prompt(prompt, index)
        changed = describe(words | {edit.attribute: edit.value})
        prompts = concepts(edit, words, self.strength) if method == "sega" else (PromptEdit(changed),)
        return Recipe(method, source, prompts, self.parameters.get(method, {}))

    def score(self, method: str, edit: BatteryEdit, count: int, real: bool) -> tuple[Score, float]:
        """Score one edit; also the mean PSNR of the reconstructions, dB."""
        rows = self.suitable(edit, count)
        recipes = [self.recipe(method, edit, index, real) for index in rows]
        given = [self.picture(index) if real else None for index in rows]
        edits = self.editor.edit_batch(recipes, given=given, batch=BATCH)
        after = self.judge(_stacked([one.image for one in edits]))
        read = self.judge(_stacked([one.reconstruction for one in edits]))
        before = [self.words(index) for index in rows] if real else read
        kept = np.array([others_kept(edit, b, a) for b, a in zip(before, after, strict=True)])
        seen = np.array([words[edit.attribute] == edit.value for words in after])
        success = int((seen & (kept >= KEPT_SHARE)).sum())
        score = Score(edit.name, count, success, int(seen.sum()), float(kept.mean()), float("nan"))
        return score, float(np.mean([_psnr(one) for one in edits])) if real else float("nan")

    def prompts(self, count: int) -> dict[str, float]:
        """The share of described attributes that the judge sees in pictures made from the descriptions."""
        right: dict[str, list[bool]] = {}
        for first in range(0, count, BATCH):
            rows = range(first, min(count, first + BATCH))
            texts = [describe(self.words(index)) for index in rows]
            made = self.editor.generate(texts, list(rows))
            for index, read in zip(rows, self.judge(_stacked([one.image for one in made])), strict=True):
                for name in DESCRIBED:
                    if self.words(index)[name] != "hidden":
                        right.setdefault(name, []).append(read[name] == self.words(index)[name])
        every = [one for row in right.values() for one in row]
        return {name: float(np.mean(row)) for name, row in right.items()} | {"all": float(np.mean(every))}


def _stacked(images: Sequence[ImageU8]) -> NDArray[np.float32]:
    return to_float(np.stack(images))


def _psnr(edit: Edit) -> float:
    """Of the reconstruction against the picture, dB."""
    error = float(np.mean((edit.reconstruction.astype(np.float64) - edit.source) ** 2))
    return 99.0 if error == 0.0 else 10 * float(np.log10(255**2 / error))


@app.command()
def main(
    bundle: Annotated[Path | None, typer.Option(help="Folder of the diffusion bundle.")] = None,
    judge: Annotated[Path | None, typer.Option(help="Folder of the judge.")] = None,
    split: Annotated[str, typer.Option(help="validation or test.")] = "test",
    part: Annotated[list[str] | None, typer.Option(help="prompts, generated or real; all if not given.")] = None,
    method: Annotated[list[str] | None, typer.Option(help="Both if not given.")] = None,
    edit: Annotated[list[str] | None, typer.Option(help="An edit's name; all if not given.")] = None,
    count: Annotated[int, typer.Option(min=1, help="Pictures an edit.")] = 50,
    prompts: Annotated[int, typer.Option(min=1, help="Pictures of the part prompts.")] = 100,
    setting: Annotated[list[str] | None, typer.Option("--set", help="METHOD.NAME=VALUE, as in sega.steps=30.")] = None,
    strength: Annotated[float | None, typer.Option(help="Scale of SEGA's concepts.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for battery-diffusion.json and .md.")] = None,
) -> None:
    """Run the battery and print its tables."""
    names = [one.name for one in EDITS]
    for field, values, known in (("edit", edit, names), ("method", method, METHODS), ("part", part, PARTS)):
        for value in values or ():
            if value not in known:
                raise InputError(field, repr(value), ", ".join(known), nearest(value, known))
    loaded = load_bundle(bundle or shipped_bundle("diffusion"))
    found = Judging(judge or checkpoints_folder() / "avatars" / "judge")
    battery = Battery(Editor(loaded, threads=threads), found, split, _settings(setting or ()), strength)
    report: dict[str, Any] = {"bundle": loaded.digest, "split": split}
    texts = []
    if "prompts" in (part or PARTS):
        report["prompts"] = battery.prompts(prompts)
        shown = ", ".join(f"{name} {100 * value:.0f} %" for name, value in report["prompts"].items())
        texts.append(f"Described attributes seen in {prompts} pictures: {shown}.")
    for kind in ("generated", "real"):
        if kind not in (part or PARTS):
            continue
        rows: dict[str, list[Score]] = {}
        psnr: list[float] = []
        for name in method or METHODS:
            for one in (e for e in EDITS if not edit or e.name in edit):
                score, decibels = battery.score(name, one, count, kind == "real")
                rows.setdefault(name, []).append(score)
                psnr.append(decibels)
                print(f"{kind} {name} {one.name}: {score.success} of {count}, kept {score.kept:.3f}", file=sys.stderr)
        report[kind] = {name: [asdict(s) | {"identity": None} for s in scores] for name, scores in rows.items()}
        heading = f"{kind}, reconstruction {np.mean(psnr):.1f} dB" if kind == "real" else kind
        lines = [line for line in table(rows).splitlines() if "identity" not in line]
        texts.append("\n".join([f"## {heading}", "", *lines]))
    print("\n\n".join(texts))
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "battery-diffusion.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        (out / "battery-diffusion.md").write_text("\n\n".join(texts) + "\n", encoding="utf-8")


PARTS = ("prompts", "generated", "real")


def _settings(given: Sequence[str]) -> dict[str, dict[str, Any]]:
    """["sega.steps=30"] -> {"sega": {"steps": 30}}."""
    found: dict[str, dict[str, Any]] = {}
    for item in given:
        key, sign, value = item.partition("=")
        method, dot, name = key.partition(".")
        if not sign or not dot or method not in METHODS:
            raise InputError("set", repr(item), "METHOD.NAME=VALUE, as in sega.steps=30")
        try:
            found.setdefault(method, {})[name] = json.loads(value)
        except ValueError:
            found.setdefault(method, {})[name] = value
    return found


if __name__ == "__main__":
    app()
