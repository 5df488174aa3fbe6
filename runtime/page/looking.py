"""What is looked at: the stage with source and result under one slider, what lies over them, and what is said."""

import base64
import io
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from limner.runtime.edit import Edit
from limner.runtime.page.desk import Overlay
from limner.runtime.page.placing import Square

__all__ = [
    "SHOWN_SIDE",
    "TINT",
    "TINTED",
    "VERSIONS",
    "asset",
    "empty_stage",
    "file_url",
    "overlays_of",
    "photo_html",
    "picture_url",
    "said",
    "save_link",
    "stage",
    "thumb_url",
    "thumbs",
    "working",
]

ImageU8 = NDArray[np.uint8]
DARK = 0.85  # how much a word's map takes away where it does not look
TINT = (255, 0, 170)  # of masks: no skin, hair or sky has it
TINTED = 0.55
LOSSLESS = 600 * 600  # pixels up to which the page shows a picture without loss
SHOWN_SIDE = 1600  # pixels of a picture on the page, at the most
THUMB_SIDE = 160
LARGE = 256  # of what is laid over a photograph, before that
VERSIONS = "Versions"
ROLES = {"error": "alert", "warning": "status", "note": "status", "done": "status"}


def asset(name: str) -> str:
    """A file of the page's own."""
    return (files("limner.runtime.page") / "assets" / name).read_text(encoding="utf-8")


# --- pictures -----------------------------------------------------------------------------------------------


def picture_url(image: Image.Image) -> str:
    """A picture as a data URL: nobody else has its address."""
    held = io.BytesIO()
    if image.width * image.height <= LOSSLESS:
        image.save(held, "PNG")
        return _url(held.getvalue(), "png")
    image.convert("RGB").save(held, "JPEG", quality=92, subsampling=0)
    return _url(held.getvalue(), "jpeg")


def file_url(path: Path) -> str:
    """The same of a file of ours, made smaller where it is larger than a page."""
    with Image.open(path) as opened:
        image = opened.convert("RGBA" if opened.mode == "RGBA" else "RGB")
    image.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
    return picture_url(image)


