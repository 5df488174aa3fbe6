"""The parts of a report that people's answers make: who counts, votes, ratings, pairs."""

import numpy as np

from limner.runtime.errors import InputError, LimnerError
from limner.runtime.study.analysis.agreement import alpha
from limner.runtime.study.analysis.answers import Answers
from limner.runtime.study.analysis.intervals import Estimate, mean_of
from limner.runtime.study.analysis.plots import Dot, forest, rating_bars
from limner.runtime.study.analysis.preference import PairFit, fit_pairs, wins
from limner.runtime.study.analysis.sections import EXPLORATORY, Section
from limner.runtime.study.analysis.votes import Floats, Votes, majorities
from limner.runtime.study.tables import as_table, share_text

__all__ = ["people_sections"]

MOST_RATERS = 60  # lines of the table of raters; the rest is counted
UNTOUCHED = "untouched pictures"


def people_sections(answers: Answers) -> list[Section]:
    """Raters, and a part for every question of the plan."""
    parts = {"acceptable": _acceptable, "quality": _quality, "pair": _pairs}
    return [_raters(answers), *(parts[question](answers) for question in answers.study.plan.questions)]


def _raters(answers: Answers) -> Section:
    rules = answers.study.plan.people.screen
    left_out = [one for one in answers.screened if not one.kept]
    shown = [*left_out, *(one for one in answers.screened if one.kept)][:MOST_RATERS]
    rows = [
        [one.rater, str(one.answers), _share(one.checks), _share(one.repeats), f"{one.seconds:.1f}",
         f"{100 * one.same:.0f} %", one.why and f"left out: {one.why}"]
        for one in shown
    ]  # fmt: skip
    text = (
        f"Rules of the plan: the end was reached, at least {100 * rules.checks:.0f} % of known answers right, at least "
        f"{100 * rules.repeats:.0f} % of repeated pages alike, at least {rules.seconds:g} s a page (median), at most "
        f"{100 * rules.same:.0f} % one answer. {len(left_out)} of {len(answers.screened)} raters were left out.\n\n"
        + as_table(["rater", "answers", "known answers", "repeats alike", "s a page", "one answer", ""], rows)
    )
    more = len(answers.screened) - len(shown)
    return Section("Raters", text + (f"\n\nAnd {more} more, all of whom count." if more > 0 else ""))


def _acceptable(answers: Answers) -> Section:
    votes = answers.votes("acceptable")
    most = majorities(votes)
    edits = _edits(answers, votes)
    rows, dots = [], []
    for k, arm in enumerate(votes.arms):
        whole = mean_of(votes, k, answers.study.plan.seed)
        if whole is None:
            continue
        cells = []
        for edit in edits:
            mine = [yes for (one, name, _), yes in most.items() if one == k and name == edit]
            cells.append(share_text(sum(mine), len(mine)) if mine else "-")
        mine = [yes for (one, _, _), yes in most.items() if one == k]
        rows.append([arm, f"**{share_text(sum(mine), len(mine))}**", _hundred(whole), *cells])
        dots.append(_dot(arm, whole, 100.0))
    text = (
        "Was the change made, and was the rest kept? A picture is acceptable where most of its votes say both; beside "
        "it the share of all votes, with an interval over raters and samples. "
        f"{_agreement(votes, 'nominal')} {EXPLORATORY}"
        "\n\n" + as_table(["arm", "pictures, by most votes", "votes", *edits], rows)
    )
    return Section("Acceptable, by people", text, forest(dots, "votes that say acceptable, %") if dots else "",
                   "Votes of every arm with their interval")  # fmt: skip


