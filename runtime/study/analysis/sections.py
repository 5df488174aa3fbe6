"""The parts of a report: text and tables as Markdown, a plot beside them where one says more."""

from collections.abc import Sequence
from dataclasses import dataclass

from limner.runtime.study.analysis.answers import Answers
from limner.runtime.study.analysis.gallery import anchor
from limner.runtime.study.analysis.planned import Compared, as_comparison_table
from limner.runtime.study.analysis.plots import Curve, Dot, curves, forest
from limner.runtime.study.measuring import as_measure_table, read_measures
from limner.runtime.study.plans.making import Study
from limner.runtime.study.plans.plan import Arm
from limner.runtime.study.rows import Run
from limner.runtime.study.scores import Score, counted, score, wilson
from limner.runtime.study.tables import as_table, markdown, share_text

__all__ = [
    "EXPLORATORY",
    "Section",
    "about",
    "counted_all",
    "limits",
    "measured",
    "planned",
    "settings",
    "success",
    "times",
]

EXPLORATORY = "Exploratory, but for what stands under planned comparisons."
CANNOT = (
    "A network that reads attributes decides what succeeds: it sees a beard, not a good one, and its errors are part "
    "of every rate. Pictures are {pictures}; what holds for them may not hold for photographs, other models or other "
    "texts. Settings of each method are those that its bundle has, chosen on other pictures; a method that lost here "
    "may win with others. Intervals and tests take samples (and raters) as drawn from many like them, and the edits "
    "and texts as all there are. A comparison that was not planned may be chance: of twenty, one is."
)
BY_PEOPLE = (
    " Raters are whoever came by the way that the study was offered; who was left out, and why, is above. Somebody who "
    "is shown an edit beside its source judges another thing than somebody who meets it alone."
)


@dataclass(frozen=True)
class Section:
    """One part."""

    title: str
    text: str  # Markdown
    plot: str = ""  # SVG
    alt: str = ""


def about(study: Study, answers: Answers | None) -> Section:
    """What was asked, of what."""
    plan, runs = study.plan, study.runs()
    every = sum(len(run.rows) for run in runs)
    count = sum(len(counted(run, plan.part, arm.method, edit)) for arm, run in zip(study.arms, runs, strict=True)
                for edit in run.header.methods[arm.method]["edits"])  # fmt: skip
    more = f" (and {every - count} of pictures that had it already, which do not count)" if every > count else ""
    edits = list(dict.fromkeys(edit.name for run in runs for edit in run.header.edits))
    pictures = "held-out pictures" if plan.part == "real" else "pictures that the models generated"
    lines = [plan.about, ""]
    if answers is not None and answers.kind == "simulated":
        lines += ["**The raters of this report are simulated: nobody was asked. It rehearses an analysis.**", ""]
    arms, asked = _several(len(study.arms), "arm"), _several(len(edits), "edit")
    lines += [
        f"{arms}, {asked} ({', '.join(edits)}), {plan.count} {pictures} an edit: {count} edits{more}. "
        f"Study `{study.digest[:12]}`, frozen with the sha256 of samples, judge and bundles before the "
        "first of them; "
        f"{_several(len(plan.comparisons), 'comparison')} planned with it. Provider {runs[0].header.provider}."
    ]  # fmt: skip
    if answers is not None:
        kept = sum(one.kept for one in answers.screened)
        who = "simulated raters" if answers.kind == "simulated" else "raters"
        lines += ["", f"{len(answers.screened)} {who} gave {len(answers.given)} answers; those of {kept} count."]
    return Section("The study", "\n".join(lines))


def planned(found: Sequence[Compared]) -> Section:
    """What the plan asked."""
    said = ("Named before anything was made. Holm's correction goes over all of them; the difference is of the first "
            "arm less the second, in points of success, or on the logistic scale.")  # fmt: skip
    return Section("Planned comparisons", f"{said}\n\n{as_comparison_table(found)}")


