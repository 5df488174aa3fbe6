"""From the source of a recipe to W+: a picture is inverted, a seed is mapped, latents are read."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limner.runtime.arrays import read_array
from limner.runtime.errors import InputError
from limner.runtime.faces.face import Face
from limner.runtime.faces.reading import cut_array, read_source
from limner.runtime.pictures.containers import NOTHING, Carried
from limner.runtime.pictures.images import to_float, to_u8
from limner.runtime.recipe import Recipe, Source
from limner.runtime.settings import InversionParameters
from limner.runtime.storage.files import read_plain, sha256_bytes
from limner.runtime.storage.remembered import Remembered
from limner.runtime.stylegan2.features import Features
from limner.runtime.stylegan2.inversion import Inversion, invert
from limner.runtime.stylegan2.networks import Models
from limner.runtime.timing import Progress

__all__ = ["Sources", "Start"]

FloatArray = NDArray[np.float32]
ImageU8 = NDArray[np.uint8]
REMEMBERED = 16  # inversions
MAX_LATENT_BYTES = 64_000_000


@dataclass(frozen=True, eq=False)
class Start:
    """Where an edit starts, and the recipe with the source's hash filled in."""

    recipe: Recipe
    w_plus: FloatArray  # [1,L,D]
    source: ImageU8  # [H,W,3]
    reconstruction: FloatArray  # [1,3,H,W], what the generator makes of w_plus
    scores: dict[str, float]  # of the inversion, empty for other sources
    notes: tuple[str, ...] = ()  # what was done to a picture file
    likeness: float | None = None  # of a picture, see `inversion.likeness`
    carried: Carried = NOTHING  # what a picture file holds beside its pixels
    features: Features | None = None  # of a picture, where its inversion was asked for them


