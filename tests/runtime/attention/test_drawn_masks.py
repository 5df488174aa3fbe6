"""Places drawn by hand: formula, both methods on the shipped models, what is refused, the command line."""

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from limner.runtime import Editor, InputError, PromptEdit, Recipe, Source, read_recipe
from limner.runtime.attention.local_blend import BlendSettings, LocalBlend
from limner.runtime.bundle.shipped import shipped_bundle
from limner.runtime.cli import main
from limner.runtime.guidance.concepts import Concept, SemanticGuidance, channel_quantile
from limner.runtime.guidance.masks import masked_guidance
from limner.runtime.methods.drawing import DrawnMasks, DrawnOptions
from limner.runtime.pictures.drawn import drawn_text, read_drawn, touched

SOURCE = "a person with brown skin, short brown hair, no beard and no glasses, wearing a blue t-shirt, pink background"
TARGET = SOURCE.replace("brown hair", "red hair").replace("blue t-shirt", "green t-shirt")
CELL = 8  # pixels of a latent


@pytest.fixture(scope="module")
def editor() -> Editor:
    return Editor(shipped_bundle("diffusion"))


def half(top: bool = True, size: int = 128) -> np.ndarray:
    mask = np.zeros((size, size), bool)
    mask[: size // 2] = top
    mask[size // 2 :] = not top
    return mask


def changed(edit: Any) -> np.ndarray:
    found: np.ndarray = (edit.image != edit.source).any(axis=2)
    return found


def test_text_and_back() -> None:
    mask = np.random.default_rng(0).random((37, 51)) > 0.5
    np.testing.assert_array_equal(read_drawn("mask_add", drawn_text(mask)), mask)
    assert len(drawn_text(half(size=2048))) < 4000


def test_a_cell_is_touched_by_any_part_of_it() -> None:
    mask = np.zeros((128, 128), bool)
    mask[17, 40] = True
    small = touched(mask, (16, 16))
    assert small.sum() == 1 and small[2, 5]
    random = np.random.default_rng(1).random((96, 64)) > 0.97
    cells: NDArray[np.bool_] = np.asarray(random.reshape(12, 8, 8, 8).any(axis=(1, 3)))
    np.testing.assert_array_equal(touched(random, (12, 8)), cells)
    np.testing.assert_array_equal(touched(cells, (96, 64)), cells.repeat(8, 0).repeat(8, 1))


def test_on_top_of_a_mask() -> None:
    rng = np.random.default_rng(2)
    mask, add, remove = (rng.random((8, 8)) > 0.5 for _ in range(3))
    np.testing.assert_array_equal(DrawnMasks(add, remove).on(mask), (mask | add) & ~remove)
    np.testing.assert_array_equal(DrawnMasks(None, remove).on(mask.astype(np.float32)), mask & ~remove)
    assert DrawnOptions().drawn is None and DrawnOptions(mask_add=drawn_text(mask)).drawn is not None


@pytest.mark.parametrize(("words", "add", "remove"), [(True, True, True), (True, False, True), (False, True, False),
                                                      (False, True, True), (False, False, True)])  # fmt: skip
def test_local_blend_is_the_formula(words: bool, add: bool, remove: bool) -> None:
    rng = np.random.default_rng(3)
    source, edit = rng.normal(size=(2, 4, 8, 8)).astype(np.float32)
    maps = rng.random((2, 1, 8, 8)).astype(np.float32) ** 4
    masks = [rng.random((8, 8)) > 0.7 for _ in range(2)]
    drawn = DrawnMasks(masks[0] if add else None, masks[1] if remove else None)
    got = LocalBlend(BlendSettings(0 if words else None, drawn=drawn)).blend(0, source, edit, maps if words else None)
    alone = LocalBlend(BlendSettings(0))
    alone.blend(0, source, edit, maps)
    base = alone.mask if words else np.full((8, 8), not add)
    assert base is not None
    wanted = (base | masks[0] if add else base) & ~(masks[1] if remove else np.zeros((8, 8), bool))
    np.testing.assert_array_equal(got, source + wanted.astype(np.float32) * (edit - source))


def test_guidances_are_the_formulas() -> None:
    rng = np.random.default_rng(4)
    uncond, estimate = rng.normal(size=(2, 1, 4, 8, 8)).astype(np.float32)
    drawn = DrawnMasks(rng.random((8, 8)) > 0.7, rng.random((8, 8)) > 0.7)
    concept = Concept(3.0, 0.8, 0, drawn=drawn)
    psi = (estimate - uncond) * np.float32(3)
    assert drawn.add is not None and drawn.remove is not None
    kept = ((np.abs(psi) >= channel_quantile(np.abs(psi), 0.8)) | drawn.add) & ~drawn.remove
    guidance = SemanticGuidance([concept], 10, momentum_scale=0.0)
    found = guidance(0, uncond, {0: estimate})
    assert found is not None
    np.testing.assert_allclose(guidance.kept[0][0], kept.mean(axis=(0, 1)), atol=1e-7)  # what --maps and the page show
    np.testing.assert_array_equal(found, np.where(kept, psi, 0))
    attention = rng.random((4, 4)).astype(np.float32)
    plain = masked_guidance(Concept(3.0, 0.8, 0), uncond, estimate, attention, 500, "intersect")[1]
    added, mask = masked_guidance(concept, uncond, estimate, attention, 500, "intersect")
    np.testing.assert_array_equal(mask[0, 0] > 0, ((plain[0, 0] > 0) | drawn.add) & ~drawn.remove)
    np.testing.assert_array_equal(added, psi * mask)


def test_prompt_to_prompt_stays_inside(editor: Editor) -> None:
    def edit(**options: Any) -> Any:
        return editor.edit(
            Recipe("prompt-to-prompt", Source.from_prompt(SOURCE, 7), (PromptEdit(TARGET, options=options),))
        )

    assert changed(edit())[:64].any() and changed(edit())[64:].any()
    top = edit(mask_add=drawn_text(half()))
    assert changed(top)[:64].any() and not changed(top)[64:].any()
    np.testing.assert_array_equal(top.pictures["mask"][..., 0] > 0, half())
    low = edit(mask_remove=drawn_text(half()))
    assert changed(low)[64:].any() and not changed(low)[:64].any()
    hair = edit(blend=["hair"])
    both = edit(blend=["hair"], mask_add=drawn_text(half(top=False)))
    assert not changed(hair)[100:].any() and changed(both)[100:].any() and changed(both)[:50].any()
    again = editor.edit(Recipe.from_json(both.recipe.to_json()))
    np.testing.assert_array_equal(again.image, both.image)


@pytest.mark.parametrize("kind", ["prompt", "image"])
def test_concepts_stay_inside(editor: Editor, kind: str, tmp_path: Path) -> None:
    """A removed half takes no guidance; what still changes there is what a network does of the other half."""
    example = shipped_bundle("stylegan2").parent / "pictures" / "test-0115.png"
    source = Source.from_prompt(SOURCE, 7) if kind == "prompt" else Source.from_image(example, SOURCE)

    def edit(**options: Any) -> Any:
        return editor.edit(Recipe("sega", source, (PromptEdit("green clothes", 12.0, {"threshold": 0.5} | options),)))

    plain, kept = edit(), edit(mask_remove=drawn_text(half(top=False)))
    mask = kept.pictures["mask-green-clothes"] if "mask-green-clothes" in kept.pictures else next(
        iter(kept.pictures.values()))  # fmt: skip
    assert not mask[64:].any() and mask[:64].any()

    def amount(one: Any) -> float:
        difference = np.abs(one.image.astype(int) - one.reconstruction)[80:]
        return float(difference.mean())

    assert amount(kept) < 0.5 * amount(plain)
    whole = edit(mask_add=drawn_text(np.ones((16, 16), bool)), threshold=1.0)
    assert (next(iter(whole.pictures.values())) == 255).all()


def encoded(image: Image.Image, kind: str = "PNG") -> str:
    held = io.BytesIO()
    image.save(held, kind)
    return base64.b64encode(held.getvalue()).decode()


@pytest.mark.parametrize("given", [
    "", "no base64!", base64.b64encode(b"no picture").decode(), encoded(Image.new("1", (8, 8))),
    encoded(Image.new("L", (8, 8), 255), "JPEG"), encoded(Image.new("1", (4097, 1), 1)), "A" * 400_001, 7,
    encoded(Image.new("1", (64, 64), 1))[:60],
])  # fmt: skip
@pytest.mark.parametrize("method", ["prompt-to-prompt", "sega"])
def test_refused(method: str, given: object) -> None:
    with pytest.raises(InputError, match=r"prompts\.options\.mask_add"):
        Recipe(method, Source.from_prompt("a cat", 1), (PromptEdit("a dog", options={"mask_add": given}),))


def test_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(half()).save("top.png")
    words = ["--source-prompt", SOURCE, "--prompt", TARGET, "--mask-add", "top.png", "-o", "out.png"]
    assert main(["edit", "seed:7", *words]) == 0
    np.testing.assert_array_equal(read_drawn("mask_add", read_recipe("out.png").prompts[0].options.mask_add), half())
    Image.new("L", (8, 8)).save("black.png")
    for option, name in (("--mask-add", "black.png"), ("--mask-remove", "gone.png"), ("--mask-remove", __file__)):
        assert main(["edit", "seed:7", "--source-prompt", "a cat", "--concept", "+hat", option, name]) == 2
        assert option[2:] in capsys.readouterr().err
    assert main(["edit", "seed:7", "a person with a hat", "--mask-add", "top.png"]) == 2
    assert "prompt-to-prompt, sega" in capsys.readouterr().err
