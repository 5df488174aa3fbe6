"""Sizes of engines: from --shapes, from what the bundle declares, and what is refused."""

from dataclasses import replace

import pytest

from limner.export.tensorrt.profiles import check_asked, parse_shapes, profile, resolve
from limner.runtime.bundle.engines import RangeMeta
from limner.runtime.bundle.manifest import BundleManifest, ClipMeta, DiffusionMeta, LicenceMeta
from limner.runtime.bundle.parts import GraphMeta, TensorMeta
from limner.runtime.bundle.ranges import graph_ranges
from limner.runtime.errors import InputError

UNET = GraphMeta(
    "unet.onnx",
    (
        TensorMeta("sample", "float32", ("batch", 4, "height", "width")),
        TensorMeta("blend_words", "float32", ("batch", "blend", 77)),
    ),
    (TensorMeta("noise_pred", "float32", ("batch", 4, "height", "width")),),
)
RANGES = {
    "batch": RangeMeta(1, 1, 8),
    "height": RangeMeta(8, 64, 128, 8),
    "width": RangeMeta(8, 64, 128, 8),
    "blend": RangeMeta(1, 1, 8),
}


def test_shapes_are_read() -> None:
    assert parse_shapes(["batch=1:2:8,height=16:32", "width=8"]) == {
        "batch": (1, 2, 8),
        "height": (16, 16, 32),
        "width": (8, 8, 8),
    }
    assert parse_shapes([]) == {}


@pytest.mark.parametrize(
    "text", ["batch", "batch=", "=1", "batch=0", "batch=3:2:1", "batch=1:2:3:4", "batch=1,batch=2", "b=-1"]
)
def test_bad_shapes(text: str) -> None:
    with pytest.raises(InputError, match="shapes: got"):
        parse_shapes([text])


def test_declared_ranges_and_what_is_asked() -> None:
    sizes = resolve("unet", UNET, RANGES, {"height": (16, 32, 64)})
    assert sizes == {"batch": (1, 1, 8), "height": (16, 32, 64), "width": (8, 64, 128), "blend": (1, 1, 8)}
    shapes = profile(UNET.inputs[0], sizes)
    assert (shapes.minimum, shapes.best, shapes.maximum) == ((1, 4, 16, 8), (1, 4, 32, 64), (8, 4, 64, 128))


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"height": (16, 32, 256)}, "shapes: got height = 256; allowed: 8 to 128 in steps of 8"),
        ({"height": (16, 20, 32)}, "shapes: got height = 20; allowed: 8 to 128 in steps of 8"),
        ({"blend": (1, 2, 9)}, "shapes: got blend = 9; allowed: 1 to 8; the bundle declares this range"),
    ],
)
def test_outside_the_declared_range(asked: dict[str, tuple[int, int, int]], words: str) -> None:
    with pytest.raises(InputError) as caught:
        resolve("unet", UNET, RANGES, asked)
    assert words in str(caught.value)


def test_only_the_steps_of_an_implied_range_bind() -> None:
    asked = {"height": (8, 256, 512)}
    assert resolve("unet", UNET, RANGES, asked, {"height"})["height"] == (8, 256, 512)
    with pytest.raises(InputError, match="height = 12; allowed: multiples of 8; the model's own step"):
        resolve("unet", UNET, RANGES, {"height": (8, 12, 16)}, {"height"})


def test_a_dimension_without_a_range_has_to_be_given() -> None:
    with pytest.raises(InputError, match="no size for the dimension 'height' of the graph 'unet'"):
        resolve("unet", UNET, {"batch": RangeMeta(1, 1, 8)}, {})
    assert resolve("unet", UNET, RANGES, dict.fromkeys(("height", "width", "blend"), (8, 8, 8)))["batch"] == (1, 1, 8)
    with pytest.raises(
        InputError, match="the dimension 'heigth'; allowed: batch, blend, height, width; did you mean 'height'"
    ):
        check_asked({"unet": UNET}, {"heigth": (8, 8, 8)})


def test_ranges_follow_from_the_model() -> None:
    """Stable Diffusion 1.x: latents of 64, pixels in steps of 64; what bundle.json says comes first."""
    licence = (LicenceMeta("all", "CC0", "nobody", "here"),)
    model = DiffusionMeta(0.18215, "epsilon", 4, 64, 8, 64)
    clip = ClipMeta(768, 77, 49407, 49407, 224)
    manifest = BundleManifest("sd", "test", clip, {}, licence, diffusion=model, family="diffusion")
    assert graph_ranges(manifest, "unet")["height"] == RangeMeta(32, 64, 128, 8)
    assert graph_ranges(manifest, "unet")["batch"] == RangeMeta(1, 4, 16)
    assert graph_ranges(manifest, "vae_encoder")["width"] == RangeMeta(256, 512, 1024, 64)
    assert graph_ranges(manifest, "vae_decoder")["latent_width"] == RangeMeta(32, 64, 128, 8)
    own = {"unet.height": RangeMeta(8, 8, 8, 8), "batch": RangeMeta(1, 2, 3)}
    declared = graph_ranges(replace(manifest, ranges=own), "unet")
    assert (declared["height"], declared["batch"]) == (own["unet.height"], own["batch"])
    assert graph_ranges(replace(manifest, ranges=own), "vae_encoder")["height"] == RangeMeta(256, 512, 1024, 64)
