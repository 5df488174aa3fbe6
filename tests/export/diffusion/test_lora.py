"""LoRA files of every naming against W + scale (alpha / rank) up down in float64, layer by layer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from support.tiny_diffusion import write_folder
from torch import Tensor, nn

from limner.export.diffusion.folder import DiffusionFolder, read_folder
from limner.export.diffusion.lora import merge_loras, parse_loras
from limner.export.diffusion.writer import DiffusionExport, export_folder
from limner.runtime.errors import InputError

RANK = 3
LAYERS = ("down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",
          "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_out.0",
          "up_blocks.1.attentions.1.transformer_blocks.0.ff.net.0.proj",
          "down_blocks.0.attentions.0.proj_in", "mid_block.resnets.0.conv1")  # fmt: skip


@pytest.fixture(scope="module")
def owned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("lora") / "model", "sd1")


@pytest.fixture(scope="module")
def owned_xl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("lora-xl") / "model", "sdxl")


def pair(weight: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """down and up of a layer's weight, drawn."""
    rng = torch.Generator().manual_seed(seed)
    down = torch.randn(RANK, *weight.shape[1:], generator=rng)
    up = torch.randn(weight.shape[0], RANK, *([1, 1] if weight.ndim == 4 else []), generator=rng)
    return down, up


def grown(weight: Tensor, down: Tensor, up: Tensor, factor: float) -> Tensor:
    product = up.double().flatten(1) @ down.double().flatten(1)
    return weight.double() + factor * product.view(weight.shape)


def diffusers_name(layer: str) -> tuple[str, str]:
    return f"unet.{layer}.lora_A.weight", f"unet.{layer}.lora_B.weight"


def older_name(layer: str) -> tuple[str, str]:
    return f"unet.{layer}.lora.down.weight", f"unet.{layer}.lora.up.weight"


def processor_name(layer: str) -> tuple[str, str]:
    """As the attention processors of diffusers 0.14 were saved; other layers as PEFT names them."""
    for part in ("to_q", "to_out.0"):
        if layer.endswith(f".{part}"):
            stem = f"unet.{layer.removesuffix(part)}processor.{part.partition('.')[0]}_lora"
            return f"{stem}.down.weight", f"{stem}.up.weight"
    return diffusers_name(layer)


def kohya_name(layer: str) -> tuple[str, str]:
    stem = f"lora_unet_{layer.replace('.', '_')}"
    return f"{stem}.lora_down.weight", f"{stem}.lora_up.weight"


NAMINGS: dict[str, Callable[[str], tuple[str, str]]] = {
    "diffusers": diffusers_name, "older": older_name, "processor": processor_name, "kohya": kohya_name,
}  # fmt: skip


def weights(folder: DiffusionFolder) -> dict[str, Tensor]:
    return {name: folder.unet.get_submodule(name).weight.detach().clone() for name in LAYERS}


@pytest.mark.parametrize("naming", NAMINGS)
@pytest.mark.parametrize("alpha", [None, 1.5])
def test_every_naming(owned: Path, tmp_path: Path, naming: str, alpha: float | None) -> None:
    folder = read_folder(owned)
    before = weights(folder)
    others = {key: value.clone() for key, value in folder.unet.state_dict().items()
              if key.removesuffix(".weight") not in LAYERS}  # fmt: skip
    tensors: dict[str, Tensor] = {}
    for seed, layer in enumerate(LAYERS):
        down, up = pair(before[layer], seed)
        names = NAMINGS[naming](layer)
        tensors |= dict(zip(names, (down, up), strict=True))
        if alpha is not None:
            tensors[names[0].rpartition(".lora_down" if naming == "kohya" else ".")[0].removesuffix(".lora_A")
                    .removesuffix(".lora.down").removesuffix("_lora.down").replace(".processor.to_q", ".to_q")
                    .replace(".processor.to_out", ".to_out.0") + ".alpha"] = torch.tensor(alpha)  # fmt: skip
    save_file(tensors, tmp_path / "style.safetensors")
    merge_loras(folder, parse_loras([f"{tmp_path / 'style.safetensors'}:0.7"]))
    for seed, layer in enumerate(LAYERS):
        wanted = grown(before[layer], *pair(before[layer], seed), 0.7 * (1 if alpha is None else alpha / RANK))
        torch.testing.assert_close(weights(folder)[layer].double(), wanted, rtol=1e-5, atol=1e-5)
    assert all(torch.equal(folder.unet.state_dict()[key], value) for key, value in others.items())


def test_text_encoders_and_the_metadatas_alpha(owned_xl: Path, tmp_path: Path) -> None:
    folder = read_folder(owned_xl)
    layer = "encoder.layers.0.self_attn.q_proj"
    networks: dict[str, Any] = {"text_encoder": folder.text_encoder, "text_encoder_2": folder.text_encoder_2}
    places = {name: next(n for n, _ in one.named_modules() if n.endswith(layer)) for name, one in networks.items()}
    before = {name: one.get_submodule(places[name]).weight.detach().clone() for name, one in networks.items()}
    pairs = {name: pair(before[name], 7) for name in networks}
    tensors = {f"{name}.text_model.{layer}.lora_{end}.weight": value for name in networks
               for end, value in zip("AB", pairs[name], strict=True)}  # fmt: skip
    metadata = {"lora_adapter_metadata": json.dumps({"text_encoder.lora_alpha": 6, "text_encoder.r": RANK,
                                                     "text_encoder_2.lora_alpha": 1.5})}  # fmt: skip
    save_file(tensors, tmp_path / "a.safetensors", metadata=metadata)
    kohya = {f"lora_te{k}_text_model_{layer.replace('.', '_')}.lora_{end}.weight": value
             for k, name in ((1, "text_encoder"), (2, "text_encoder_2"))
             for end, value in zip(("down", "up"), pairs[name], strict=True)}  # fmt: skip
    save_file(kohya, tmp_path / "b.safetensors")
    merge_loras(folder, [(tmp_path / "a.safetensors", 1.0), (tmp_path / "b.safetensors", -0.5)])
    for name, factor in (("text_encoder", 6 / RANK - 0.5), ("text_encoder_2", 1.5 / RANK - 0.5)):
        found = networks[name].get_submodule(places[name]).weight.double()
        torch.testing.assert_close(found, grown(before[name], *pairs[name], factor), rtol=1e-5, atol=1e-5)


