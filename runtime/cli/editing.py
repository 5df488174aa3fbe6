"""The verbs that make pictures of pictures: edit, invert, replay."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from limner.runtime.cli.console import note, print_json, print_result, report, steps, warn
from limner.runtime.cli.faces import FaceOption, FinderOption, FramingOption, LandmarksOption, PasteOption, chosen_face
from limner.runtime.cli.options import (
    BundleOption,
    DryRunOption,
    JsonOption,
    ProviderOption,
    SheetOption,
    ThreadsOption,
    check_folder,
    check_output,
    open_bundle,
    open_editor,
)
from limner.runtime.errors import InputError

if TYPE_CHECKING:
    from limner.runtime.edit import Edit

__all__ = ["edit", "invert", "replay"]

SourceArgument = Annotated[
    str,
    typer.Argument(metavar="SOURCE", help="A picture file, seed:NUMBER, or latents (.npy) written by `limner invert`."),
]


def edit(
    source: SourceArgument,
    texts: Annotated[
        list[str] | None,
        typer.Argument(metavar="TEXT...", help="What the picture should show, one text or several."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", "--out", help="PNG file to write; <source>-edited.png if not given."),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            "--method", "-m", help="How to edit; global-directions if not given, latent-mapper with --mapper."
        ),
    ] = None,
    mapper: Annotated[
        list[str] | None,
        typer.Option("--mapper", help="Name of a latent mapper of the bundle; may be repeated."),
    ] = None,
    concept: Annotated[
        list[str] | None,
        typer.Option(
            "--concept",
            help="+WORDS or -WORDS, and :scale=7,threshold=0.95,warmup=5,cooldown=40,weight=2; may be repeated.",
        ),
    ] = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option("--prompt", help="TEXT as an option, for any method; alone it is prompt-to-prompt's."),
    ] = None,
    word: Annotated[
        list[str] | None,
        typer.Option(
            "--word", help="WORD=WEIGHT or WORD:weight=2,window=0.1-0.6, a word of --prompt; may be repeated."
        ),
    ] = None,
    blend: Annotated[
        list[str] | None,
        typer.Option("--blend", help="WORD, or SOURCE:TARGET, that may change the picture; may be repeated."),
    ] = None,
    subtract: Annotated[
        list[str] | None,
        typer.Option("--subtract", help="WORD, or SOURCE:TARGET, that --blend leaves alone; may be repeated."),
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option("--kind", help="replace, refine or reweight; what the two prompts are if not given."),
    ] = None,
    source_prompt: Annotated[
        str | None,
        typer.Option("--source-prompt", help="What a diffusion model makes from a seed, or what the picture shows."),
    ] = None,
    inversion: Annotated[
        list[str] | None,
        typer.Option("--inversion", help="A setting of a picture's inversion, NAME=VALUE; may be repeated."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the draws of an edit-friendly inversion.")] = 0,
    maps: Annotated[
        Path | None,
        typer.Option("--maps", help="Folder for the pictures beside the edit: attention maps, masks."),
    ] = None,
    neutral: Annotated[
        list[str] | None,
        typer.Option("--neutral", help="What a text is compared with; derived if not given."),
    ] = None,
    strength: Annotated[
        list[float] | None, typer.Option("--strength", "-s", help="How far: one for all texts or one a text.")
    ] = None,
    beta: Annotated[
        list[float] | None,
        typer.Option("--beta", help="Relevance that a channel needs: one for all or one a text."),
    ] = None,
    parameter: Annotated[
        list[str] | None,
        typer.Option("--set", help="A parameter of the method, NAME=VALUE; may be repeated."),
    ] = None,
    refine: Annotated[
        int | None,
        typer.Option("--refine", help="Steps of refinement after the encoder, for a picture file."),
    ] = None,
    truncation: Annotated[
        float | None, typer.Option("--truncation", help="Of a seed of StyleGAN2, 0 to 1; 0.7 if not given.")
    ] = None,
    landmarks: LandmarksOption = None,
    landmark_finder: FinderOption = None,
    face: FaceOption = None,
    framing: FramingOption = None,
    paste: PasteOption = None,
    crop: Annotated[
        Path | None, typer.Option("--crop", help="Also write the edited face alone to this PNG file.")
    ] = None,
    sheet: SheetOption = None,
    bundle: BundleOption = None,
    provider: ProviderOption = "cpu",
    threads: ThreadsOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Edit a picture by words.

    A picture file is cut to its centred square. With --landmarks (or a finder) the face is cut out of it as FFHQ did,
    edited, and pasted back: the photograph comes out at its own size.
    """
    from limner.runtime.cli.recipes import (
        choose_method,
        make_recipe,
        make_source,
        require_use,
        suggested_output,
        with_face,
    )
    from limner.runtime.cli.words import with_words, word_options
    from limner.runtime.methods import find_method

    start = make_source(source, truncation, source_prompt)
    if word and source_prompt is not None and not (texts or mapper or concept or prompt):
        prompt = [source_prompt]  # re-weighted
    method = choose_method(method, mapper, concept, prompt)
    if maps is not None:
        require_use(method, "maps", "maps")
    for option, given in (("word", word), ("blend", blend), ("subtract", subtract), ("kind", kind)):
        if given:
            require_use(method, "words", option)
    words = [*(texts or ()), *(mapper or ()), *(concept or ()), *(prompt or ())]
    recipe = make_recipe(start, words, method, neutral, strength, beta, parameter, refine, inversion, seed)
    recipe = with_words(recipe, word_options(word, blend, subtract, kind), draws_maps=maps is not None)
    family = find_method(method).family
    target = output if output is not None else suggested_output(start)
    check_output(target, "output", source=start.path)
    check_output(sheet, "sheet", source=start.path)
    check_output(crop, "crop", source=start.path)
    check_folder(maps, "maps")
    pictured = start.path if start.kind == "image" else None
    recipe = with_face(recipe, chosen_face(pictured, landmarks, landmark_finder, face, framing, paste))
    if crop is not None and recipe.source.face is None:
        raise InputError("crop", repr(str(crop)), "a face, by --landmarks FILE or --landmark-finder NAME")
    if dry_run:
        from limner.runtime.cli.recipes import plan

        print_json(plan(recipe, open_bundle(bundle, family), provider) | {"output": str(target)})
        return
    editor = open_editor(bundle, provider, threads, family)
    with steps(method) as progress:
        result = editor.edit(recipe, progress)
    _deliver(result, target, sheet, as_json, maps=maps, crop=crop)


