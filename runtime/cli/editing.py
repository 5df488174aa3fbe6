"""The verbs that make pictures of pictures: edit, invert, replay."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from limner.runtime.cli.console import note, print_json, print_result, report, steps, warn
from limner.runtime.cli.edit_options import (
    BetaOption,
    BlendOption,
    ConceptOption,
    CropOption,
    InversionOption,
    KindOption,
    MapperOption,
    MapsOption,
    MaskAddOption,
    MaskRemoveOption,
    MethodOption,
    NeutralOption,
    OutputOption,
    ParameterOption,
    PromptOption,
    RefineOption,
    SeedOption,
    SignOption,
    SourceArgument,
    SourcePromptOption,
    StrengthOption,
    StrictOption,
    SubtractOption,
    TextsArgument,
    TruncationOption,
    WatermarkOption,
    WordOption,
)
from limner.runtime.cli.faces import FaceOption, FinderOption, FramingOption, LandmarksOption, PasteOption, chosen_face
from limner.runtime.cli.options import (
    BundleOption,
    CompareOption,
    DryRunOption,
    JsonOption,
    ProviderOption,
    ServerOption,
    SheetOption,
    ThreadsOption,
    check_apart,
    check_folder,
    check_output,
    open_bundle,
    open_editor,
    open_server,
)
from limner.runtime.errors import InputError
from limner.runtime.pictures.naming import free_name

if TYPE_CHECKING:
    from limner.runtime.client import Client
    from limner.runtime.edit import Edit
    from limner.runtime.editor import Editor
    from limner.runtime.marking.marks import Marks
    from limner.runtime.methods.registry import Family
    from limner.runtime.pictures.sheets import SheetRow
    from limner.runtime.recipe import Recipe, Source

__all__ = ["edit", "invert", "replay"]


def edit(
    source: SourceArgument,
    texts: TextsArgument = None,
    output: OutputOption = None,
    method: MethodOption = None,
    mapper: MapperOption = None,
    concept: ConceptOption = None,
    prompt: PromptOption = None,
    word: WordOption = None,
    blend: BlendOption = None,
    subtract: SubtractOption = None,
    mask_add: MaskAddOption = None,
    mask_remove: MaskRemoveOption = None,
    kind: KindOption = None,
    source_prompt: SourcePromptOption = None,
    inversion: InversionOption = None,
    seed: SeedOption = 0,
    maps: MapsOption = None,
    neutral: NeutralOption = None,
    strength: StrengthOption = None,
    beta: BetaOption = None,
    parameter: ParameterOption = None,
    refine: RefineOption = None,
    truncation: TruncationOption = None,
    landmarks: LandmarksOption = None,
    landmark_finder: FinderOption = None,
    face: FaceOption = None,
    framing: FramingOption = None,
    paste: PasteOption = None,
    crop: CropOption = None,
    sheet: SheetOption = None,
    compare: CompareOption = True,
    sign: SignOption = None,
    watermark: WatermarkOption = None,
    strict: StrictOption = False,
    bundle: BundleOption = None,
    provider: ProviderOption = "cpu",
    threads: ThreadsOption = None,
    server: ServerOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> int:
    """Edit a picture by words, or several.

    A picture file is cut to its centred square. With --landmarks (or a finder) the face is cut out of it as FFHQ did,
    edited, and pasted back: the photograph comes out at its own size. Several sources (a folder, or files before the
    texts) go to the folder --out; exit code 1 if one of them failed.
    """
    from limner.runtime.cli.choice import choose_method
    from limner.runtime.cli.many import check_many, split_sources
    from limner.runtime.cli.recipes import with_face
    from limner.runtime.methods.registry import find_method
    from limner.runtime.wording.recipes import make_recipe, make_source, require_use
    from limner.runtime.wording.words import drawn_options, with_words, word_options

    sources, texts = split_sources([source, *(texts or ())])
    folder = len(sources) > 1 or Path(source).is_dir()
    if word and source_prompt is not None and not (texts or mapper or concept or prompt):
        prompt = [source_prompt]  # re-weighted
    method = choose_method(method, mapper, concept, prompt)
    if maps is not None:
        require_use(method, "maps", "maps")
    options = {"word": word, "blend": blend, "subtract": subtract, "kind": kind, "mask_add": mask_add,
               "mask_remove": mask_remove}  # fmt: skip
    for option, given in options.items():
        if given:
            require_use(method, {"word": "weights"}.get(option, option), option.replace("_", "-"))
    words = [*texts, *(mapper or ()), *(concept or ()), *(prompt or ())]

    def recipe_of(name: str) -> "Recipe":
        start = make_source(name, truncation, source_prompt)
        recipe = make_recipe(start, words, method, neutral, strength, beta, parameter, refine, inversion, seed)
        own = word_options(word, blend, subtract, kind) | drawn_options(mask_add, mask_remove)
        recipe = with_words(recipe, own, draws_maps=maps is not None)
        pictured = start.path if start.kind == "image" else None
        return with_face(recipe, chosen_face(pictured, landmarks, landmark_finder, face, framing, paste))

    if server is not None and (bundle is not None or dry_run):
        given = "--bundle" if bundle is not None else "--dry-run"
        raise InputError("server", f"--server with {given}", "either of them")
    place = Place(bundle, provider, threads, find_method(method).family, server)
    wanted = Wanted(output, sheet, crop, maps, as_json, compare, _marks(sign, watermark), strict)
    if folder:
        check_many(output, maps=maps, crop=crop, landmarks=landmarks)
        return _edit_several(sources, recipe_of, wanted, place, dry_run)
    start = make_source(source, truncation, source_prompt)
    return _edit_one(start, lambda: recipe_of(source), wanted, place, dry_run)


@dataclass(frozen=True)
class Place:
    """Where an edit runs."""

    bundle: Path | None
    provider: str
    threads: int | None
    family: "Family"
    server: str | None = None

    @contextmanager
    def editor(self) -> "Iterator[Editor | Client]":
        """The editor there."""
        if self.server is None:
            yield open_editor(self.bundle, self.provider, self.threads, self.family)
            return
        with open_server(self.server) as client:
            yield client


@dataclass(frozen=True)
class Wanted:
    """What is to be written of an edit."""

    output: Path | None
    sheet: Path | None = None
    crop: Path | None = None
    maps: Path | None = None
    as_json: bool = False
    compare: bool = True
    marks: "Marks | None" = None
    strict: bool = False  # about the credentials of sources


def _edit_several(
    sources: Sequence[str], recipe_of: "Callable[[str], Recipe]", wanted: Wanted, place: Place, dry_run: bool
) -> int:
    from limner.runtime.cli.many import check_many, check_request, edit_many, expanded
    from limner.runtime.cli.recipes import plan

    into = check_many(wanted.output)
    check_output(wanted.sheet, "sheet")
    sources = expanded(sources)
    check_request(recipe_of, sources)
    if wanted.strict:
        for name in sources:
            _require_sound(name)
    if dry_run:
        loaded = open_bundle(place.bundle, place.family)
        edits = [plan(recipe_of(name), loaded, place.provider) for name in sources]
        print_json({"edits": edits, "output": str(into)})
        return 0
    deliver = partial(_delivered, draw=wanted.sheet is not None, marks=wanted.marks)
    with place.editor() as editor:
        done, failed, rows = edit_many(editor, sources, recipe_of, into, deliver, wanted.compare)
    _write_sheet(wanted.sheet, rows)
    if wanted.as_json:
        print_json({"edits": done, "failed": failed, "sheet": _text(wanted.sheet)})
    else:
        for path in [*(one["output"] for one in done), *([] if wanted.sheet is None else [str(wanted.sheet)])]:
            print(path)
    return 1 if failed else 0


def _edit_one(start: "Source", make: "Callable[[], Recipe]", wanted: Wanted, place: Place, dry_run: bool) -> int:
    from limner.runtime.cli.recipes import plan, suggested_output

    target = wanted.output if wanted.output is not None else free_name(suggested_output(start))
    for field, path in (("output", target), ("sheet", wanted.sheet), ("crop", wanted.crop)):
        check_output(path, field, source=start.path)
    check_apart(output=target, sheet=wanted.sheet, crop=wanted.crop)
    check_folder(wanted.maps, "maps")
    recipe = make()
    if wanted.strict and start.kind == "image" and start.path is not None:
        _require_sound(start.path)
    if wanted.crop is not None and recipe.source.face is None:
        allowed = "a face, by --landmarks FILE or --landmark-finder NAME"
        raise InputError("crop", repr(str(wanted.crop)), allowed)
    if dry_run:
        print_json(plan(recipe, open_bundle(place.bundle, place.family), place.provider) | {"output": str(target)})
        return 0
    with place.editor() as editor:
        with steps(recipe.method) as progress:
            result = editor.edit(recipe, progress, compare=wanted.compare)
        _deliver(result, replace(wanted, output=target))
    return 0


def invert(
    picture: Annotated[Path, typer.Argument(metavar="PICTURE", help="A picture file.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", "--out", help="Where to write W+ (.npy); <picture>.npy if not given."),
    ] = None,
    refine: Annotated[int | None, typer.Option("--refine", help="Steps of refinement in W+ after the encoder.")] = None,
    sheet: SheetOption = None,
    bundle: BundleOption = None,
    provider: ProviderOption = "cpu",
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find the latents of a picture.

    They are written as float32 [layers, width] in a .npy file, which `limner edit` takes as its source.
    """
    from limner.runtime.bundle.presets import resolved
    from limner.runtime.cli.sheets import array_bytes, inversion_sheet
    from limner.runtime.notices import source_notices
    from limner.runtime.pictures.writing import write_picture
    from limner.runtime.pictures.xmp import COMPOSITE
    from limner.runtime.settings import InversionParameters, typed
    from limner.runtime.storage.files import write_atomically

    target = output if output is not None else free_name(Path(f"{picture.stem}.npy"))
    check_output(target, "output", suffix=".npy")
    check_output(sheet, "sheet", source=str(picture))
    editor = open_editor(bundle, provider, threads)
    asked = {"feature_steps": 0} | ({} if refine is None else {"refine_steps": refine})  # W+ is all that is written
    settings = typed(InversionParameters, asked, "inversion")
    parameters = resolved(editor.bundle, settings, "inversion")
    with steps("refine") as progress:
        found = editor.invert(picture, parameters, progress)
    warnings = source_notices(editor.bundle, found.notes, found.likeness)
    drawn = inversion_sheet(found, picture.name, warnings) if sheet is not None else None
    write_atomically(target, array_bytes(found.w_plus[0]))
    if sheet is not None and drawn is not None:
        write_picture(sheet, drawn, mark=COMPOSITE, field="sheet")
    report(found.scores, found.timing)
    warn(warnings)
    data = {"output": str(target), "sheet": _text(sheet), "steps": found.steps, "scores": found.scores}
    print_result(
        data | {"warnings": warnings, "timing_ms": found.timing, "bundle": editor.bundle.digest, "provider": provider},
        as_json,
    )