class Sources:
    """Resolves sources on one bundle; remembers the last inversions, so that a second edit of a picture is
    quick.
    """

    def __init__(self, models: Models) -> None:
        self.models = models
        self._inversions: Remembered[Inversion] = Remembered(REMEMBERED)

    def resolve(self, recipe: Recipe, given: NDArray[Any] | None = None, progress: Progress | None = None) -> Start:
        """Return the start of `recipe`; `given` is the array of an image or w_plus source without a path."""
        source = recipe.source
        if given is not None and (source.kind == "seed" or source.path is not None):
            named = "a seed" if source.kind == "seed" else f"the path {source.path!r}"
            raise InputError("source", f"an array beside {named}", "either of them")
        if source.kind == "image":
            return self._image(recipe, given, progress)
        if source.kind == "seed":
            w_plus = self.seed_to_w_plus(source.seed or 0, source.truncation)
            return self._generated(recipe, w_plus)
        w_plus, data = _read_w_plus(source, given)
        generator = self.models.bundle.generator
        shape = (generator.num_ws, generator.w_dim)
        w_plus = _checked_w_plus(w_plus, shape)
        return self._generated(_with_hash(recipe, data), w_plus)

    def seed_to_w_plus(self, seed: int, truncation: float) -> FloatArray:
        """z [1,Z] from numpy's RandomState(seed) -> w -> mean + truncation (w - mean), in every row of
        [1,L,D].
        """
        generator = self.models.bundle.generator
        z = np.random.RandomState(seed).randn(1, generator.z_dim).astype(np.float32)
        w = self.models.mapping(z)  # [1,D]
        mean = self.models.bundle.latent_avg
        w = mean + np.float32(truncation) * (w - mean)
        return np.ascontiguousarray(np.repeat(w[:, None], generator.num_ws, axis=1))  # [1,L,D]

    def inversion(
        self,
        picture: str | Path | ImageU8,
        parameters: InversionParameters,
        progress: Progress | None = None,
        check: Callable[[str], None] | None = None,  # called with the sha256 before the work starts
        face: Face | None = None,  # the part of the picture that is inverted; an array may then have any size
    ) -> tuple[Inversion, str]:
        """Invert a picture file, or uint8 [H,W,3] of the generator's size; return the inversion and the
        sha256.
        """
        size = self.models.bundle.generator.size
        notes: tuple[str, ...] = ()
        carried = NOTHING
        if isinstance(picture, np.ndarray):
            image_u8 = picture if face is None else cut_array(picture, size, face)
            if image_u8.dtype != np.uint8 or image_u8.shape != (size, size, 3):
                shown = f"{image_u8.dtype} {list(image_u8.shape)}"
                raise InputError("source", shown, f"uint8 [{size}, {size}, 3], or the path of a picture")
            digest = sha256_bytes(np.ascontiguousarray(picture).tobytes())
        else:
            read = read_source(picture, size, face)
            image_u8, digest, notes, carried = read.image_u8, read.sha256, read.notes, read.carried
        if check is not None:
            check(digest)
        place = None if face is None else face.place
        key = f"{digest} {isinstance(picture, np.ndarray)} {parameters} {place}"
        found = self._inversions.get(key)
        if found is None:
            found = invert(self.models, to_float(image_u8), parameters, progress)[0]
            found = replace(found, notes=notes, carried=carried)
            found.w_plus.setflags(write=False)
            self._inversions.put(key, found)
        return found, digest

    def _image(self, recipe: Recipe, given: NDArray[Any] | None, progress: Progress | None) -> Start:
        picture = recipe.source.path if given is None else given
        if picture is None:
            raise InputError("source.path", "nothing", "the path of a picture, or an array given beside the recipe")
        source = recipe.source
        check = partial(_check_hash, source)
        found, digest = self.inversion(picture, recipe.inversion, progress, check, source.face)
        recipe = _with_hash(recipe, digest)
        scores = {f"inversion_{name}": value for name, value in found.scores.items()}
        return Start(
            recipe,
            found.w_plus,
            found.picture,
            found.rendered,
            scores,
            found.notes,
            found.likeness,
            found.carried,
            found.features,
        )

    def _generated(self, recipe: Recipe, w_plus: FloatArray) -> Start:
        reconstruction = self.models.synthesis(w_plus)
        return Start(recipe, w_plus, to_u8(reconstruction)[0], reconstruction, {})


def _check_hash(source: Source, digest: str) -> None:
    if source.sha256 is not None and source.sha256 != digest:
        allowed = f"{source.sha256[:12]}... as the recipe says"
        raise InputError("source.sha256", f"a source with sha256 {digest[:12]}...", allowed, "the source was altered")


def _with_hash(recipe: Recipe, digest: str) -> Recipe:
    _check_hash(recipe.source, digest)
    return replace(recipe, source=replace(recipe.source, sha256=digest))


def _read_w_plus(source: Source, given: NDArray[Any] | None) -> tuple[NDArray[Any], str]:
    """Return the array and the sha256 of the file's bytes, or of the array's."""
    if given is not None:
        return given, sha256_bytes(np.ascontiguousarray(given).tobytes())
    if source.path is None:
        raise InputError("source.path", "nothing", "the path of a .npy file, or an array given beside the recipe")
    data = read_plain(source.path, "source.path", MAX_LATENT_BYTES, "a .npy file")
    return read_array(data, "source.path"), sha256_bytes(data)


def _checked_w_plus(array: NDArray[Any], shape: tuple[int, int]) -> FloatArray:
    """Return float32 [1,L,D]."""
    flat = array[0] if array.ndim == 3 and len(array) == 1 else array
    if flat.shape != shape or not np.issubdtype(flat.dtype, np.floating):
        raise InputError("source", f"{array.dtype} {list(array.shape)}", f"w_plus float32 {list(shape)}")
    if not np.isfinite(flat).all():
        raise InputError("source", "w_plus with NaN or infinity", "finite numbers")
    return np.ascontiguousarray(flat[None].astype(np.float32))