def _url(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def overlays_of(edit: Edit, square: Square | None = None) -> tuple[Overlay, ...]:
    """Where each word of the edit looks, and the masks; those of a face lie in its square of the photograph."""
    found = [(_mask_name(name), "mask", _masked(image)) for name, image in edit.pictures.items()
             if name.split("-")[0] == "mask"]  # fmt: skip
    for maps in edit.maps[-1:]:  # the edit's own
        found += [(word, "word", _darkened(one)) for word, one in zip(maps.words, maps.mean, strict=True)]
    if square is not None:
        smooth = {"word": Image.Resampling.BILINEAR, "mask": Image.Resampling.NEAREST}
        found = [(name, kind, square.laid(image.resize((LARGE, LARGE), smooth[kind]))) for name, kind, image in found]
    return tuple(Overlay(name, kind, picture_url(image)) for name, kind, image in found)


def _mask_name(name: str) -> str:
    return "mask" if name == "mask" else f"mask: {name.removeprefix('mask-')}"


def _darkened(attention: NDArray[np.float32]) -> Image.Image:
    """A map [h,w] as black that lets through what it looks at, as `attention.maps.shaded` shows it."""
    strength = np.abs(attention)
    largest = float(strength.max())
    relative = strength / largest if largest > 0 else strength
    alpha = np.rint(255 * DARK * (1 - relative)).astype(np.uint8)
    return Image.fromarray(np.stack([np.zeros_like(alpha), alpha], axis=2)).convert("RGBA")


def _masked(mask: ImageU8) -> Image.Image:
    """A mask [H,W,3] as a tint inside it."""
    alpha = np.rint(TINTED * mask[..., :1]).astype(np.uint8)
    tint = np.broadcast_to(np.array(TINT, np.uint8), mask.shape)
    return Image.fromarray(np.concatenate([tint, alpha], axis=2))


# --- HTML ---------------------------------------------------------------------------------------------------


def stage(
    before: str, after: str, overlays: Sequence[Overlay] = (), names: tuple[str, str] = ("source", "result")
) -> str:
    """Two pictures, as URLs, under one slider; buttons for what lies over them."""
    seen = "".join(
        f'<img class="overlay {escape(one.kind)}" id="overlay-{n}" src="{one.image}" alt="" hidden>'
        for n, one in enumerate(overlays)
    )
    chips = "".join(
        f'<button type="button" class="chip {escape(one.kind)}" id="chip-{n}" data-overlay="{n}" aria-pressed="false">'
        f"{escape(one.name)}</button>"
        for n, one in enumerate(overlays)
    )
    title = "Where words look and masks lie: point at one, press it to keep it"
    shown = f'<div id="chips" role="group" aria-label="{title}"><p>{title}.</p>{chips}</div>' if chips else ""
    left, right = map(escape, names)
    return (
        f'<figure class="pair" id="pair"><img id="picture-after" src="{after}" alt="{right}">'
        f'<img id="picture-before" src="{before}" alt="{left}">{seen}<span class="cut" aria-hidden="true"></span>'
        f'<input type="range" id="slider" min="0" max="100" value="50" aria-label="From {right} to {left}"></figure>'
        f'<p class="names"><span>{left}</span><span>{right}</span></p>{shown}'
    )


def thumb_url(image: Image.Image) -> str:
    """A small picture as a data URL."""
    small = image.convert("RGB")
    small.thumbnail((THUMB_SIDE, THUMB_SIDE))
    held = io.BytesIO()
    small.save(held, "JPEG", quality=85)
    return _url(held.getvalue(), "jpeg")


def thumbs(title: str, choices: Sequence[tuple[str, str, str, str]], chosen: str = "") -> str:
    """Pictures to choose from: an id, what is told when it is pressed, its URL and its words a choice."""
    named = title == VERSIONS
    made = "".join(
        f'<button type="button" class="thumb" id="{escape(place)}" data-choice="{escape(choice)}" '
        f'aria-pressed="{str(choice == chosen).lower()}" title="{escape(words)}">'
        f'<img src="{url}" alt="{escape(words)}"><span{"" if named else " hidden"}>{escape(words)}</span></button>'
        for place, choice, url, words in choices
    )
    label = escape(title)
    return f'<p class="block-label">{label}</p><div class="thumbs" role="group" aria-label="{label}">{made}</div>'


def photo_html(url: str | None) -> str:
    """The photograph that points are clicked in."""
    return "" if url is None else f'<img id="photo-picture" src="{url}" alt="the photograph">'


def save_link(address: str | None, name: str = "") -> str:
    """The link that saves a result, with its recipe and marks."""
    there = "" if address is None else f' href="{escape(address)}" download="{escape(name)}"'
    return f'<a id="save"{there} role="button">Save the picture</a>'


def working(image: str | None, alt: str = "on the way") -> str:
    """One picture: a source, or what is on its way."""
    if image is None:
        return '<figure class="pair empty" id="pair"><p>The first picture comes in a moment.</p></figure>'
    return f'<figure class="pair" id="pair"><img id="picture-now" src="{image}" alt="{escape(alt)}"></figure>'


def empty_stage() -> str:
    """Before anything is there."""
    return ('<figure class="pair empty" id="pair"><p>Choose a picture, say what it is to show, and press '
            "<b>Edit</b>.</p></figure>")  # fmt: skip


def said(kind: str, *sentences: str, done: tuple[int, int] | None = None) -> str:
    """Sentences where the eye is: an error, warnings, a note; `done` of so many steps draws a bar."""
    bar = ""
    if done is not None:
        bar = f'<progress id="progress" value="{done[0]}" max="{max(done[1], 1)}" aria-label="progress"></progress>'
    lines = "".join(f"<p>{escape(one)}</p>" for one in sentences)
    return f'<div class="said {kind}" role="{ROLES[kind]}">{bar}{lines}</div>' if lines or bar else ""
