"""The graphs of a diffusion bundle as functions of arrays: the one file that knows their inputs and outputs.

    text_encoder   input_ids int64 [N,77] -> token_states float32 [N,77,D]
    vae_encoder    image float32 [N,3,H,W] in [-1,1] -> latent_mean, latent_logvar float32 [N,C,h,w], unscaled
    vae_decoder    latents float32 [N,C,h,w], divided by scaling_factor -> image float32 [N,3,H,W]
    unet           sample float32 [B,C,h,w], timestep float32 [B], encoder_hidden_states float32 [B,77,D] and the
                   fields of `AttentionControl` -> noise_pred float32 [B,C,h,w], blend_maps float32 [B,K,h_a,w_a],
                   deep_features float32 [B,F,h,w], what the last layers get from the deeper ones
    unet_cached    the last layers alone: the same inputs as far as they read them, and deep_features of an earlier
                   step -> noise_pred

Latents outside this file are scaled: latents = scaling_factor * what the VAE encoder gives.

A model in the shape of SDXL (`DiffusionMeta.pooled`) has two text encoders in its graph, and a UNet that is told more:

    text_encoder   also input_ids_2 int64 [N,77], the same tokens filled up otherwise -> also text_embeds float32 [N,P]
    unet           also text_embeds float32 [B,P] and time_ids float32 [B,6], the sizes in pixels

Outside this file a text is one array all the same, [78,D] in place of [77,D]: its last row has the P pooled features,
then zeros. Sizes are those of the picture that is made, cut nowhere.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limner.runtime.bundle.loading import Bundle
from limner.runtime.bundle.manifest import DiffusionMeta
from limner.runtime.diffusion.caching import CACHED, DeepFeatures, Graphs, no_cached_graph
from limner.runtime.diffusion.control import AttentionControl
from limner.runtime.diffusion.samplers.schedule import SchedulerConfig, bundle_scheduler
from limner.runtime.errors import BundleError, InputError
from limner.runtime.storage.remembered import Remembered
from limner.runtime.text.tokenizer import Tokenizer

__all__ = ["DiffusionNetworks", "Graphs", "Prediction"]

FloatArray = NDArray[np.float32]
REMEMBERED_TEXTS = 256
PIXELS = 1 << 18  # that the autoencoder takes at once: one picture of 512 x 512 needs a gigabyte


@dataclass(frozen=True, eq=False)
class Prediction:
    """What the UNet says about B rows."""

    output: FloatArray  # [B,C,h,w], noise or velocity as the model was trained
    maps: FloatArray | None  # [B,K,h_a,w_a], if they were asked for


@dataclass
class Counted:
    """What all runs on the same networks count together."""

    rows: int = 0


class DiffusionNetworks:
    """Text encoder, VAE and UNet of one bundle; text states are remembered."""

    def __init__(
        self,
        graphs: Graphs,
        meta: DiffusionMeta,
        tokenizer: Tokenizer,
        scheduler: SchedulerConfig,
        cached_inputs: Sequence[str] = (),  # of the graph unet_cached; none if there is none
    ) -> None:
        self.graphs = graphs
        self.meta = meta
        self.tokenizer = tokenizer
        self.scheduler = scheduler
        self.cached_inputs = tuple(cached_inputs)
        self._counted = Counted()
        self.tokens = tokenizer.context_length
        self._texts: Remembered[FloatArray] = Remembered(REMEMBERED_TEXTS)
        self._deep: DeepFeatures | None = None

    @property
    def unet_rows(self) -> int:
        """Rows that the UNet has worked on, all calls and runs together; those of the last layers alone too."""
        return self._counted.rows

    def count_rows(self, rows: int) -> None:
        """Note that the UNet works on so many rows more."""
        self._counted.rows += rows

    def sharing(self, interval: int) -> "DiffusionNetworks":
        """These networks for one run, whose UNet computes its deep features every `interval` calls alone.

        Raises InputError if the bundle cannot do that.
        """
        if interval == 1:
            return self
        if not self.cached_inputs:
            raise no_cached_graph(interval)
        run = copy.copy(self)
        run._deep = DeepFeatures(self.graphs, self.cached_inputs, interval)
        return run

    @classmethod
    def from_bundle(cls, bundle: Bundle, graphs: Graphs) -> "DiffusionNetworks":
        """Read tokenizer and scheduler of `bundle`; `graphs` runs its graphs."""
        meta = bundle.diffusion
        last = bundle.manifest.graphs.get(CACHED)
        names = [tensor.name for tensor in last.inputs] if last is not None else []
        return cls(graphs, meta, Tokenizer.from_bundle(bundle), bundle_scheduler(bundle), names)

    def token_states(self, texts: Sequence[str], field: str = "prompt") -> FloatArray:
        """N texts -> token states [N,77,D] (SDXL: [N,78,D]); an empty text is the unconditional one.

        InputError naming `field` for a text that the tokenizer does not take; what has no room is not read.
        """
        wanted = list(dict.fromkeys(texts))
        remembered = {text: self._texts.get(text) for text in wanted}
        found = {text: states for text, states in remembered.items() if states is not None}
        missing = [text for text in wanted if text not in found]
        if missing:
            states = self._encoded(np.concatenate([self._ids(text, field) for text in missing]))
            if self.meta.zero_empty:
                states[[not text.strip() for text in missing]] = 0.0
            found |= dict(zip(missing, states, strict=True))
        for text in wanted:
            self._texts.put(text, found[text])
        return np.stack([found[text] for text in texts])

    def encode(self, image: FloatArray) -> FloatArray:
        """Picture [N,3,H,W] in [-1,1] -> the mean of its latents [N,C,h,w]."""
        self.check_size(image.shape[-2], image.shape[-1], field="source")
        rows = _at_once(image.shape[-2] * image.shape[-1])
        parts = [image[row : row + rows] for row in range(0, max(len(image), 1), rows)]
        means = [self.graphs.run("vae_encoder", only=["latent_mean"], image=part)["latent_mean"] for part in parts]
        mean = np.concatenate(means)
        centre, spread = self._measure()
        scaled: FloatArray = (mean - centre) / spread * np.float32(self.meta.scaling_factor)
        return scaled

    def decode(self, latents: FloatArray) -> FloatArray:
        """Latents [N,C,h,w] -> picture [N,3,H,W], clipped to [-1,1]."""
        centre, spread = self._measure()
        unscaled = latents / np.float32(self.meta.scaling_factor) * spread + centre
        rows = _at_once(self.meta.vae_factor**2 * latents.shape[-2] * latents.shape[-1])
        parts = [unscaled[row : row + rows] for row in range(0, max(len(latents), 1), rows)]
        images = [self.graphs.run("vae_decoder", only=["image"], latents=part)["image"] for part in parts]
        clipped: FloatArray = np.clip(np.concatenate(images), -1.0, 1.0)
        return clipped

    def _measure(self) -> tuple[FloatArray, FloatArray]:
        """Mean and deviation [C,1,1] that the VAE's latents are measured from."""
        meta = self.meta
        centre, spread = meta.latents_mean or (0.0,), meta.latents_std or (1.0,)
        return np.array(centre, np.float32)[:, None, None], np.array(spread, np.float32)[:, None, None]

    def unet(
        self,
        sample: FloatArray,  # [B,C,h,w], scaled for the network
        timestep: float,
        states: FloatArray,  # [B,77,D], of `token_states`
        control: AttentionControl | None = None,  # None is the plain UNet
        maps: bool = False,  # whether blend_maps are wanted
    ) -> Prediction:
        """Run the UNet once on B rows."""
        self.count_rows(len(sample))
        inputs = self.unet_inputs(sample, timestep, states, control)
        if self._deep is not None:
            return Prediction(*self._deep(inputs, maps))
        wanted = ["noise_pred", "blend_maps"] if maps else ["noise_pred"]
        found = self.graphs.run("unet", only=wanted, **inputs)
        return Prediction(found["noise_pred"], found.get("blend_maps"))

    def unet_inputs(
        self, sample: FloatArray, timestep: float, states: FloatArray, control: AttentionControl | None = None
    ) -> dict[str, NDArray[Any]]:
        """The inputs of the UNet's graph by name."""
        rows = len(sample)
        if control is None:
            control = AttentionControl.identity(rows, self.tokens)
        return {
            "sample": sample,
            "timestep": np.full(rows, timestep, dtype=np.float32),
            "encoder_hidden_states": states[:, : self.tokens],
            "source_index": control.source_index,
            "token_transfer": control.token_transfer,
            "token_keep": control.token_keep,
            "self_replace": control.self_replace,
            "blend_words": control.blend_words,
            **self._added(sample, states),
        }

    def _encoded(self, ids: NDArray[np.int64]) -> FloatArray:
        """Token ids [N,77] -> the array of each text."""
        if not self.meta.pooled:
            return self.graphs.run("text_encoder", only=["token_states"], input_ids=ids)["token_states"]
        ends = np.argmax(ids == self.tokenizer.eos, axis=1)  # of the words; what comes behind is filled up
        second = np.where(np.arange(self.tokens) > ends[:, None], self.meta.second_pad, ids)
        found = self.graphs.run("text_encoder", input_ids=ids, input_ids_2=second)
        states, pooled = found["token_states"], found["text_embeds"]
        if pooled.shape[1] > states.shape[2]:
            given = f"{pooled.shape[1]} pooled channels and {states.shape[2]} of token states"
            raise BundleError("diffusion.pooled", given, "no more pooled channels than those of token states")
        last = np.zeros((len(ids), 1, states.shape[2]), np.float32)
        last[:, 0, : pooled.shape[1]] = pooled
        return np.concatenate([states, last], axis=1)

    def _added(self, sample: FloatArray, states: FloatArray) -> dict[str, FloatArray]:
        """What an SDXL-shaped UNet is told besides: (height, width) of the original, the cut's corner, the target."""
        if not self.meta.pooled:
            return {}
        height, width = (side * self.meta.vae_factor for side in sample.shape[-2:])
        sizes = np.array([height, width, 0, 0, height, width], np.float32)
        return {"text_embeds": states[:, self.tokens, : self.meta.pooled], "time_ids": np.tile(sizes, (len(sample), 1))}

    def latent_shape(self, height: int | None = None, width: int | None = None) -> tuple[int, int, int]:
        """(C, h, w) of a picture of that size in pixels; None is the size that the model was trained at."""
        height = self.meta.image_size if height is None else height
        width = self.meta.image_width if width is None else width
        self.check_size(height, width)
        return self.meta.latent_channels, height // self.meta.vae_factor, width // self.meta.vae_factor

    def check_size(self, height: int, width: int, field: str = "") -> None:
        """InputError unless both are multiples of what the VAE and the UNet divide by."""
        for name, side in (("height", height), ("width", width)):
            if side < 1 or side % self.meta.multiple:
                where = f"{field}.{name}" if field else name
                near = max(1, round(side / self.meta.multiple)) * self.meta.multiple
                raise InputError(where, f"{side} pixels", f"multiples of {self.meta.multiple}", f"{near} is near")

    def _ids(self, text: str, field: str) -> NDArray[np.int64]:
        if text.strip():
            return self.tokenizer.encode(text, field)
        tokenizer = self.tokenizer
        ids = np.full((1, tokenizer.context_length), tokenizer.pad, dtype=np.int64)
        ids[0, :2] = tokenizer.start, tokenizer.eos
        return ids


def _at_once(pixels: int) -> int:
    """Pictures of so many pixels that go through the autoencoder together."""
    return max(1, PIXELS // pixels)