def invert(
    picture: Annotated[Path, typer.Argument(metavar="PICTURE", help="A picture file.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Where to write W+ (.npy); <picture>.npy if not given."),
    ] = None,
    refine: Annotated[int | None, typer.Option("--refine", help="Steps of refinement after the encoder.")] = None,
    sheet: SheetOption = None,
    bundle: BundleOption = None,
    provider: ProviderOption = "cpu",
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find the latents of a picture.

    They are written as float32 [layers, width] in a .npy file, which `limner edit` takes as its source.
    """
    from limner.runtime.cli.sheets import array_bytes, inversion_sheet
    from limner.runtime.files import write_atomically
    from limner.runtime.images import write_png_atomically
    from limner.runtime.notices import source_notices

    target = output if output is not None else Path(f"{picture.stem}.npy")
    check_output(target, "output", suffix=".npy")
    check_output(sheet, "sheet", source=str(picture))
    editor = open_editor(bundle, provider, threads)
    parameters = editor.sources.inversion_parameters({} if refine is None else {"refine_steps": refine})
    with steps("refine") as progress:
        found = editor.invert(picture, parameters, progress)
    warnings = source_notices(editor.bundle, found.notes, found.likeness)
    drawn = inversion_sheet(found, picture.name, warnings) if sheet is not None else None
    write_atomically(target, array_bytes(found.w_plus[0]))
    if sheet is not None and drawn is not None:
        write_png_atomically(sheet, drawn, field="sheet")
    report(found.scores, found.timing)
    warn(warnings)
    data = {"output": str(target), "sheet": _text(sheet), "steps": found.steps, "scores": found.scores}
    print_result(
        data | {"warnings": warnings, "timing_ms": found.timing, "bundle": editor.bundle.digest, "provider": provider},
        as_json,
    )


def replay(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A PNG that limner wrote, or a recipe (.json).")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="PNG file to write; only compares if not given.")
    ] = None,
    source: Annotated[Path | None, typer.Option("--source", help="Where the source file is now.")] = None,
    sheet: SheetOption = None,
    bundle: BundleOption = None,
    provider: ProviderOption = "cpu",
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> int:
    """Run a recipe again and compare the pixels.

    The recipe comes from a PNG that limner wrote, or from a .json file. Exit code 1 if the pixels are not
    those of the PNG.
    """
    from limner.runtime.methods import find_method
    from limner.runtime.provenance import read_recipe
    from limner.runtime.provenance import replay as replay_png
    from limner.runtime.recipe import Recipe

    check_output(output, "output", source=_text(source))
    check_output(sheet, "sheet", source=_text(source))
    recipe = Recipe.from_file(file) if file.suffix.lower() == ".json" else None
    method = (read_recipe(file) if recipe is None else recipe).method
    editor = open_editor(bundle, provider, threads, find_method(method).family)
    same: bool | None = None
    with steps("replay") as progress:
        if recipe is None:
            replayed = replay_png(file, editor, source=source, progress=progress)
            result, same = replayed.edit, replayed.same_pixels
        else:
            from limner.runtime.cli.recipes import with_source

            result = editor.edit(with_source(recipe, source), progress)
    _deliver(result, output, sheet, as_json, {"same_pixels": same})
    if recipe is None:
        words = {
            True: "the same pixels",
            False: "other pixels",
            None: "no hash of the pixels to compare with",
        }
        note(f"{file.name}: {words[same]}")
    return 1 if same is False else 0


def _deliver(
    result: "Edit",
    output: Path | None,
    sheet: Path | None,
    as_json: bool,
    extra: dict[str, Any] | None = None,
    maps: Path | None = None,
    crop: Path | None = None,
) -> None:
    """Write the files of an edit, all drawn before the first is written, and print where they are."""
    from limner.runtime.cli.sheets import edit_sheet, write_pictures
    from limner.runtime.faces.whole import whole_picture
    from limner.runtime.images import write_png_atomically
    from limner.runtime.provenance import write_edit

    whole = whole_picture(result)
    drawn = edit_sheet(result, whole) if sheet is not None else None
    if output is not None:
        write_edit(output, result, image=whole)
    if crop is not None:
        write_edit(crop, result, "crop", result.image)
    if sheet is not None and drawn is not None:
        write_png_atomically(sheet, drawn, field="sheet")
    written = write_pictures(maps, result.pictures) if maps is not None else []
    report(result.scores, result.timing)
    warnings = [*result.warnings]
    if maps is not None and not result.pictures:
        warnings.append("no pictures for --maps: this edit makes none")
    warn(warnings)
    data: dict[str, Any] = {"output": _text(output), "sheet": _text(sheet), "recipe": result.recipe.to_dict()}
    data |= {"maps": [str(path) for path in written]} if maps is not None else {}
    data |= {"crop": str(crop)} if crop is not None else {}
    data |= {"warnings": warnings, "scores": result.scores, "timing_ms": result.timing, "provider": result.provider}
    print_result(data | (extra or {}), as_json)


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