def test_kohyas_names_after_stabilitys_blocks(owned_xl: Path, tmp_path: Path) -> None:
    """The mapping of block numbers against diffusers' own, on every layer that both know."""
    from diffusers.loaders.lora_conversion_utils import (
        _convert_non_diffusers_lora_to_diffusers,
        _maybe_map_sgm_blocks_to_diffusers,
    )

    folder = read_folder(owned_xl)
    stability = ("input_blocks_3_1_transformer_blocks_1_attn2_to_k", "middle_block_1_transformer_blocks_0_attn1_to_v",
                 "output_blocks_0_1_transformer_blocks_0_ff_net_2", "output_blocks_1_1_proj_out")  # fmt: skip
    for number, name in enumerate(stability):
        probe = {f"lora_unet_{name}.lora_{end}.weight": torch.zeros(1, 1) for end in ("down", "up")}
        probe[f"lora_unet_{name}.alpha"] = torch.tensor(1.0)
        mapped = _maybe_map_sgm_blocks_to_diffusers(dict(probe), folder.unet.config)
        (key,) = (key for key in _convert_non_diffusers_lora_to_diffusers(mapped)[0] if key.endswith(".down.weight"))
        layer = key.removeprefix("unet.").replace(".processor", "").removesuffix(".down.weight")
        layer = layer.removesuffix(".lora").removesuffix("_lora")
        module = folder.unet.get_submodule(layer)
        assert isinstance(module, (nn.Linear, nn.Conv2d))
        before = module.weight.detach().clone()
        down, up = pair(before, number)
        save_file({f"lora_unet_{name}.lora_down.weight": down, f"lora_unet_{name}.lora_up.weight": up,
                   f"lora_unet_{name}.alpha": torch.tensor(2.0)}, tmp_path / "x.safetensors")  # fmt: skip
        merge_loras(folder, [(tmp_path / "x.safetensors", 0.5)])
        torch.testing.assert_close(
            module.weight.double(), grown(before, down, up, 0.5 * 2 / RANK), rtol=1e-5, atol=1e-5
        )


def test_the_export_holds_what_was_merged(owned: Path, tmp_path: Path) -> None:
    folder = read_folder(owned)
    down, up = pair(weights(folder)[LAYERS[0]], 1)
    save_file(dict(zip(diffusers_name(LAYERS[0]), (down, up), strict=True)), tmp_path / "l.safetensors")
    said: list[str] = []
    config = DiffusionExport(batches=(1,), loras=((tmp_path / "l.safetensors", 0.5),))
    merged = export_folder(owned, tmp_path / "merged", config, say=said.append)
    plain = export_folder(owned, tmp_path / "plain", DiffusionExport(batches=(1,)), say=said.append)
    assert "l.safetensors: 1 layers merged at 0.5" in said
    assert merged.digest != plain.digest and merged.diffusion == plain.diffusion


def test_what_does_not_fit_is_refused_whole(owned: Path, tmp_path: Path) -> None:
    folder = read_folder(owned)
    before = weights(folder)
    down, up = pair(before[LAYERS[0]], 0)
    good = dict(zip(diffusers_name(LAYERS[0]), (down, up), strict=True))
    stem = f"unet.{LAYERS[1]}"
    for more, words in (
        ({"unet.nowhere.lora_A.weight": down}, "no layer takes: unet.nowhere"),
        ({f"{stem}.lora_A.weight": down}, "half of its matrices"),
        ({f"{stem}.lora_A.weight": down[:, :-1].clone(), f"{stem}.lora_B.weight": up}, "for a weight"),
        ({f"{stem}.lora_A.weight": down, f"{stem}.lora_B.weight": up[:, :-1].clone()}, "fit each other"),
        ({f"{stem}.lora_A.weight": down * float("nan"), f"{stem}.lora_B.weight": up}, "NaN"),
        ({"lora_unet_x.hada_w1_a": down}, "LoHa"),
        ({f"{stem}.dora_scale": down}, "DoRA"),
    ):
        save_file({key: value.clone() for key, value in (good | more).items()}, tmp_path / "bad.safetensors")
        with pytest.raises(InputError, match=words) as caught:
            merge_loras(folder, [(tmp_path / "bad.safetensors", 1.0)])
        assert caught.value.field == "lora"
        assert all(torch.equal(weights(folder)[layer], value) for layer, value in before.items())
    (tmp_path / "text.safetensors").write_text("<html>")
    with pytest.raises(InputError, match="does not read"):
        merge_loras(folder, [(tmp_path / "text.safetensors", 1.0)])
    for text, words in (("gone.safetensors:1", "that is there"), (f"{tmp_path / 'bad.safetensors'}:99", "a scale from"),
                        (f"{tmp_path / 'bad.safetensors'}:nan", "a scale from")):  # fmt: skip
        with pytest.raises(InputError, match=words):
            parse_loras([text])
