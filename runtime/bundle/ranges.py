"""Which sizes the dimensions of a graph may take: what the bundle declares, else what its model implies."""

from __future__ import annotations

from limner.runtime.bundle.engines import RangeMeta
from limner.runtime.bundle.manifest import BundleManifest, DiffusionMeta

# Single pictures are what an editor waits for, eight go through together.
BATCH = RangeMeta(1, 1, 8)
ROWS = RangeMeta(1, 4, 16)  # of a UNet: with guidance, N edits and their source are 2 (N + 1) rows
WORDS = RangeMeta(1, 1, 8)  # groups of words whose attention maps are asked for
TEXT = 16  # tokens of a usual text, its start and its end
TEXTS = RangeMeta(1, 79, 96)  # a text is encoded in 79 templates at once


def graph_ranges(manifest: BundleManifest, graph: str) -> dict[str, RangeMeta]:
    """dimension -> its sizes; a dimension that is missing may take any.

    `ranges` of bundle.json comes first, where "unet.height" is meant for one graph and "batch" for all.
    """
    implied = {"batch": BATCH}
    if manifest.diffusion is not None:
        implied |= _diffusion(manifest.diffusion, graph)
    elif manifest.clip.context_length > 1:
        longest = manifest.clip.context_length
        implied["tokens"] = RangeMeta(2, min(TEXT, longest), longest)
        implied["batch"] = TEXTS if graph == "clip_text" else BATCH
    declared = {name: sizes for name, sizes in manifest.ranges.items() if "." not in name}
    own = {name.partition(".")[2]: sizes for name, sizes in manifest.ranges.items() if name.startswith(f"{graph}.")}
    return implied | declared | own


def _diffusion(model: DiffusionMeta, graph: str) -> dict[str, RangeMeta]:
    """Half to twice the side that the model was trained at."""
    step = max(1, model.multiple // model.vae_factor)
    side = -(-model.sample_size // step) * step
    latents = RangeMeta(max(step, side // 2 // step * step), side, 2 * side, step)
    pixels = RangeMeta(*(model.vae_factor * n for n in (latents.minimum, side, 2 * side, step)))
    unet = graph in ("unet", "unet_cached")
    sides = latents if unet else pixels
    found = dict.fromkeys(("height", "width"), sides) | dict.fromkeys(("latent_height", "latent_width"), latents)
    return found | ({"batch": ROWS, "words": WORDS} if unet else {})
