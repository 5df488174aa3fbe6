"""A study that was made, without models: drawn noise for pictures, verdicts by a seed; for what people are asked."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from limner.runtime.pictures.images import write_png_atomically
from limner.runtime.schema import from_dict, to_dict
from limner.runtime.storage.files import write_atomically
from limner.runtime.study.header import Header
from limner.runtime.study.plans.making import MADE, PLAN, Study, digests_of
from limner.runtime.study.plans.plan import Plan, arms_of
from limner.runtime.study.rows import Row, open_run
from support.study import ATTRIBUTES, EDITS, write_small_samples

__all__ = ["ARMS", "made_study", "plan_of"]

ARMS = ("latent-optimization", "global-directions", "latent-mapper")
SIDE = 24


def plan_of(folder: Path, **changes: Any) -> Plan:
    """A plan of three arms, one edit of twelve samples, and all three questions."""
    data: dict[str, Any] = {
        "name": "hats",
        "about": "Which hat?",
        "samples": str(folder / "samples"),
        "arms": [{"method": name} for name in ARMS],
        "edits": ["cap"],
        "count": 12,
        "questions": ["acceptable", "quality", "pair"],
        "raters": 12,
        "people": {"pages": {"acceptable": 9, "quality": 9, "pair": 6}, "repeats": 2, "checks": 1, "controls": 2},
        "comparisons": [],
    }
    return from_dict(Plan, data | changes, "plan")


def made_study(folder: Path, rates: tuple[float, ...] = (0.9, 0.7, 0.5), seed: int = 0, **changes: Any) -> Study:
    """A frozen study in folder/study whose arms succeed at those rates."""
    plan = plan_of(folder, **changes)
    samples = write_small_samples(folder / "samples", SIDE, plan.count)
    arms = arms_of(plan)
    study = Study(folder / "study", plan, arms, {"samples": samples.digest, "judge": "a" * 64})
    study.folder.mkdir()
    write_atomically(study.folder / PLAN, study.text)
    rng = np.random.default_rng(seed)
    for arm, rate in zip(arms, rates, strict=False):
        header = Header(
            samples={"name": "small", "sha256": samples.digest}, edits_version=3, edits=samples.edits(plan.edits),
            attributes=ATTRIBUTES, hidden=(), parts=(plan.part,),
            methods={arm.method: {"given": arm.settings, "edits": list(plan.edits or [one.name for one in EDITS]),
                                  "settings": {}}},
            count=plan.count, bundle={"name": "none", "family": "stylegan2", "sha256": "b" * 64}, judge="a" * 64,
            provider="cpu", code="c" * 64, commit=None, limner=None,
        )  # fmt: skip
        run = open_run(study.run_folder(arm), header)
        for edit in header.edits:
            for sample in (one for one in samples if edit.name in one.edits):
                before = tuple(sample.words.values())
                after = dict(sample.words) | ({edit.attribute: edit.value} if rng.random() < rate else {})
                places = [f"pictures/{edit.name}/{sample.index}{more}.png" for more in ("", "-before")]
                for place in places:
                    (run.folder / place).parent.mkdir(parents=True, exist_ok=True)  # type: ignore[operator]
                    pixels = rng.integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)
                    write_png_atomically(run.folder / place, pixels, {"secret": arm.name})  # type: ignore[operator]
                source, unedited = (places[1], None) if plan.part == "generated" else (None, places[1])
                run.add([Row(run.short, plan.part, arm.method, edit.name, sample.index, places[0], source, unedited,
                             before, tuple(after.values()))])  # fmt: skip
    made = {arm.name: digests_of(study.run_folder(arm)) for arm in arms}
    write_atomically(study.folder / MADE, json.dumps({"study": study.digest, "arms": made}).encode())
    assert to_dict(plan)["count"] == plan.count
    return study
