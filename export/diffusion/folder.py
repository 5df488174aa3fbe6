"""A folder in diffusers' format: what is in it, read and checked before anything is exported."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from limner.export.diffusion.configs import (
    INDEX,
    TEXT,
    check_config,
    check_index,
    check_scheduler,
    check_unet,
    check_vae,
)
from limner.export.diffusion.tokenizer_files import TokenizerFiles, read_tokenizer
from limner.runtime.bundle.manifest import LicenceMeta
from limner.runtime.errors import InputError
from limner.runtime.schema import read_json
from limner.training.models.diffusion import load_strictly
from limner.training.models.store import FP16_LARGEST, FP16_SMALLEST

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

TIME_IDS = 6  # SDXL: original size, crop, target size
PARTS = {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL", "text_encoder": "CLIPTextModel"}
SECOND, SECOND_KIND = "text_encoder_2", "CLIPTextModelWithProjection"
SCHEDULER = "scheduler/scheduler_config.json"
LORA_NAMES = ("pytorch_lora_weights.safetensors", "pytorch_lora_weights.bin")
Say = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class DiffusionFolder:
    """Frozen networks in fp32, and what else the bundle says of them."""

    root: Path
    unet: UNet2DConditionModel
    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    text_encoder_2: CLIPTextModelWithProjection | None  # of SDXL
    scheduler: Path
    tokenizer: TokenizerFiles
    prediction_type: str
    pipeline: str  # the class of its own pipeline
    sample_size: tuple[int, int]  # height and width of the latents that it was trained at
    tokens: int  # of a text
    latents_mean: tuple[float, ...] = ()  # what the VAE's latents are measured from, one a channel; none for zeros
    latents_std: tuple[float, ...] = ()
    second_pad: int = 0  # of the second text encoder
    zero_empty: bool = False  # an empty text is zeros, as SDXL was trained

    @property
    def eos(self) -> int:
        return self.tokenizer.eos

    @property
    def pad(self) -> int:
        return self.tokenizer.pad

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        second = () if self.text_encoder_2 is None else (self.text_encoder_2,)
        return self.unet, self.vae, self.text_encoder, *second

    @property
    def text_width(self) -> int:
        """Channels of the token states."""
        second = self.text_encoder_2
        return int(self.text_encoder.config.hidden_size) + (0 if second is None else int(second.config.hidden_size))

    @property
    def pooled(self) -> int:
        """Channels of the pooled text; 0 without a second text encoder."""
        return 0 if self.text_encoder_2 is None else int(self.text_encoder_2.config.projection_dim or 0)

    @property
    def weights(self) -> tuple[Path, ...]:
        """The weight files that were read, if they are safetensors."""
        found = (weight_files(self.root / part) for part in (*PARTS, SECOND) if (self.root / part).is_dir())
        return tuple(sorted(path for files in found for path in files if path.suffix == ".safetensors"))

    @torch.no_grad()
    def round_to_fp16(self) -> None:
        """Round every weight to what fp16 holds, in place, but for tensors that fp16 has no room for."""
        for module in self.modules:
            for tensor in module.state_dict().values():
                if tensor.is_floating_point() and FP16_SMALLEST < float(tensor.abs().max()) < FP16_LARGEST:
                    tensor.copy_(tensor.half())


def read_folder(root: Path, say: Say = lambda line: None) -> DiffusionFolder:
    """Load the networks of `root`. InputError names what is missing, of another kind, or not supported."""
    root = Path(root)
    pipeline = check_folder(root)
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    sample_size = check_unet(_config(root, "unet"))
    mean, std = check_vae(_config(root, "vae"))
    scheduler = check_scheduler(_json(root / SCHEDULER, SCHEDULER), SCHEDULER.partition(".")[0])
    tokenizer = read_tokenizer(root / "tokenizer")
    written_out = {"attn_implementation": "eager"}
    unet = load_part(UNet2DConditionModel, root / "unet")
    vae = load_part(AutoencoderKL, root / "vae")
    check_config("text_encoder", _config(root, "text_encoder"), TEXT)
    text_encoder = load_part(CLIPTextModel, root / "text_encoder", written_out)
    second, second_pad = None, 0
    if (root / SECOND).is_dir():
        check_config(SECOND, _config(root, SECOND), TEXT)
        second = load_part(CLIPTextModelWithProjection, root / SECOND, written_out)
        second_pad = _second_pad(root, tokenizer)
    if unet.config.in_channels != vae.config.latent_channels:
        given = f"a UNet with {unet.config.in_channels} input channels"
        raise InputError("model.unet", given, f"the autoencoder's {vae.config.latent_channels}: no inpainting models")
    if unet.config.out_channels != unet.config.in_channels:
        given = f"a UNet with {unet.config.out_channels} output channels"
        raise InputError("model.unet", given, f"the {unet.config.in_channels} that go in: no learnt variance")
    found = DiffusionFolder(
        root, unet, vae, text_encoder, second, root / SCHEDULER, tokenizer, scheduler.prediction_type, pipeline,
        sample_size, _tokens(tokenizer, text_encoder, second), mean, std, second_pad,
        second is not None and _zero_empty(root),
    )  # fmt: skip
    for module in found.modules:
        module.eval().requires_grad_(False)
    _check_text(found)
    for name in LORA_NAMES:
        if (root / name).is_file():
            say(f"note: {root / name} is not merged, as its pipeline does not load it; --lora FILE:SCALE merges it")
    return found


def _tokens(tokenizer: TokenizerFiles, *encoders: Any) -> int:
    """How many tokens a text has: what the tokenizer says, as far as the text encoders have positions."""
    positions = min(int(one.config.max_position_embeddings) for one in encoders if one is not None)
    length = positions if tokenizer.length is None else tokenizer.length
    if length > positions:
        raise InputError(
            "model.tokenizer.model_max_length", length, f"{positions}, the text encoder's positions, or fewer"
        )
    if length < 8:
        raise InputError("model.tokenizer.model_max_length", length, "8 or more")
    rows = min(int(one.config.vocab_size) for one in encoders if one is not None)
    largest = max((*tokenizer.vocab.values(), *(entry["id"] for entry in tokenizer.added.values())))
    if largest >= rows:
        raise InputError("model.text_encoder", f"{rows} rows of token embeddings", f"the tokenizer's {largest + 1}",
                         "a token was added to the tokenizer alone")  # fmt: skip
    return length


def _second_pad(root: Path, first: TokenizerFiles) -> int:
    """What fills the second encoder's texts up; InputError unless its tokenizer gives the first one's tokens."""
    if not (root / "tokenizer_2").is_dir():
        raise InputError("model.tokenizer_2", "no folder", "tokenizer's vocabulary again")
    second = read_tokenizer(root / "tokenizer_2")
    for name, mine, theirs in (("vocab.json", first.vocab, second.vocab), ("merges.txt", first.merges, second.merges),
                               ("added tokens", first.added.keys(), second.added.keys())):  # fmt: skip
        if mine != theirs:
            raise InputError(f"model.tokenizer_2/{name}", "another vocabulary", f"that of tokenizer/{name} again")
    return second.pad


def _check_text(folder: DiffusionFolder) -> None:
    """InputError unless the UNet takes what the text encoders give."""
    config: Any = folder.unet.config
    if config.cross_attention_dim != folder.text_width:
        given = f"a UNet for token states of {config.cross_attention_dim}"
        raise InputError("model.unet", given, f"the text encoders' {folder.text_width}")
    wanted = 0
    if config.addition_embed_type == "text_time":
        wanted = int(config.projection_class_embeddings_input_dim) - TIME_IDS * int(config.addition_time_embed_dim)
    if wanted != folder.pooled:
        given = f"a UNet for a pooled text of {wanted}"
        raise InputError("model.unet", given, f"the second text encoder's {folder.pooled}" if folder.pooled else "none")


def _zero_empty(root: Path) -> bool:
    """Whether model_index.json asks for zeros in place of an empty text; diffusers does if it does not say."""
    path = root / INDEX
    return not path.is_file() or bool(read_json(path, INDEX).get("force_zeros_for_empty_prompt", True))


def check_folder(root: Path) -> str:
    """The class of the folder's pipeline. InputError unless it has the parts of one: Stable Diffusion 1.x, 2.x, XL."""
    whole = "a folder in diffusers' format with " + ", ".join((*PARTS, "scheduler", "tokenizer"))
    if root.is_file():
        hint = (f"diffusers makes a folder of it: StableDiffusionPipeline.from_single_file({root.name!r})"
                ".save_pretrained(FOLDER)")  # fmt: skip
        raise InputError("model", f"the file {str(root)!r}", whole, hint)
    if not root.is_dir():
        raise InputError("model", f"no folder at {str(root)!r}", whole)
    if not any((root / part).is_dir() for part in PARTS) and any((root / name).is_file() for name in LORA_NAMES):
        raise InputError("model", f"a LoRA alone in {str(root)!r}", whole, "--lora FILE:SCALE merges it into a model")
    parts = PARTS | ({SECOND: SECOND_KIND} if (root / SECOND).exists() else {})
    for part, kind in parts.items():
        path = root / part / "config.json"
        if not path.is_file():
            raise InputError("model", f"no {part}/config.json in {str(root)!r}", whole)
        config = _config(root, part)
        found = config.get("_class_name") or next(iter(config.get("architectures") or [kind]), kind)
        if found != kind:
            raise InputError(f"model.{part}", str(found), kind)
    if not (root / SCHEDULER).is_file():
        raise InputError("model", f"no {SCHEDULER} in {str(root)!r}", whole)
    if not (root / "tokenizer").is_dir():
        raise InputError("model", f"no tokenizer in {str(root)!r}", whole)
    read_tokenizer(root / "tokenizer")
    return check_index(root)


