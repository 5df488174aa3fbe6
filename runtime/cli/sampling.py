"""The verb that makes pictures from nothing but a seed, or a seed and words: sample."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from limner.runtime.cli.console import print_result, report, steps, warn
from limner.runtime.cli.options import (
    BundleOption,
    JsonOption,
    ProviderOption,
    ThreadsOption,
    check_output,
    open_editor,
)
from limner.runtime.errors import InputError

if TYPE_CHECKING:
    from limner.runtime.diffusion.engine import PromptSample
    from limner.runtime.stylegan2.engine import Sample

__all__ = ["sample"]

MAX_SAMPLES = 256


def sample(
    output: Annotated[
        Path | None, typer.Option("--output", "-o", "--out", help="PNG, JPEG or WebP file; sample.png if not given.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="The first seed.")] = 0,
    count: Annotated[int, typer.Option("--count", "-n", help="How many seeds; several give a grid.")] = 1,
    truncation: Annotated[
        float | None, typer.Option("--truncation", help="0 (the mean) to 1 (no truncation); 0.7 if not given.")
    ] = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option("--prompt", help="What a diffusion model shall show; several give a row each."),
    ] = None,
    negative: Annotated[str, typer.Option("--negative-prompt", help="What it shall not show.")] = "",
    parameter: Annotated[
        list[str] | None,
        typer.Option("--set", help="A parameter of the sampling, NAME=VALUE: steps, guidance_scale, sampler, ..."),
    ] = None,
    bundle: BundleOption = None,
    provider: ProviderOption = "cpu",
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make pictures from seeds, and from words with --prompt."""
    from limner.runtime.cli.sheets import grid
    from limner.runtime.notices import word_notices
    from limner.runtime.pictures.naming import free_name
    from limner.runtime.pictures.writing import write_picture
    from limner.runtime.pictures.xmp import GENERATED
    from limner.runtime.recipe import TRUNCATION
    from limner.runtime.schema import require_int
    from limner.runtime.wording.recipes import parse_settings

    output = free_name(Path("sample.png")) if output is None else output
    check_output(output, "output")
    require_int("count", count, 1, MAX_SAMPLES)
    settings = parse_settings(parameter or ())
    made: Sequence[Sample | PromptSample]
    warnings: list[str] = []
    if prompt:
        if truncation is not None:
            raise InputError("truncation", f"{truncation:g} with --prompt", "--truncation with seeds of a StyleGAN2")
        require_int("count", count * len(prompt), 1, MAX_SAMPLES)
        editor = open_editor(bundle, provider, threads, "diffusion")
        texts = [text for text in prompt for _ in range(count)]
        seeds = [seed + index for index in range(count)] * len(prompt)
        with steps("sample") as progress:
            drawn = editor.generate(texts, seeds, settings, negative=negative, progress=progress)
        made, timing = drawn, drawn[0].timing
        said = [*prompt, *([negative] if negative else [])]
        warnings = word_notices(editor.bundle, editor.engine.critics.tokenizer, said)
        more: dict[str, Any] = {"prompts": prompt, "parameters": drawn[0].parameters}
    else:
        if settings or negative:
            raise InputError("prompt", "nothing", "--prompt TEXT beside --set and --negative-prompt")
        editor = open_editor(bundle, provider, threads)
        psi = TRUNCATION if truncation is None else truncation
        made = [editor.sample(seed + index, psi) for index in range(count)]
        timing = {stage: sum(one.timing[stage] for one in made) for stage in made[0].timing}
        more = {"truncation": psi}
    sheet = grid([one.image for one in made], count if prompt and len(prompt) > 1 else 8)
    write_picture(output, sheet, mark=GENERATED)
    report({}, timing)
    warn(warnings)
    data: dict[str, Any] = {"output": str(output), "seeds": [one.seed for one in made[:count]]} | more
    print_result(
        data | {"warnings": warnings, "timing_ms": timing, "bundle": editor.bundle.digest, "provider": provider},
        as_json,
    )
