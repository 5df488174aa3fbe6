"""A folder in diffusers' format: what is in it, read and checked before anything is exported."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from limner.runtime.bundle_schema import LicenceMeta
from limner.runtime.diffusion.schedule import read_scheduler_config
from limner.runtime.errors import InputError
from limner.runtime.schema import read_json
from limner.training.models.store import FP16_LARGEST, FP16_SMALLEST

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel

INDEX = "model_index.json"
END = "<|endoftext|>"
PARTS = {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL", "text_encoder": "CLIPTextModel"}
FILES = ("scheduler/scheduler_config.json", "tokenizer/vocab.json", "tokenizer/merges.txt")


@dataclass(frozen=True, eq=False)
class DiffusionFolder:
    """Frozen networks in fp32, and the paths of what is copied as it is."""

    root: Path
    unet: UNet2DConditionModel
    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    scheduler: Path
    tokenizer: Path  # folder with vocab.json and merges.txt
    prediction_type: str
    eos: int
    pad: int

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        return self.unet, self.vae, self.text_encoder

    @property
    def weights(self) -> tuple[Path, ...]:
        """The weight files."""
        return tuple(sorted(path for part in PARTS for path in (self.root / part).glob("*.safetensors")))

    @torch.no_grad()
    def round_to_fp16(self) -> None:
        """Round every weight to what fp16 holds, in place, but for tensors that fp16 has no room for."""
        for module in self.modules:
            for tensor in module.state_dict().values():
                if tensor.is_floating_point() and FP16_SMALLEST < float(tensor.abs().max()) < FP16_LARGEST:
                    tensor.copy_(tensor.half())


def read_folder(root: Path) -> DiffusionFolder:
    """Load the networks of `root`. InputError names what is missing or of another kind."""
    check_folder(root)
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel

    scheduler = root / FILES[0]
    # safetensors alone: a pickle would run what it carries
    options: dict[str, Any] = {"torch_dtype": torch.float32, "local_files_only": True, "use_safetensors": True}
    unet = _load(UNet2DConditionModel, root / "unet", options)
    vae = _load(AutoencoderKL, root / "vae", options)
    text_encoder = _load(CLIPTextModel, root / "text_encoder", {**options, "attn_implementation": "eager"})
    for module in (unet, vae, text_encoder):
        module.eval().requires_grad_(False)
    if unet.config.cross_attention_dim != text_encoder.config.hidden_size:
        given = f"a UNet for token states of {unet.config.cross_attention_dim}"
        raise InputError("model.unet", given, f"the text encoder's {text_encoder.config.hidden_size}")
    if unet.config.in_channels != vae.config.latent_channels:
        given = f"a UNet with {unet.config.in_channels} input channels"
        raise InputError("model.unet", given, f"the autoencoder's {vae.config.latent_channels}: no inpainting models")
    vocab = read_json(root / FILES[1], FILES[1])
    eos = int(vocab[END]) if isinstance(vocab, dict) and END in vocab else -1
    if eos < 0:
        raise InputError(FILES[1], f"no token {END}", "CLIP's vocabulary")
    return DiffusionFolder(
        root, unet, vae, text_encoder, scheduler, root / "tokenizer",
        read_scheduler_config(scheduler, FILES[0]).prediction_type, eos, _pad(root / "tokenizer", vocab, eos),
    )  # fmt: skip


def check_folder(root: Path) -> None:
    """InputError unless the folder has the parts of a Stable Diffusion 1.x or 2.x pipeline."""
    whole = "a folder in diffusers' format with " + ", ".join((*PARTS, "scheduler", "tokenizer"))
    if not root.is_dir():
        raise InputError("model", f"no folder at {str(root)!r}", whole)
    if (root / "text_encoder_2").exists():
        raise InputError("model", "a pipeline with two text encoders", "Stable Diffusion 1.x or 2.x",
                         "SDXL's UNet alone: limner.export.diffusion.specs.unet_specs")  # fmt: skip
    for part, kind in PARTS.items():
        path = root / part / "config.json"
        if not path.is_file():
            raise InputError("model", f"no {part}/config.json in {str(root)!r}", whole)
        config = read_json(path, f"{part}/config.json")
        found = config.get("_class_name") or next(iter(config.get("architectures") or [kind]), kind)
        if found != kind:
            raise InputError(f"model.{part}", str(found), kind)
    for name in FILES:
        if not (root / name).is_file():
            raise InputError("model", f"no {name} in {str(root)!r}", whole)


def _load(kind: Any, folder: Path, options: dict[str, Any]) -> Any:
    plain = [path for path in folder.glob("*.safetensors") if ".fp16" not in path.name]
    if not plain and list(folder.glob("*.fp16*.safetensors")):
        options = {**options, "variant": "fp16"}
    try:
        return kind.from_pretrained(str(folder), **options)
    except (OSError, ValueError, RuntimeError, KeyError) as reason:
        line = (str(reason).strip() or type(reason).__name__).splitlines()[0]
        raise InputError(f"model.{folder.name}", f"weights that do not load ({line[:200]})",
                         f"the weights of a {kind.__name__}") from reason  # fmt: skip


def _pad(tokenizer: Path, vocab: dict[str, int], eos: int) -> int:
    """The id that texts are filled up with: "!" in Stable Diffusion 2.x, the end token elsewhere."""
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        path = tokenizer / name
        if not path.is_file():
            continue
        token = json.loads(path.read_text(encoding="utf-8")).get("pad_token")
        token = token.get("content") if isinstance(token, dict) else token
        if token is not None:
            if token not in vocab:
                raise InputError(f"tokenizer/{name}:pad_token", repr(token), "a token of vocab.json")
            return int(vocab[token])
    return eos


def licences_of(root: Path) -> tuple[LicenceMeta, ...]:
    """What the folder's README.md says: our own card, or the "license:" of a model card's front matter."""
    from limner.export.cards import NOT_STATED, read_licences

    found = read_licences(root, root.name)
    card = root / "README.md"
    if found[0].licence == NOT_STATED and card.is_file():
        for line in card.read_text(encoding="utf-8").splitlines()[:60]:
            key, sign, value = line.partition(":")
            if sign and key.strip().lower() in ("license", "licence") and value.strip():
                return (LicenceMeta(root.name, value.strip(), NOT_STATED, f"{root.name}/README.md"),)
    return found
