"""Inputs for the graphs of a bundle, made by the bundle's own graphs: no torch and no checkpoint is needed.

Latents come from the mapping network (each row of w_plus its own, truncation 0.7), pictures from the generator, ids
are random words. They are what graphs meet in use, and what conversions are calibrated on and measured with. Real
pictures may be given in place of the generator's.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from limner.runtime.bundle.engines import RangeMeta
from limner.runtime.bundle.loading import Bundle
from limner.runtime.bundle.parts import GraphMeta, TensorMeta
from limner.runtime.bundle.ranges import graph_ranges
from limner.runtime.diffusion.caching import CACHED, DEEP
from limner.runtime.graphs.sessions import Sessions

Arrays = dict[str, NDArray[Any]]
SIGMA = 1.0  # of latents at the start of a denoising loop
DESCENTS = ("latent_gradient", "style_gradient")
GRADIENTS = frozenset({*DESCENTS, "feature_gradient"})  # graphs whose output "gradient" is linear in "loss_weights"


class Samples:
    """Draws inputs for any graph of a bundle, the same ones for the same seed."""

    def __init__(
        self,
        bundle: Bundle,
        seed: int = 0,
        pictures: NDArray[np.float32] | None = None,  # [N,3,H,W] in [-1,1]; else the generator's
        sizes: dict[str, int] | None = None,  # of dimensions other than the batch
    ) -> None:
        self.bundle, self.pictures = bundle, pictures
        self.random = np.random.default_rng(seed)
        self.sessions = Sessions(bundle, threads=1)
        self.sizes = dict(sizes or {})
        self._ranges: dict[str, RangeMeta] = {}  # of the graph that is drawn for

    def __call__(self, graph: str, batch: int) -> Arrays:
        """Inputs of `graph` for a batch of that size."""
        meta = self.bundle.graph(graph)
        if graph == CACHED:
            return self._last_layers(meta, batch)
        self._ranges = graph_ranges(self.bundle.manifest, graph)
        found = {tensor.name: self._tensor(tensor, batch) for tensor in meta.inputs}
        if graph in DESCENTS:
            found |= self._descent(batch, graph == "style_gradient")
        if "feature_offset" in found:
            found["feature_offset"] = self._offset(found["style_channels"], found["feature_offset"].shape)
        if graph == "feature_gradient":
            found["loss_weights"] = np.ones(1, np.float32)
        if "input_ids_2" in found:
            found["input_ids_2"] = self._second_ids(found["input_ids"])
        if "encoder_hidden_states" in found and "text_encoder" in self.bundle.manifest.graphs:
            found |= self._texts(found, batch)
        if "source_index" in found:
            found |= self._control(meta, found, batch)
        return found

    def _last_layers(self, meta: GraphMeta, batch: int) -> Arrays:
        """Of the UNet's last layers: the whole UNet's inputs, and the deep features that it gives for them."""
        whole = self("unet", batch)
        whole |= self.sessions.run("unet", only=[DEEP], **whole)
        return {tensor.name: whole[tensor.name] for tensor in meta.inputs}

    def _second_ids(self, ids: NDArray[Any]) -> NDArray[Any]:
        """The same words for SDXL's second text encoder, filled up as it is used to."""
        model, clip = self.bundle.manifest.diffusion, self.bundle.manifest.clip
        behind = np.cumsum(ids == clip.eos, axis=1) - (ids == clip.eos) > 0  # after the first end token
        return np.where(behind, 0 if model is None else model.second_pad, ids).astype(ids.dtype)

    def _texts(self, found: Arrays, batch: int) -> Arrays:
        """States of random words by the bundle's own text encoder, and its pooled text where the UNet takes one."""
        ids = self._ids(batch, self.bundle.manifest.clip.context_length)
        feed = {"input_ids": ids}
        if any(tensor.name == "input_ids_2" for tensor in self.bundle.graph("text_encoder").inputs):
            feed["input_ids_2"] = self._second_ids(ids)
        made = self.sessions.run("text_encoder", only=None, **feed)
        texts = {"encoder_hidden_states": made["token_states"]}
        if "text_embeds" in found:
            texts["text_embeds"] = made["text_embeds"]
        return texts

    def _tensor(self, tensor: TensorMeta, batch: int) -> NDArray[Any]:
        shape = [self._size(size, batch) for size in tensor.shape]
        drawn: NDArray[Any]
        if tensor.name in ("w_plus", "w_plus_source"):
            drawn = self._w_plus(batch)
        elif tensor.name in ("style_channels", "style_channels_source"):
            drawn = self.sessions.run("affine", w_plus=self._w_plus(batch))["style_channels"]
        elif tensor.name in ("image", "target_image"):
            drawn = self._image(batch, shape)
        elif tensor.name == "input_ids":
            drawn = self._ids(*shape)
        elif tensor.name == "time_ids":  # SDXL: the size of the picture before, its crop, its size now
            side = self.bundle.image_size
            drawn = np.tile([side, side, 0, 0, side, side], (batch, 1))
        elif tensor.name == "timestep":
            drawn = self.random.integers(1, 1000, shape).astype(np.float64)
        elif tensor.dtype.startswith("int"):
            drawn = np.zeros(shape)
        else:
            drawn = SIGMA * self.random.standard_normal(shape)
        return np.ascontiguousarray(drawn.astype(tensor.dtype))

    def _size(self, size: int | str, batch: int) -> int:
        if isinstance(size, int):
            return size
        if size == "batch":
            return batch
        declared = self._ranges.get(size)
        return self.sizes.get(size, declared.best if declared is not None else 1)

    def _w_plus(self, batch: int, truncation: float = 0.7) -> NDArray[np.float32]:
        generator = self.bundle.generator
        z = self.random.standard_normal((batch * generator.num_ws, generator.z_dim)).astype(np.float32)
        w = self.sessions.run("mapping", z=z)["w"]
        w = self.bundle.latent_avg + truncation * (w - self.bundle.latent_avg)
        return w.reshape(batch, generator.num_ws, generator.w_dim)

    def _image(self, batch: int, shape: list[int]) -> NDArray[np.float32]:
        if self.pictures is not None:
            return self.pictures[self.random.choice(len(self.pictures), batch, replace=batch > len(self.pictures))]
        if "synthesis_w" in self.bundle.manifest.graphs:
            return np.clip(self.sessions.run("synthesis_w", w_plus=self._w_plus(batch))["image"], -1, 1)
        return np.tanh(self.random.standard_normal(shape)).astype(np.float32)

    def _ids(self, batch: int, length: int) -> NDArray[np.int64]:
        """Start, 3 to 20 words, end, padding."""
        clip = self.bundle.manifest.clip
        ids = np.full((batch, length), clip.pad, np.int64)
        for row in ids:
            count = int(self.random.integers(3, min(20, length - 2)))
            row[0] = clip.eos - 1
            row[1 : count + 1] = self.random.integers(0, clip.eos - 1, count)
            row[count + 1] = clip.eos
        return ids

    def _descent(self, batch: int, in_styles: bool) -> Arrays:
        """A point some steps away from its source, and targets of other pictures."""
        source = self._w_plus(batch)
        step = 0.2 * source.std() * self.random.standard_normal(source.shape)
        image = self._image(batch, [batch, 3, self.bundle.image_size, self.bundle.image_size])
        text = self.sessions.run("clip_text", input_ids=self._ids(batch, self.bundle.manifest.clip.context_length))
        latents = {"w_plus_source": source, "w_plus": (source + step).astype(np.float32)}
        if in_styles:
            latents = {name.replace("w_plus", "style_channels"):
                       self.sessions.run("affine", w_plus=array)["style_channels"]
                       for name, array in latents.items()}  # fmt: skip
        return {
            **latents,
            "target_image": image,
            "text_features": text["text_features"],
            "identity_source": self.sessions.run("identity", image=image)["identity_features"],
            "loss_weights": np.array([1.0, 0.008, 0.1, 0.5], np.float32),
        }

    def _offset(self, styles: NDArray[Any], shape: tuple[int, ...]) -> NDArray[np.float32]:
        """An offset of a third of the feature map's size."""
        given = {"style_channels": styles, "feature_offset": np.zeros(shape, np.float32)}
        features = self.sessions.run("synthesis_features", only=["features"], **given)["features"]
        return (0.3 * features.std() * self.random.standard_normal(shape)).astype(np.float32)

    def _control(self, meta: GraphMeta, found: Arrays, batch: int) -> Arrays:
        """Attention control of an edit: the last row takes the first one's maps, a few words moved."""
        tokens = found["token_transfer"].shape[-1]
        transfer = np.zeros((batch, tokens, tokens), np.float32)
        keep = np.ones((batch, tokens), np.float32)
        if batch > 1:
            transfer[-1] = np.roll(np.eye(tokens, dtype=np.float32), 1, axis=1)
            keep[-1] = 0
        control: Arrays = {
            "source_index": np.where(np.arange(batch) == batch - 1, 0, np.arange(batch)).astype(np.int64),
            "token_transfer": transfer,
            "token_keep": keep,
            "self_replace": (np.arange(batch) == batch - 1).astype(np.float32)
            if batch > 1
            else np.zeros(1, np.float32),
            "blend_words": (self.random.random(found["blend_words"].shape) < 0.1).astype(np.float32),
        }
        names = {tensor.name for tensor in meta.inputs}
        return {name: array for name, array in control.items() if name in names}
