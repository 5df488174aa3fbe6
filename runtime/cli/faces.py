"""Faces on the command line: the options that edit and align share, and the verb align."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from limner.runtime.cli.console import print_result, warn
from limner.runtime.cli.options import BundleOption, JsonOption, check_output, open_bundle
from limner.runtime.errors import InputError, nearest
from limner.runtime.grammar import not_understood, read_number, read_settings, split_colon

if TYPE_CHECKING:
    from limner.runtime.faces.face import Face

__all__ = ["FaceOption", "FinderOption", "FramingOption", "LandmarksOption", "PasteOption", "align", "chosen_face"]

LandmarksOption = Annotated[
    Path | None,
    typer.Option(
        "--landmarks",
        help="JSON file with 68 or 5 points of a face: it is cut out as FFHQ did, edited and pasted back.",
    ),
]
FinderOption = Annotated[
    str | None,
    typer.Option("--landmark-finder", help="Name of an installed finder, instead of a file."),
]
FaceOption = Annotated[
    int | None,
    typer.Option("--face", help="Which of several faces, counted from 0."),
]
FramingOption = Annotated[
    str | None,
    typer.Option(
        "--framing",
        help="scale=1.3,shift=0.11: a square larger than FFHQ's and further down, parts of its side, "
        "for a model whose pictures show a face so.",
    ),
]
PasteOption = Annotated[
    str | None,
    typer.Option(
        "--paste",
        help="replace (the edited face, if not given) or difference (what the edit changed, added), "
        "and :threshold=0.1,feather=0.06; threshold 0 takes the whole square.",
    ),
]


def chosen_face(
    picture: str | None,  # path of the picture file; None for a source that has none
    landmarks: Path | None,
    finder: str | None,
    index: int | None,
    framing: str | None = None,
    paste: str | None = None,
) -> "Face | None":
    """Return the face that the options name, or None; InputError for options that do not go together."""
    if landmarks is None and finder is None:
        for field, value in (("face", index), ("framing", framing), ("paste", paste)):
            if value is not None:
                raise InputError(field, repr(value), "a face, by --landmarks FILE or --landmark-finder NAME")
        return None
    if landmarks is not None and finder is not None:
        raise InputError("landmark-finder", repr(finder), "either a finder or --landmarks FILE")
    if picture is None:
        field = "landmarks" if finder is None else "landmark-finder"
        raise InputError(field, repr(str(landmarks or finder)), "a picture file as the source, beside it")
    from limner.runtime.faces.face import PASTE_MODES, Face, Framing
    from limner.runtime.faces.finders import faces_in
    from limner.runtime.faces.landmarks import choose_face, read_landmarks

    given = "replace" if paste is None else paste
    mode, colon = split_colon(given)
    if mode.strip() not in PASTE_MODES:
        hint = nearest(mode.strip().lower(), PASTE_MODES)
        raise not_understood("paste", given, 0, f"{' or '.join(PASTE_MODES)}, and :threshold=0.1,feather=0.06", hint)
    readers = {"threshold": read_number, "feather": read_number}
    settings = {} if colon is None else read_settings("paste", given, colon + 1, readers)
    readers = {"scale": read_number, "shift": read_number}
    square = Framing() if framing is None else Framing(**read_settings("framing", framing, 0, readers))
    if landmarks is not None:
        faces = read_landmarks(landmarks)
    else:
        faces = faces_in(finder or "", picture, hint="give --landmarks FILE")
    return Face(choose_face(faces, index), square, mode.strip(), **settings)  # type: ignore[arg-type]


def align(
    picture: Annotated[Path, typer.Argument(metavar="PICTURE", help="A picture file.")],
    landmarks: LandmarksOption = None,
    finder: FinderOption = None,
    face: FaceOption = None,
    framing: FramingOption = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", "--out", help="Picture file to write; <picture>-face.png if not given."),
    ] = None,
    size: Annotated[
        int | None, typer.Option("--size", help="Side of the square in pixels; the bundle's if not given.")
    ] = None,
    bundle: BundleOption = None,
    as_json: JsonOption = False,
) -> None:
    """Cut a face out of a picture as FFHQ did.

    Landmarks are pixels of the picture as it is displayed: 68 points (dlib, iBUG) or 5 (eyes, nose, corners of the
    mouth), as [[x, y], ...], or {"faces": [[[x, y], ...], ...]} for several faces.
    """
    from limner.runtime.faces.alignment import align_face
    from limner.runtime.pictures.images import read_photo
    from limner.runtime.pictures.naming import free_name
    from limner.runtime.pictures.writing import write_picture

    target = output if output is not None else free_name(Path(f"{picture.stem}-face.png"))
    check_output(target, "output", source=str(picture))
    chosen = chosen_face(str(picture), landmarks, finder, face, framing)
    if chosen is None:
        raise InputError("landmarks", "nothing", "--landmarks FILE or --landmark-finder NAME")
    side = open_bundle(bundle).image_size if size is None else size
    photo = read_photo(picture)
    aligned = align_face(photo.on_white(), chosen.landmarks, side, chosen.framing)
    warnings = [f"source: {note}" for note in photo.notes]
    warnings += write_picture(target, aligned.image_u8, carried=photo.carried)
    warn(warnings)
    result = {"output": str(target), "size": side, "quad": aligned.quad.round(3).tolist(), "warnings": warnings}
    print_result(result, as_json)
