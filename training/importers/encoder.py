"""e4e .pt: {"state_dict": encoder.* and decoder.*, "latent_avg": [layers, w_dim], "opts": {...}}.

omertov/encoder4editing, models/psp.py and models/encoders/psp_encoders.py. Our encoder has its names; its decoder is
rosinality's generator, which `--decoder` imports instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from limner.training.importers import stylegan2
from limner.training.importers.files.opening import Foreign
from limner.training.importers.files.pickles import Record, Refused
from limner.training.importers.identity import read_body, with_counters
from limner.training.importers.states import Imported, Options, as_tensors, below, count, flat, rows, shape, tensor_of
from limner.training.models.psp import EncoderConfig

WHAT = "e4e .pt"


def recognises(foreign: Foreign) -> bool:
    state = _state(foreign.content)
    return state is not None and "encoder.styles.0.linear.weight" in state


def _state(content: Any) -> dict[str, Any] | None:
    return flat(content.get("state_dict")) if isinstance(content, Mapping) else None


def plain_options(content: Mapping[str, Any]) -> dict[str, Any]:
    """The file's opts as a mapping; a Namespace is one too."""
    found = content.get("opts")
    found = found.state if isinstance(found, Record) else found
    return found if isinstance(found, dict) else {}


def convert(foreign: Foreign, options: Options) -> Imported:
    whole = _state(foreign.content)
    if whole is None:
        raise Refused("a file without a state dict")
    given = plain_options(foreign.content)
    kind = given.get("encoder_type", "Encoder4Editing")
    if kind != "Encoder4Editing":
        raise Refused(f"an encoder of the type {str(kind)[:40]!r}, not Encoder4Editing")
    decoder = below(whole, "decoder.")
    average = tensor_of(foreign.content.get("latent_avg"))
    if options.decoder:
        if not decoder:
            raise Refused("an encoder without its decoder")
        return stylegan2.generator(decoder, average, "StyleGAN2 generator (decoder of an e4e file)")
    state = below(whole, "encoder.")
    config = read_config(state)
    tensors = with_counters(as_tensors(state), "encoder", config)
    if not given.get("start_from_latent_avg", True):
        average = torch.zeros(config.num_ws, config.w_dim)
    if average is None:
        raise Refused("an encoder without its latent_avg")
    averages = rows(average, config.w_dim, "latent_avg")
    if len(averages) not in (1, config.num_ws):
        raise Refused(f"an encoder of {config.num_ws} layers whose latent_avg has {len(averages)}")
    tensors["latent_avg"] = averages.expand(config.num_ws, -1).clone()
    unknown = tuple(key for key in whole if not key.startswith(("encoder.", "decoder.")))
    facts = {"pixels a side of the pictures": config.image_size, "pixels a side that it sees": config.input_size,
             "layers of w_plus": config.num_ws}  # fmt: skip
    notes = ("Pictures are shrunk by average pooling; the published scripts shrink them by Pillow's filter.",)
    return Imported("encoder", "encoder", config, tensors, "Encoder (e4e)", facts, notes, unknown=unknown)


def read_config(state: Mapping[str, Any]) -> EncoderConfig:
    """All sizes from shapes: a style block halves its features down to one pixel, so its convolutions tell them."""
    body = read_body(state)
    layers = count(state, "styles.{}.linear.weight")
    depths = [count(state, f"styles.{i}.convs.{{}}.weight") for i in range(layers)]
    if not depths or layers % 2 or sorted(depths) != depths or not set(depths) <= {depths[0] + k for k in range(3)}:
        raise Refused(f"an encoder whose style blocks have {depths} convolutions")
    coarse = sum(d == depths[0] for d in depths)
    middle = coarse + sum(d == depths[0] + 1 for d in depths)
    w_dim, width = shape(state, "styles.0.linear.weight", 2)
    size = 2 ** (layers // 2 + 1)
    if size > stylegan2.MAX_SIZE:
        raise Refused(f"an encoder for a generator of {size} pixels a side")
    pixels = 2 ** (depths[0] + len(body.widths))
    return EncoderConfig(size, pixels, layers, w_dim, body, width, coarse, middle)