def success(study: Study) -> Section:
    """Success by arm and edit, each number with its pictures."""
    table, dots = [], []
    scores = {arm.name: _scores(study, arm, run) for arm, run in zip(study.arms, study.runs(), strict=True)}
    edits = list(dict.fromkeys(edit for one in scores.values() for edit in one))
    for arm in study.arms:
        mine = scores[arm.name]
        good, tried = sum(one.success for one in mine.values()), sum(one.tried for one in mine.values())
        strict = sum(one.strict for one in mine.values())
        cells = [_linked(mine[edit], arm, edit) if edit in mine else "-" for edit in edits]  # fmt: skip
        table.append([arm.name, f"**{share_text(good, tried)}**", share_text(strict, tried), *cells])
        low, high = wilson(good, tried)
        dots.append(Dot(arm.name, 100 * good / max(1, tried), 100 * low, 100 * high, arm.method))
    text = (
        "By the judge: the asked attribute is seen and at least 85 % of the others stay; strictly, all of them. "
        f"With Wilson's 95 % interval over pictures. {EXPLORATORY}\n\n"
        + as_table(["arm", "all edits", "strictly", *edits], table)
    )
    return Section("Success by method and edit", text, forest(dots, "success, % (Wilson, 95 %)"),
                   "Success of every arm with its interval")  # fmt: skip


def settings(study: Study) -> Section | None:
    """Settings as curves: success against preservation; None where no method has several."""
    names = {arm.method: [one for one in study.arms if one.method == arm.method] for arm in study.arms}
    if all(len(arms) < 2 for arms in names.values()):
        return None
    runs = dict(zip((arm.name for arm in study.arms), study.runs(), strict=True))
    lines, table = [], []
    for method, arms in names.items():
        points = []
        for arm in arms:
            mine = list(_scores(study, arm, runs[arm.name]).values())
            tried = max(1, sum(one.tried for one in mine))
            seen = 100 * sum(one.seen for one in mine) / tried
            kept = 100 * sum(one.kept * one.scored for one in mine) / max(1, sum(one.scored for one in mine))
            points.append((arm.name.removeprefix(method).strip(), kept, seen))
            table.append([arm.name, f"{seen:.1f} %", f"{kept:.1f} %"])
        lines.append(Curve(method, tuple(points)))
    text = ("Further right more of the rest is kept, further up more edits show what was asked. A line goes through "
            f"the settings of a method. {EXPLORATORY}\n\n")  # fmt: skip
    return Section("Settings: success against preservation", text + as_table(["arm", "seen", "others kept"], table),
                   curves(lines, "other attributes kept, %", "asked attribute seen, %"),
                   "Seen against kept, a line a method")  # fmt: skip


def measured(study: Study) -> Section | None:
    """Distances to the true edits; None where nothing was measured."""
    found = {}
    for arm, run in zip(study.arms, study.runs(), strict=True):
        for (_, edit), rows in read_measures(run).items():
            found[arm.name, edit] = rows
    if not found:
        return None
    text = ("Every picture is a drawing, so the edit as it should be was drawn, and its exact mask. `judge's features` "
            "is a cosine distance of this judge's own: neither LPIPS nor CLIPScore. Background in both usual ways: "
            "over all pixels with the mask set to 0, and over the background alone.\n\n")  # fmt: skip
    return Section("Beside the true edit", text + as_measure_table(found))


def counted_all(study: Study) -> Section:
    """Every count, an arm a column."""
    text = markdown(study.runs(), [arm.name for arm in study.arms])
    return Section("All counts", text.replace("\n## ", "\n### ").replace("## ", "### ", 1))


def times(text: str) -> Section | None:
    """What `limner study time` wrote."""
    return Section("Seconds a picture", text) if text.strip() else None


def limits(study: Study, answers: Answers | None) -> Section:
    """What nothing above says."""
    pictures = (
        "drawings of one style" if "avatars" in study.runs()[0].header.samples["name"] else "those of the samples"
    )
    return Section("What this cannot say", CANNOT.format(pictures=pictures) + (BY_PEOPLE if answers else ""))


def _scores(study: Study, arm: Arm, run: Run) -> dict[str, Score]:
    edits = run.header.methods[arm.method]["edits"]
    return {edit: score(run, study.plan.part, arm.method, edit) for edit in edits}


def _several(count: int, name: str) -> str:
    return f"{count} {name}" if count == 1 else f"{count} {name}s"


def _linked(one: Score, arm: Arm, edit: str) -> str:
    """A number, as a link to the pictures behind it."""
    return f"[{_percent(one.success, one.tried)}](#{anchor(arm.name, edit)})"


def _percent(success: int, count: int) -> str:
    return f"{100 * success / max(1, count):.0f} %"