def replay(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A picture that limner wrote, or a recipe (.json).")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", "--out", help="Picture file to write; only compares if not given.")
    ] = None,
    source: Annotated[Path | None, typer.Option("--source", help="Where the source file is now.")] = None,
    sheet: SheetOption = None,
    sign: SignOption = None,
    watermark: WatermarkOption = None,
    bundle: BundleOption = None,
    provider: ProviderOption = "cpu",
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> int:
    """Run a recipe again and compare the pixels.

    The recipe comes from a picture that limner wrote, or from a .json file. A source file that is not where it was is
    looked for beside that. Exit code 1 if the pixels are not those of the picture.
    """
    from limner.runtime.cli.recipes import source_beside
    from limner.runtime.methods.registry import find_method
    from limner.runtime.provenance import read_recipe
    from limner.runtime.provenance import replay as replay_picture
    from limner.runtime.recipe import Recipe

    check_output(output, "output", source=_text(source))
    check_output(sheet, "sheet", source=_text(source))
    check_apart(output=output, sheet=sheet)
    recipe = Recipe.from_file(file) if file.suffix.lower() == ".json" else None
    read = read_recipe(file) if recipe is None else recipe
    method, source = read.method, source_beside(read, file, source)
    editor = open_editor(bundle, provider, threads, find_method(method).family)
    same: bool | None = None
    with steps("replay") as progress:
        if recipe is None:
            replayed = replay_picture(file, editor, source=source, progress=progress)
            result, same = replayed.edit, replayed.same_pixels
        else:
            from limner.runtime.cli.recipes import with_source

            result = editor.edit(with_source(recipe, source), progress)
    _deliver(result, Wanted(output, sheet, as_json=as_json, marks=_marks(sign, watermark)), {"same_pixels": same})
    if recipe is None:
        words = {
            True: "the same pixels",
            False: "other pixels",
            None: "no hash of the pixels to compare with",
        }
        note(f"{file.name}: {words[same]}")
    return 1 if same is False else 0


