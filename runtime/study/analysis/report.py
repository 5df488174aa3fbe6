"""A study's report, in Markdown and as one HTML file with plots and the pictures behind every number."""

import re
from collections.abc import Callable, Sequence
from html import escape

from limner.runtime.errors import LimnerError
from limner.runtime.study.analysis import sections
from limner.runtime.study.analysis.answers import Answers
from limner.runtime.study.analysis.gallery import gallery
from limner.runtime.study.analysis.people import people_sections
from limner.runtime.study.analysis.planned import Compared
from limner.runtime.study.analysis.sections import Section
from limner.runtime.study.plans.making import Study

__all__ = ["as_html", "as_markdown", "report_sections"]

LINK = re.compile(r"\[([^\[\]]+)\]\(#([^()]+)\)")  # to pictures
STYLE = """
:root { color-scheme: light dark; --ink: #1d1d1f; --paper: #fff; --line: #8886; --link: #2456c7; }
@media (prefers-color-scheme: dark) { :root { --ink: #ececec; --paper: #1b1b1d; --link: #8fb0ff; } }
body { max-width: 70rem; margin: 0 auto; padding: 1rem; font: 1rem/1.5 system-ui, sans-serif; color: var(--ink);
  background: var(--paper); }
h1, h2, h3 { line-height: 1.25; } h2 { margin-top: 2.2rem; border-top: 1px solid var(--line); padding-top: 1rem; }
a { color: var(--link); } .wide { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .9rem; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid var(--line); text-align: left; white-space: nowrap;
  font-variant-numeric: tabular-nums; }
td:first-child { white-space: normal; min-width: 11rem; }
figure { margin: 1rem 0; } figure svg { max-width: 100%; height: auto; background: #fff; border-radius: 6px; }
.pairs { display: flex; flex-wrap: wrap; gap: 6px; } .pairs img { display: block; width: 128px; height: 64px; }
.pairs span { border: 3px solid; border-radius: 5px; overflow: hidden; }
.pairs .strict { border-color: #009e73; } .pairs .success { border-color: #e69f00; }
.pairs .none { border-color: #b2182b; }
.simulated { position: sticky; top: 0; padding: .4rem 1rem; background: #b2182b; color: #fff; font-weight: 600; }
"""


def report_sections(
    study: Study,
    found: Sequence[Compared],
    answers: Answers | None,
    times: str,
) -> list[Section]:
    """Everything, in the order in which it is read."""
    parts: list[Section | None] = [
        sections.about(study, answers),
        sections.planned(found),
        sections.success(study),
        sections.settings(study),
        sections.measured(study),
        *(people_sections(answers) if answers is not None else []),
        sections.times(times),
        sections.limits(study, answers),
        sections.counted_all(study),
    ]
    return [part for part in parts if part is not None]


def as_markdown(study: Study, parts: Sequence[Section], html: str = "") -> str:
    """Text and tables; `html` is the name of the file beside it that has the pictures, which numbers link to."""
    text = f"# {study.plan.name}\n\n" + "\n\n".join(f"## {one.title}\n\n{one.text.strip()}" for one in parts) + "\n"
    return LINK.sub(rf"[\1]({html}#\2)" if html else r"\1", text)


def as_html(study: Study, parts: Sequence[Section], pictures: int, simulated: bool) -> str:
    """One file, nothing outside it: `pictures` of every arm and edit are shown, failures first."""
    render = _renderer()
    body = [f"<h1>{escape(study.plan.name)}</h1>"]
    if simulated:
        body.insert(0, '<p class="simulated">Simulated raters: nobody was asked.</p>')
    for one in parts:
        body.append(f"<h2>{escape(one.title)}</h2>")
        body += [f'<figure role="img" aria-label="{escape(one.alt)}">{one.plot}</figure>'] if one.plot else []
        tables = render(one.text).replace("<table>", '<div class="wide"><table>')
        body.append(tables.replace("</table>", "</table></div>"))
    body.append(gallery(study, pictures))
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f"<title>{escape(study.plan.name)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def _renderer() -> Callable[[str], str]:
    try:
        from markdown_it import MarkdownIt
    except ImportError as reason:
        raise LimnerError("an HTML report needs markdown-it-py: pip install 'limner[study]'") from reason
    render: Callable[[str], str] = MarkdownIt("commonmark", {"html": False}).enable("table").render
    return render