def _config(root: Path, part: str) -> dict[str, Any]:
    return _json(root / part / "config.json", f"{part}/config.json")


def _json(path: Path, name: str) -> dict[str, Any]:
    found = read_json(path, name)
    if not isinstance(found, dict):
        raise InputError(f"model.{name}", "JSON that is no object", "the config that diffusers writes")
    return found


def weight_files(folder: Path) -> tuple[Path, ...]:
    """The files that a part's weights are read from: the plain ones, else a variant; safetensors before pickles."""
    stem, kinds = _stem(folder), (".safetensors", ".bin")
    for kind in kinds:
        for variant in ("", ".fp16", ".bf16", ".fp32", ".non_ema", ".ema"):
            whole = folder / f"{stem}{variant}{kind}"
            if whole.is_file():
                return (whole,)
            for index in (f"{stem}{kind}.index{variant}.json", f"{stem}{variant}{kind}.index.json"):
                if (folder / index).is_file():
                    shards = set(read_json(folder / index, index).get("weight_map", {}).values())
                    return tuple(folder / Path(str(name)).name for name in sorted(shards))
    return ()


def _stem(folder: Path) -> str:
    if folder.name.startswith("text_encoder"):
        pickled = not any(folder.glob("model*.safetensors")) and any(folder.glob("pytorch_model*.bin"))
        return "pytorch_model" if pickled else "model"
    return "diffusion_pytorch_model"