def _quality(answers: Answers) -> Section:
    votes, controls = answers.votes("quality"), answers.controls()
    edits = _edits(answers, votes)
    rows, dots, bars = [], [], []
    for k, arm in enumerate(votes.arms):
        whole = mean_of(votes, k, answers.study.plan.seed)
        if whole is None:
            continue
        cells = [_mean(votes.value[(votes.arm == k) & (np.array(votes.edit) == edit)]) for edit in edits]
        rows.append([arm, str(whole.answers), f"**{_number(whole)}**", *cells])
        dots.append(_dot(arm, whole))
        bars.append((arm, _counts(votes.value[votes.arm == k])))
    rows.append(["**all**", str(len(votes)), _mean(votes.value),
                 *(_mean(votes.value[np.array(votes.edit) == edit]) for edit in edits)])  # fmt: skip
    if controls:
        ratings = np.array([one.value["rating"] for one in controls], float)
        rows.append([UNTOUCHED, str(len(ratings)), _mean(ratings), *("-" for _ in edits)])
        bars.append((UNTOUCHED, _counts(ratings)))
    text = (
        f"1 to 5, untouched pictures hidden among them. {_agreement(votes, 'ordinal')} {EXPLORATORY}\n\n"
        + as_table(["arm", "ratings", "mean", *edits], rows) + "\n\n" + _model(answers)
    )  # fmt: skip
    return Section("Ratings, by people", text, rating_bars(bars) if bars else "", "Shares of the ratings of every arm")


def _model(answers: Answers) -> str:
    try:
        fit = answers.ratings
    except (InputError, LimnerError) as reason:
        return f"No model of the ratings: {reason}."
    rows = []
    for arm in fit.arms[1:]:
        one = fit.difference(arm, fit.arms[0])
        rows.append([arm, f"{one.value:+.2f} ({one.low:+.2f} to {one.high:+.2f})", f"{one.p:.2g}"])
    spreads = ", ".join(f"{name}s {value:.2f}" for name, value in fit.spreads.items()) or "none"
    return (
        f"Ordinal model (cumulative logit, {fit.answers} ratings): effects on the logistic scale against "
        f"{fit.arms[0]}; spreads of {spreads}.\n\n" + as_table(["arm", "effect, 95 %", "p"], rows)
    )


def _pairs(answers: Answers) -> Section:
    votes = answers.votes("pair")
    won = wins(votes)
    try:
        fit: PairFit = fit_pairs(votes)
    except InputError as reason:
        return Section("Pairs, by people", f"No strengths: {reason}.")
    rows, dots = [], []
    for arm in fit.arms:
        one, k = fit.strength(arm), votes.arms.index(arm)
        rows.append([arm, f"{won[k].sum():.0f} of {won[k].sum() + won[:, k].sum():.0f}", _number(one)])
        dots.append(_dot(arm, one))
    text = (
        "Which change is better? Strengths of Bradley and Terry on the logistic scale, their mean 0; intervals over "
        f"raters and samples. The left place is worth {fit.left:+.2f}. {_agreement(votes, 'nominal')} {EXPLORATORY}\n\n"
        + as_table(["arm", "preferred", "strength, 95 %"], rows)
        + (
            "\n\nAn arm won or lost everything: half an answer each way was added to every pair."
            if fit.smoothed
            else ""
        )
    )
    return Section("Pairs, by people", text, forest(dots, "strength, log odds", 0.0), "Strength of every arm")


def _edits(answers: Answers, votes: Votes) -> list[str]:
    """Edits that were asked about, in the plan's order."""
    known = [edit.name for run in answers.study.runs() for edit in run.header.edits]
    return [edit for edit in dict.fromkeys(known) if edit in votes.edit]


def _agreement(votes: Votes, level: str) -> str:
    found = alpha(votes, "ordinal" if level == "ordinal" else "nominal")
    return "No picture has two raters." if found is None else f"Krippendorff's alpha ({level}) is {found:.2f}."


def _dot(name: str, one: Estimate, scale: float = 1.0) -> Dot:
    low, high = (scale * (end if np.isfinite(end) else one.value) for end in (one.low, one.high))
    return Dot(name, scale * one.value, low, high, name.partition(" ")[0])


def _number(one: Estimate) -> str:
    return f"{one.value:.2f}" + (f" ({one.low:.2f} to {one.high:.2f})" if np.isfinite(one.low) else "")


def _hundred(one: Estimate) -> str:
    ends = f" ({100 * max(0.0, one.low):.0f}-{100 * min(1.0, one.high):.0f})" if np.isfinite(one.low) else ""
    return f"{100 * one.value:.0f} %{ends}"


def _counts(values: Floats) -> list[int]:
    return [int(np.sum(values == rating)) for rating in range(1, 6)]


def _mean(values: Floats) -> str:
    return f"{np.mean(values):.2f}" if len(values) else "-"


def _share(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.0f} %"