def _deliver(result: "Edit", wanted: Wanted, extra: dict[str, Any] | None = None) -> None:
    """Write the files of an edit, all drawn before the first is written, and print where they are."""
    from limner.runtime.cli.sheets import edit_rows, write_pictures
    from limner.runtime.marking.marks import NO_MARKS
    from limner.runtime.photograph import whole_picture
    from limner.runtime.provenance import save_edit, warnings_of

    output, sheet, crop, maps = wanted.output, wanted.sheet, wanted.crop, wanted.maps
    whole = whole_picture(result)
    rows = edit_rows(result, whole) if sheet is not None else []
    lost: list[str] = []
    marks = wanted.marks or NO_MARKS
    if output is not None:
        lost += save_edit(output, result, image=whole, marks=marks)
    if crop is not None:
        lost += save_edit(crop, result, "crop", result.image, marks)
    warnings = warnings_of(result, list(dict.fromkeys(lost)), NO_MARKS if output is None else marks)
    _write_sheet(sheet, rows, warnings)
    written = write_pictures(maps, result.pictures) if maps is not None else []
    report(result.scores, result.timing)
    if maps is not None and not result.pictures:
        warnings.append("no pictures for --maps: this edit makes none")
    warn(warnings)
    data: dict[str, Any] = {"output": _text(output), "sheet": _text(sheet), "recipe": result.recipe.to_dict()}
    data |= {"maps": [str(path) for path in written]} if maps is not None else {}
    data |= {"crop": str(crop)} if crop is not None else {}
    data |= {"warnings": warnings, "scores": result.scores, "timing_ms": result.timing, "provider": result.provider}
    print_result(data | (extra or {}), wanted.as_json)


