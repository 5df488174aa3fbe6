"""Published StyleCLIP mappers: {"state_dict": mapper.* and decoder.*, "opts": {...}}.

orpatashnik/StyleCLIP, mapper/latent_mappers.py and styleclip_mapper.py. Our mappers have its names, `course_mapping`
[sic] included. Its PixelNorm reduces the second axis of [N,L,D], the layers; weights were trained with that, so the
config says so. The decoder that the file carries tells which generator the mapper is for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from limner.runtime.bundle.mappers import FOLDER, NAME
from limner.runtime.errors import InputError
from limner.training.importers import stylegan2
from limner.training.importers.encoder import plain_options
from limner.training.importers.files.opening import Foreign
from limner.training.importers.files.pickles import Refused
from limner.training.importers.sets import generator_layers, refuse_other_generator, set_generator
from limner.training.importers.states import Imported, Options, as_tensors, below, flat, shape
from limner.training.models.mapper import LEVELS, NAMES, MapperConfig, generator_digest
from limner.training.models.stylegan2 import StyleGAN2Config

WHAT = "StyleCLIP mapper .pt"
LONGEST_PROMPT = 200  # characters


def recognises(foreign: Foreign) -> bool:
    state = _state(foreign.content)
    return state is not None and any(key.startswith("mapper.") for key in state)


def _state(content: Any) -> dict[str, Any] | None:
    return flat(content.get("state_dict")) if isinstance(content, Mapping) else None


def convert(foreign: Foreign, options: Options) -> Imported:
    whole = _state(foreign.content)
    if whole is None:
        raise Refused("a file without a state dict")
    given, label = plain_options(foreign.content), label_of(foreign, options)
    tensors = as_tensors(below(whole, "mapper."))
    decoder = as_tensors({key: value for key, value in below(whole, "decoder.").items() if not key.endswith(".kernel")})
    own = set_generator(options.out)
    sizes = stylegan2.read_config(decoder) if decoder else own.config if own else None
    if sizes is None:
        given_text = f"{foreign.path.name!r} without its generator, and none in {str(options.out)!r}"
        raise InputError("file", given_text, "a set with the generator", "import the generator first")
    if own is not None:
        refuse_other_generator("a mapper", sizes, decoder, own)
    digest = generator_digest(own.state if own is not None else decoder) if decoder else ""
    prompt = prompt_of(given, label)
    config = read_config(tensors, sizes, prompt, digest)
    idle = tuple(f"{NAMES[level]}." for level, (first, _) in LEVELS.items() if first >= sizes.num_ws)
    tensors = {key: value for key, value in tensors.items() if not key.startswith(idle)}  # a level without rows
    if given.get("stylegan_size", sizes.size) != sizes.size:
        raise Refused(f"a mapper for {given['stylegan_size']} pixels whose generator has {sizes.size}")
    unknown = tuple(key for key in whole if not key.startswith(("mapper.", "decoder.")))
    facts = {"kind": config.kind, "layers of w_plus": config.num_ws, "text": config.prompt}
    notes = () if decoder else ("The file does not say which generator it was trained on.",)
    title = f"Latent mapper: {config.prompt}"
    return Imported("mapper", f"{FOLDER}/{label}", config, tensors, title, facts, notes, unknown=unknown)


def prompt_of(given: Mapping[str, Any], label: str) -> str:
    """The text that the mapper was trained for, on one line; the name if the file does not say it."""
    said = given.get("description")
    text = " ".join(said.split())[:LONGEST_PROMPT] if isinstance(said, str) else ""
    return text if text.isprintable() and text else label.replace("_", " ").replace("-", " ")


def label_of(foreign: Foreign, options: Options) -> str:
    """The mapper's name: as given, or the file's in lower case."""
    label = options.name or re.sub(r"[^a-z0-9]+", "-", foreign.path.stem.lower()).strip("-")
    if not NAME.fullmatch(label):
        raise InputError("name", repr(label), "lower-case letters, digits and single dashes", "--name NAME")
    return label


def read_config(state: Mapping[str, Tensor], sizes: StyleGAN2Config, prompt: str, digest: str) -> MapperConfig:
    """The kind of mapper by its names, and its switches by what is there."""
    styles = sorted(int(m[1]) for m in (re.fullmatch(r"mapper_(\d+)\.mapping\.1\.weight", key) for key in state) if m)
    if styles:
        channels = tuple(layer.channels for layer in generator_layers(sizes))
        if any(i % 3 == 1 for i in styles):
            raise Refused("a mapper that moves to-RGB channels, which are never edited here")
        return MapperConfig("styles", sizes.num_ws, sizes.w_dim, styles=channels, prompt=prompt, generator=digest)
    levels = {level: f"{name}.mapping.1.weight" in state for level, name in NAMES.items()}
    single = "mapping.mapping.1.weight" in state
    if not single and not any(levels.values()):
        raise Refused("a mapper of no known kind")
    first = "mapping" if single else next(NAMES[level] for level, on in levels.items() if on)
    width = shape(state, f"{first}.mapping.1.weight", 2)[1]
    if width != sizes.w_dim:
        raise Refused(f"a mapper of width {width} for a generator of width {sizes.w_dim}")
    coarse, medium, fine = (single or levels[level] for level in ("coarse", "medium", "fine"))
    return MapperConfig("single" if single else "levels", sizes.num_ws, sizes.w_dim, coarse, medium, fine,
                        pixel_norm="layers", prompt=prompt, generator=digest)  # fmt: skip