def load_part(kind: Any, folder: Path, options: dict[str, Any] | None = None) -> Any:
    """A network of the folder, every tensor accounted for. Files of torch.save are read as data alone."""
    files = weight_files(folder)
    if not files:
        there = ", ".join(sorted(path.name for path in folder.iterdir() if path.is_file())[:10])
        raise InputError(f"model.{folder.name}", f"no weights among {there}", f"{_stem(folder)}.safetensors")
    stem, name = _stem(folder), files[0].name
    rest = name.removeprefix(stem).split(".")
    variant = next((part for part in rest if part in ("fp16", "bf16", "fp32", "non_ema", "ema")), None)
    chosen = {"use_safetensors": name.endswith(".safetensors"), **({"variant": variant} if variant else {})}
    if name.endswith(".bin") and not hasattr(kind, "load_config"):
        chosen["weights_only"] = True  # diffusers reads its own so
    return load_strictly(kind, folder, f"model.{folder.name}", **chosen, **(options or {}))


def licences_of(root: Path) -> tuple[LicenceMeta, ...]:
    """What the folder's README.md says: our own card, or the "license:" of a model card's front matter."""
    from limner.export.report.cards import NOT_STATED, read_licences

    found = read_licences(root, root.name)
    card = root / "README.md"
    if found[0].licence == NOT_STATED and card.is_file():
        for line in card.read_text(encoding="utf-8").splitlines()[:60]:
            key, sign, value = line.partition(":")
            if sign and key.strip().lower() in ("license", "licence") and value.strip():
                return (LicenceMeta(root.name, value.strip(), NOT_STATED, f"{root.name}/README.md"),)
    return found
