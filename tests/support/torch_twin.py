"""Tiny diffusers models with random weights, and a twin of `Sessions` that runs them as a bundle's graphs.

The twin implements the graphs' contract (`limner.runtime.diffusion.networks`) with torch and with explicit attention
maps, so that the runtime can be compared with diffusers' own pipelines on the same weights.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from numpy.typing import NDArray
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from limner.runtime.bundle.manifest import DiffusionMeta
from limner.runtime.diffusion.networks import DiffusionNetworks
from limner.runtime.diffusion.samplers.schedule import SchedulerConfig
from limner.runtime.text.tokenizer import Tokenizer

SD15 = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
SD15 |= {"skip_prk_steps": True, "set_alpha_to_one": False, "clip_sample": False, "_class_name": "DDIMScheduler"}
# A sampler's name -> the scheduler that it equals.
CLASSES = {
    "ddim": diffusers.DDIMScheduler,
    "pndm": diffusers.PNDMScheduler,
    "euler": diffusers.EulerDiscreteScheduler,
    "euler-ancestral": diffusers.EulerAncestralDiscreteScheduler,
    "dpm-solver++": diffusers.DPMSolverMultistepScheduler,
    "lms": diffusers.LMSDiscreteScheduler,
    "heun": diffusers.HeunDiscreteScheduler,
    "ddpm": diffusers.DDPMScheduler,
    "unipc": diffusers.UniPCMultistepScheduler,
    "deis": diffusers.DEISMultistepScheduler,
    "dpm-solver++-sde": diffusers.DPMSolverMultistepScheduler,
    "lcm": diffusers.LCMScheduler,
    "tcd": diffusers.TCDScheduler,
}
BLEND_LAYERS = ("down_blocks.2", "up_blocks.0")  # at a quarter of the latents' size, as LEDITS++ takes them
WIDTH = 24


@dataclass(frozen=True, eq=False)
class TinyModels:
    unet: diffusers.UNet2DConditionModel
    vae: diffusers.AutoencoderKL
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    files: tuple[Path, Path]

    def pipeline(self, cls: type[Any], scheduler: Any) -> Any:
        """A diffusers pipeline of these models."""
        extra = {} if "LEdits" in cls.__name__ else {"requires_safety_checker": False}
        pipe = cls(
            vae=self.vae,
            text_encoder=self.text_encoder,
            tokenizer=self.tokenizer,
            unet=self.unet,
            scheduler=scheduler,
            safety_checker=None,
            feature_extractor=None,
            **extra,
        )
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def networks(self, prediction_type: str = "epsilon", **scheduler: Any) -> DiffusionNetworks:
        """The runtime's view of these models."""
        config = SchedulerConfig.from_dict(SD15 | {"prediction_type": prediction_type} | scheduler)
        meta = DiffusionMeta(
            scaling_factor=self.vae.config.scaling_factor,
            prediction_type="v_prediction" if prediction_type == "v_prediction" else "epsilon",
            latent_channels=4,
            sample_size=16,
            vae_factor=2,
            multiple=8,
        )
        return DiffusionNetworks(Twin(self), meta, Tokenizer(*self.files), config)


def tiny_models(folder: Path, seed: int = 0) -> TinyModels:
    """Build models small enough for fifty steps in a second, with a tokenizer of letters."""
    torch.manual_seed(seed)
    files = _tokenizer_files(folder)
    tokenizer = CLIPTokenizer(str(files[0]), str(files[1]), model_max_length=77)
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=2 * WIDTH,
            num_hidden_layers=2,
            num_attention_heads=2,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=1,
        )
    )
    unet = diffusers.UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(8, 16, 16),
        down_block_types=("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=WIDTH,
        attention_head_dim=2,
    )
    for name, parameter in unet.named_parameters():  # words must matter, as they do in a trained network
        if "attn2.to_v" in name or "attn2.to_k" in name or "attn2.to_out" in name:
            parameter.data *= 5.0
    vae = diffusers.AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        sample_size=32,
    )
    for model in (text, unet, vae):
        model.eval().requires_grad_(False)
    return TinyModels(unet, vae, text, tokenizer, files)


