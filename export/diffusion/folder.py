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
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

INDEX = "model_index.json"
END = "<|endoftext|>"
TIME_IDS = 6  # SDXL: original size, crop, target size
PARTS = {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL", "text_encoder": "CLIPTextModel"}
SECOND, SECOND_KIND = "text_encoder_2", "CLIPTextModelWithProjection"
FILES = ("scheduler/scheduler_config.json", "tokenizer/vocab.json", "tokenizer/merges.txt")


@dataclass(frozen=True, eq=False)
class DiffusionFolder:
    """Frozen networks in fp32, and the paths of what is copied as it is."""

    root: Path
    unet: UNet2DConditionModel
    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    text_encoder_2: CLIPTextModelWithProjection | None  # of SDXL
    scheduler: Path
    tokenizer: Path  # folder with vocab.json and merges.txt
    prediction_type: str
    eos: int
    pad: int
    second_pad: int = 0  # of the second text encoder
    zero_empty: bool = False  # an empty text is zeros, as SDXL was trained

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
        """The weight files."""
        return tuple(sorted(path for part in (*PARTS, SECOND) for path in (self.root / part).glob("*.safetensors")))

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
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    scheduler = root / FILES[0]
    # safetensors alone: a pickle would run what it carries
    options: dict[str, Any] = {"torch_dtype": torch.float32, "local_files_only": True, "use_safetensors": True}
    unet = _load(UNet2DConditionModel, root / "unet", options)
    vae = _load(AutoencoderKL, root / "vae", options)
    written_out = {**options, "attn_implementation": "eager"}
    text_encoder = _load(CLIPTextModel, root / "text_encoder", written_out)
    second = _load(CLIPTextModelWithProjection, root / SECOND, written_out) if (root / SECOND).is_dir() else None
    if unet.config.in_channels != vae.config.latent_channels:
        given = f"a UNet with {unet.config.in_channels} input channels"
        raise InputError("model.unet", given, f"the autoencoder's {vae.config.latent_channels}: no inpainting models")
    vocab = read_json(root / FILES[1], FILES[1])
    eos = int(vocab[END]) if isinstance(vocab, dict) and END in vocab else -1
    if eos < 0:
        raise InputError(FILES[1], f"no token {END}", "CLIP's vocabulary")
    found = DiffusionFolder(
        root, unet, vae, text_encoder, second, scheduler, root / "tokenizer",
        read_scheduler_config(scheduler, FILES[0]).prediction_type, eos, _pad(root / "tokenizer", vocab, eos),
        0 if second is None else _pad(root / "tokenizer_2", vocab, eos), second is not None and _zero_empty(root),
    )  # fmt: skip
    for module in found.modules:
        module.eval().requires_grad_(False)
    _check_text(found)
    return found


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


def check_folder(root: Path) -> None:
    """InputError unless the folder has the parts of a Stable Diffusion pipeline: 1.x, 2.x or XL."""
    whole = "a folder in diffusers' format with " + ", ".join((*PARTS, "scheduler", "tokenizer"))
    if not root.is_dir():
        raise InputError("model", f"no folder at {str(root)!r}", whole)
    parts = PARTS | ({SECOND: SECOND_KIND} if (root / SECOND).exists() else {})
    for part, kind in parts.items():
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
    if SECOND in parts:
        for name in ("vocab.json", "merges.txt"):
            first, second = (root / place / name for place in ("tokenizer", "tokenizer_2"))
            if not second.is_file() or second.read_bytes() != first.read_bytes():
                raise InputError(f"model.tokenizer_2/{name}", "another vocabulary, or none", f"tokenizer/{name} again")


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
