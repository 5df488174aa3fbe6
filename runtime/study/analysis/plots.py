"""Plots of a report, as SVG text that repeats to the byte; matplotlib of the extra `study`."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from limner.runtime.errors import LimnerError

__all__ = ["Curve", "Dot", "curves", "forest", "rating_bars"]

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")  # Okabe and Ito's
WIDTH = 7.2  # inches


@dataclass(frozen=True)
class Dot:
    """A value with its interval."""

    name: str
    value: float
    low: float
    high: float
    group: str = ""  # same group, same colour


@dataclass(frozen=True)
class Curve:
    """The arms of one method, setting by setting."""

    name: str
    points: tuple[tuple[str, float, float], ...]  # setting, x, y


def forest(dots: Sequence[Dot], axis: str, reference: float | None = None) -> str:
    """Values with intervals, one a line, the first on top."""
    plt = _pyplot()
    groups = list(dict.fromkeys(dot.group for dot in dots))
    figure, axes = plt.subplots(figsize=(WIDTH, 0.9 + 0.3 * len(dots)))
    for line, dot in enumerate(dots):
        colour = COLOURS[groups.index(dot.group) % len(COLOURS)]
        axes.plot([dot.low, dot.high], [line, line], color=colour, linewidth=2)
        axes.plot([dot.value], [line], "o", color=colour)
    if reference is not None:
        axes.axvline(reference, color="#888888", linewidth=1, linestyle=":")
    axes.set_yticks(range(len(dots)), [dot.name for dot in dots])
    axes.set_ylim(len(dots) - 0.5, -0.5)
    axes.set_xlabel(axis)
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    return _svg(plt, figure)


def curves(lines: Sequence[Curve], x: str, y: str) -> str:
    """One line a method through its settings; a method with one setting is a dot."""
    plt = _pyplot()
    figure, axes = plt.subplots(figsize=(WIDTH, 4.6))
    for number, line in enumerate(lines):
        xs, ys = [one[1] for one in line.points], [one[2] for one in line.points]
        axes.plot(xs, ys, "o-", color=COLOURS[number % len(COLOURS)], label=line.name)
        for setting, px, py in line.points:
            if setting:
                axes.annotate(setting, (px, py), textcoords="offset points", xytext=(5, 5), fontsize=8)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.legend(frameon=False, fontsize=9)
    return _svg(plt, figure)


def rating_bars(rows: Sequence[tuple[str, Sequence[int]]]) -> str:
    """Shares of the ratings 1 to 5, one bar a line, the first on top."""
    plt = _pyplot()
    shades = ("#b2182b", "#ef8a62", "#d0d0d0", "#92c5de", "#2166ac")
    figure, axes = plt.subplots(figsize=(WIDTH, 1.1 + 0.3 * len(rows)))
    for line, (_, counts) in enumerate(rows):
        left, whole = 0.0, max(1, sum(counts))
        for rating, count in enumerate(counts):
            label = str(rating + 1) if line == 0 else None
            axes.barh(line, 100 * count / whole, left=left, color=shades[rating], label=label)
            left += 100 * count / whole
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(0, 100)
    axes.set_xlabel("% of ratings")
    axes.legend(ncols=5, frameon=False, fontsize=9, loc="lower left", bbox_to_anchor=(0, 1))
    return _svg(plt, figure)


def _pyplot() -> Any:
    try:
        import matplotlib
    except ImportError as reason:
        raise LimnerError("plots need matplotlib: pip install 'limner[study]'") from reason
    matplotlib.use("Agg")
    from matplotlib import pyplot

    matplotlib.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "limner", "font.size": 10,
                            "axes.spines.top": False, "axes.spines.right": False}  # fmt: skip
    return pyplot


def _svg(plt: Any, figure: Any) -> str:
    stream = io.StringIO()
    figure.savefig(stream, format="svg", bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)
    text = stream.getvalue()
    return text[text.index("<svg") :]
