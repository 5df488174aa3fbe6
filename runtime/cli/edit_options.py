"""The options of `limner edit` that are there for every method; a method's own are read from its declaration."""

from pathlib import Path
from typing import Annotated

import typer

SourceArgument = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE...",
        help="A picture file, a folder of them, seed:NUMBER, or latents (.npy) written by `limner invert`.",
    ),
]
TextsArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="TEXT...", help="What the picture should show, one text or several."),
]
OutputOption = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        "--out",
        help="Picture file; <source>-edited.png if not given. A folder for several.",
    ),
]
MethodOption = Annotated[
    str | None,
    typer.Option("--method", "-m", help="How to edit; global-directions if not given, latent-mapper with --mapper."),
]
MapperOption = Annotated[
    list[str] | None,
    typer.Option("--mapper", help="Name of a latent mapper of the bundle; may be repeated."),
]
ConceptOption = Annotated[
    list[str] | None,
    typer.Option(
        "--concept",
        help="+WORDS or -WORDS, and :scale=7,threshold=0.95,warmup=5,cooldown=40,weight=2; may be repeated.",
    ),
]
PromptOption = Annotated[
    list[str] | None,
    typer.Option("--prompt", help="TEXT as an option, for any method; alone it is prompt-to-prompt's."),
]
WordOption = Annotated[
    list[str] | None,
    typer.Option("--word", help="WORD=WEIGHT or WORD:weight=2,window=0.1-0.6, a word of --prompt; may be repeated."),
]
BlendOption = Annotated[
    list[str] | None,
    typer.Option("--blend", help="WORD, or SOURCE:TARGET, that may change the picture; may be repeated."),
]
SubtractOption = Annotated[
    list[str] | None,
    typer.Option("--subtract", help="WORD, or SOURCE:TARGET, that --blend leaves alone; may be repeated."),
]
MaskAddOption = Annotated[
    Path | None,
    typer.Option("--mask-add", help="Picture, white where a local edit or the concepts may act as well."),
]
MaskRemoveOption = Annotated[Path | None, typer.Option("--mask-remove", help="Picture, white where they may not.")]
KindOption = Annotated[
    str | None,
    typer.Option("--kind", help="replace, refine or reweight; what the two prompts are if not given."),
]
SourcePromptOption = Annotated[
    str | None,
    typer.Option("--source-prompt", help="What a diffusion model makes from a seed, or what the picture shows."),
]
InversionOption = Annotated[
    list[str] | None,
    typer.Option("--inversion", help="A setting of a picture's inversion, NAME=VALUE; may be repeated."),
]
SeedOption = Annotated[int, typer.Option("--seed", help="Of the draws of an edit-friendly inversion.")]
MapsOption = Annotated[
    Path | None,
    typer.Option("--maps", help="Folder for the pictures beside the edit: attention maps, masks."),
]
NeutralOption = Annotated[
    list[str] | None,
    typer.Option("--neutral", help="What a text is compared with; derived if not given."),
]
StrengthOption = Annotated[
    list[float] | None, typer.Option("--strength", "-s", help="How far: one for all texts or one a text.")
]
BetaOption = Annotated[
    list[float] | None,
    typer.Option("--beta", help="Relevance that a channel needs: one for all or one a text."),
]
ParameterOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="A parameter of the method, NAME=VALUE; may be repeated."),
]
RefineOption = Annotated[
    int | None,
    typer.Option(
        "--refine", help="Steps of refinement in W+ after the encoder, for a picture file; 20 in a feature map follow."
    ),
]
TruncationOption = Annotated[
    float | None, typer.Option("--truncation", help="Of a seed of StyleGAN2, 0 to 1; 0.7 if not given.")
]
SignOption = Annotated[
    bool | None,
    typer.Option("--sign/--no-sign", help="Signed Content Credentials; as LIMNER_SIGNING_CERT says, if not given."),
]
WatermarkOption = Annotated[
    str | None, typer.Option("--watermark", help="An invisible mark of 64 bits, as in lattice; LIMNER_WATERMARK's.")
]
StrictOption = Annotated[
    bool, typer.Option("--strict", help="Refuse a source whose own Content Credentials do not hold.")
]
CropOption = Annotated[
    Path | None, typer.Option("--crop", help="Also write the edited face alone to this picture file.")
]