def _delivered(
    result: "Edit", output: Path, draw: bool, marks: "Marks | None"
) -> tuple[dict[str, Any], list["SheetRow"]]:
    """Write one edit of several; return what --json says of it, and its rows of a sheet if one is wanted."""
    from limner.runtime.cli.sheets import edit_rows
    from limner.runtime.marking.marks import NO_MARKS
    from limner.runtime.photograph import whole_picture
    from limner.runtime.provenance import save_edit, warnings_of

    whole = whole_picture(result)
    rows = edit_rows(result, whole) if draw else []
    warnings = warnings_of(result, save_edit(output, result, image=whole, marks=marks or NO_MARKS), marks or NO_MARKS)
    data = {"output": str(output), "recipe": result.recipe.to_dict(), "warnings": warnings}
    return data | {"scores": result.scores, "timing_ms": result.timing, "provider": result.provider}, rows


def _marks(sign: bool | None, watermark: str | None) -> "Marks":
    """The marks that are asked for here, and those of the environment."""
    from limner.runtime.marking.marks import environment_marks

    return environment_marks(sign, watermark)


def _require_sound(source: str) -> None:
    """InputError for a picture whose Content Credentials do not hold."""
    from limner.runtime.marking.credentials import read_credentials

    path = Path(source)
    found = read_credentials(path.read_bytes()) if path.is_file() else None
    if found is not None and found.state == "broken":
        given = f"{path.name!r}, whose Content Credentials do not hold ({', '.join(found.problems)})"
        raise InputError("source", given, "a picture whose credentials hold, or that has none", "or leave --strict out")


def _write_sheet(path: Path | None, rows: "Sequence[SheetRow]", warnings: Sequence[str] = ()) -> None:
    from limner.runtime.pictures.sheets import make_sheet
    from limner.runtime.pictures.writing import write_picture
    from limner.runtime.pictures.xmp import COMPOSITE

    if path is not None and rows:
        write_picture(path, make_sheet(rows, notes=warnings), mark=COMPOSITE, field="sheet")


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
