"""From the source of a recipe to where diffusion starts: a text and a seed, or a picture's latents."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limner.runtime.diffusion.networks import DiffusionNetworks
from limner.runtime.diffusion.sampling import Draws
from limner.runtime.errors import InputError
from limner.runtime.faces.reading import cut_array, read_source
from limner.runtime.pictures.containers import NOTHING, Carried
from limner.runtime.pictures.images import to_float
from limner.runtime.recipe import Recipe
from limner.runtime.storage.files import sha256_bytes

__all__ = ["DiffusionStart", "resolve_start"]

FloatArray = NDArray[np.float32]
ImageU8 = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class DiffusionStart:
    """Where an edit starts; the recipe has its source's hash filled in."""

    recipe: Recipe
    prompt: str  # what the source is made from or shows; "" where nobody said
    seed: int  # of the random draws
    shape: tuple[int, int, int]  # of the latents, (C, h, w)
    picture: ImageU8 | None = None  # [H,W,3], of an image
    clean: FloatArray | None = None  # [1,C,h,w], its latents
    notes: tuple[str, ...] = ()  # what was done to a picture file
    carried: Carried = NOTHING  # what the file holds beside its pixels
    compare: bool = True  # whether the picture without the edit is asked for

    @property
    def place(self) -> object:
        """What part of the source's file this is: edits of one picture share work if it is the same."""
        face = self.recipe.source.face
        return None if face is None else face.place

    def draws(self) -> Draws:
        """A fresh stream of draws [1,C,h,w]; the first one is the noise that a prompt starts from."""
        return Draws([self.seed], self.shape)


def resolve_start(
    networks: DiffusionNetworks,
    recipe: Recipe,
    given: NDArray[Any] | None,  # uint8 [H,W,3], an image without a path
    size: tuple[int | None, int | None],  # height and width asked for, None for the model's own
) -> DiffusionStart:
    """Return the start of `recipe`; InputError for a picture that does not read, fit or match its hash."""
    source = recipe.source
    if given is not None and (source.kind != "image" or source.path is not None):
        named = "a prompt" if source.kind != "image" else f"the path {source.path!r}"
        raise InputError("source", f"an array beside {named}", "either of them")
    if source.kind == "prompt":
        shape = networks.latent_shape(*size)
        return DiffusionStart(recipe, source.prompt or "", source.seed or 0, shape)
    picture, digest, notes, carried = _picture(networks, recipe, given, size)
    if source.sha256 is not None and source.sha256 != digest:
        allowed = f"{source.sha256[:12]}... as the recipe says"
        raise InputError("source.sha256", f"a source with sha256 {digest[:12]}...", allowed, "the source was altered")
    recipe = replace(recipe, source=replace(source, sha256=digest))
    shape = networks.latent_shape(*picture.shape[:2])
    clean = networks.encode(to_float(picture))
    return DiffusionStart(recipe, source.prompt or "", recipe.seed, shape, picture, clean, notes, carried)


def _picture(
    networks: DiffusionNetworks, recipe: Recipe, given: NDArray[Any] | None, size: tuple[int | None, int | None]
) -> tuple[ImageU8, str, tuple[str, ...], Carried]:
    face = recipe.source.face
    if given is not None and face is None:
        if given.dtype != np.uint8 or given.ndim != 3 or given.shape[2] != 3:
            raise InputError("source", f"{given.dtype} {list(given.shape)}", "uint8 [height, width, 3]")
        networks.check_size(given.shape[0], given.shape[1], field="source")
        return given, sha256_bytes(np.ascontiguousarray(given).tobytes()), (), NOTHING
    height, width = size
    if height is not None and width is not None and height != width:
        given_size = f"{height} x {width} pixels for a picture file"
        raise InputError("parameters.height", given_size, "one and the same side", "files are cut to a square")
    side = next((one for one in size if one is not None), networks.meta.image_size)
    networks.check_size(side, side)
    if given is not None and face is not None:
        return cut_array(given, side, face), sha256_bytes(np.ascontiguousarray(given).tobytes()), (), NOTHING
    if recipe.source.path is None:
        raise InputError("source.path", "nothing", "the path of a picture, or an array given beside the recipe")
    read = read_source(recipe.source.path, side, face)
    return read.image_u8, read.sha256, read.notes, read.carried
