"""What somebody reads before the first page, and agrees to."""

from dataclasses import dataclass
from pathlib import Path

from limner.runtime.errors import InputError
from limner.runtime.storage.files import read_plain
from limner.runtime.study.plans.plan import Plan

__all__ = ["Consent", "consent_of", "read_consent"]

MAX_BYTES = 20_000
SECONDS = {"acceptable": 6, "quality": 4, "pair": 6}  # of a page, as people who try it take


@dataclass(frozen=True)
class Consent:
    """The first page."""

    title: str
    paragraphs: tuple[str, ...]
    agree: str

    def seen(self, closed: str = "") -> dict[str, object]:
        """As the page reads it; `closed` says why nobody else can take part."""
        return {"title": self.title, "paragraphs": list(self.paragraphs), "agree": self.agree, "closed": closed}


def read_consent(path: Path | None) -> tuple[str, ...]:
    """Paragraphs of a text file, empty lines between them; none if there is no file."""
    if path is None:
        return ()
    data = read_plain(path, "consent", MAX_BYTES, "a text of at most 20 kB")
    try:
        text = data.decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError as reason:
        raise InputError("consent", repr(str(path)), "a text in UTF-8") from reason
    return tuple(" ".join(part.split()) for part in text.split("\n\n") if part.strip())


def consent_of(plan: Plan, pages: int, own: tuple[str, ...] = (), contact: str = "", by_file: bool = False) -> Consent:
    """The usual words, with the paragraphs of whoever asks."""
    seconds = sum(plan.people.pages_of(name) * SECONDS[name] for name in plan.questions)
    kept = "in this browser alone, until you save them as a file" if by_file else "as soon as you give them"
    return Consent(
        "Pictures and changes",
        (
            f"You will see {pages} pages with pictures that a computer made or changed, and say what you think of "
            f"them. It takes about {max(1, round(seconds / 60))} minutes. Keys and touch both work.",
            *own,
            f"Your answers are kept {kept}: what you chose, how long each page took, and when. No name, address or "
            "anything else about you is kept; if a panel sent you, its id for you is. Answers are used to compare "
            "methods, and may be published as a table.",
            "Taking part is voluntary. You may stop at any time by closing the page; come back by the same browser and "
            "you go on where you were. Answers cannot be changed once they are given.",
            *([f"Questions: {contact}"] if contact else []),
        ),
        "I have read this, I am 18 or older, and I take part.",
    )
