"""Sizes of engines: from --shapes, from what the bundle declares, and what is refused."""

import pytest

from limner.export.tensorrt.profiles import check_asked, parse_shapes, profile, resolve
from limner.runtime.bundle_schema import GraphMeta, TensorMeta
from limner.runtime.engines.schema import RangeMeta
from limner.runtime.errors import InputError

UNET = GraphMeta(
    "unet.onnx",
    (
        TensorMeta("sample", "float32", ("batch", 4, "height", "width")),
        TensorMeta("blend_words", "float32", ("batch", "blend", 77)),
    ),
    (TensorMeta("noise_pred", "float32", ("batch", 4, "height", "width")),),
)
RANGES = {"height": RangeMeta(8, 64, 128, 8), "width": RangeMeta(8, 64, 128, 8), "blend": RangeMeta(1, 1, 8)}


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


def test_a_dimension_without_a_range_has_to_be_given() -> None:
    with pytest.raises(InputError, match="no size for the dimension 'height' of the graph 'unet'"):
        resolve("unet", UNET, {}, {})
    assert resolve("unet", UNET, {}, dict.fromkeys(("height", "width", "blend"), (8, 8, 8)))["batch"] == (1, 1, 8)
    with pytest.raises(
        InputError, match="the dimension 'heigth'; allowed: batch, blend, height, width; did you mean 'height'"
    ):
        check_asked({"unet": UNET}, {"heigth": (8, 8, 8)})