class Twin:
    """Runs the graphs of the contract with torch."""

    def __init__(self, models: TinyModels) -> None:
        self.models = models
        self.rows: list[int] = []  # of every call of the UNet

    def __contains__(self, name: str) -> bool:
        return name in ("text_encoder", "vae_encoder", "vae_decoder", "unet")

    def run(
        self, graph: str, /, *, only: Sequence[str] | None = None, **inputs: NDArray[Any]
    ) -> dict[str, NDArray[Any]]:
        tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in inputs.items()}
        with torch.no_grad():
            if graph == "unet" and only == ["noise_pred"] and _is_identity(inputs):
                outputs = self._plain_unet(tensors["sample"], tensors["timestep"], tensors["encoder_hidden_states"])
            else:
                outputs = getattr(self, f"_{graph}")(**tensors)
        wanted = outputs if only is None else only
        return {name: outputs[name].numpy() for name in wanted}

    def _text_encoder(self, input_ids: torch.Tensor) -> dict[str, torch.Tensor]:
        assert input_ids.dtype == torch.int64 and input_ids.shape[1] == 77
        return {"token_states": self.models.text_encoder(input_ids)[0]}

    def _vae_encoder(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        found = self.models.vae.encode(image).latent_dist
        return {"latent_mean": found.mean, "latent_logvar": found.logvar}

    def _vae_decoder(self, latents: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"image": self.models.vae.decode(latents).sample}

    def _plain_unet(
        self, sample: torch.Tensor, timestep: torch.Tensor, states: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """diffusers' own attention: what identity control equals, and several times quicker here."""
        self.rows.append(len(sample))
        return {"noise_pred": self.models.unet(sample, timestep, encoder_hidden_states=states).sample}

    def _unet(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        blend_words: torch.Tensor,
        **control: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        self.rows.append(len(sample))
        unet = self.models.unet
        maps: list[torch.Tensor] = []
        before = unet.attn_processors
        unet.set_attn_processor({name: ControlledAttention(name, maps, control) for name in before})
        try:
            output = unet(sample, timestep, encoder_hidden_states=encoder_hidden_states).sample
        finally:
            unet.set_attn_processor(before)
        attention = torch.stack(maps).mean(0)  # [B,P,77]
        side = (sample.shape[2] // 4, sample.shape[3] // 4)
        blend = torch.einsum("bpt,bkt->bkp", attention, blend_words).unflatten(2, side)
        return {"noise_pred": output, "blend_maps": blend}


def _is_identity(inputs: dict[str, NDArray[Any]]) -> bool:
    plain = (inputs["source_index"] == np.arange(len(inputs["source_index"]))).all()
    return bool(plain and (inputs["token_transfer"] == 0).all() and (inputs["token_keep"] == 1).all()
                and (inputs["self_replace"] == 0).all())  # fmt: skip


class ControlledAttention:
    """A'_b = A_s T_b + A_b diag(d_b) with the maps written out; self-attention takes the source's q and k."""

    def __init__(self, name: str, maps: list[torch.Tensor], control: dict[str, torch.Tensor]) -> None:
        self.cross, self.maps, self.control = "attn2" in name, maps, control
        self.blends = name.startswith(BLEND_LAYERS)

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        **_: Any,
    ) -> torch.Tensor:
        source = self.control["source_index"]
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states

        def heads(states: torch.Tensor) -> torch.Tensor:
            return states.unflatten(2, (attn.heads, -1)).transpose(1, 2)  # [B,H,P,c]

        query, key, value = heads(attn.to_q(hidden_states)), heads(attn.to_k(context)), heads(attn.to_v(context))
        probabilities = torch.softmax(query @ key.transpose(2, 3) * attn.scale, dim=-1)  # [B,H,P,77 or P]
        if self.cross:
            transfer, keep = self.control["token_transfer"], self.control["token_keep"]
            moved = probabilities[source] @ transfer[:, None]
            probabilities = moved + probabilities * keep[:, None, None]
            if self.blends:
                self.maps.append(probabilities.mean(1))
        else:
            replace = self.control["self_replace"][:, None, None, None]
            probabilities = torch.where(replace > 0, probabilities[source], probabilities)
        mixed = (probabilities @ value).transpose(1, 2).flatten(2)
        return attn.to_out[0](mixed)


def _tokenizer_files(folder: Path) -> tuple[Path, Path]:
    letters = "abcdefghijklmnopqrstuvwxyz"
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    vocab, merges = folder / "vocab.json", folder / "merges.txt"
    vocab.write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
    merges.write_text("#version: 0.2\n")
    return vocab, merges


def difference(mine: np.ndarray, theirs: np.ndarray) -> float:
    """The largest error, relative to the largest value where that is above 1."""
    assert np.isfinite(mine).all()
    return float(np.abs(mine - theirs).max() / max(1.0, np.abs(theirs).max()))
