"""Distances to true edits and change by place: by hand, against other implementations, and on what ships."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from limner.runtime.errors import InputError
from limner.runtime.pictures.images import write_png_atomically
from limner.runtime.study.measures import background, change, measure, true_mask
from limner.runtime.study.pie import decode_mask, read_pie

pytest.importorskip("skimage")
GREY = np.full((64, 64, 3), 100, np.uint8)


def spotted(rows: slice, columns: slice, by: int, base: Any = GREY) -> Any:
    found = base.copy()
    found[rows, columns] = found[rows, columns].astype(int) + by
    return found


def test_change_and_background_by_hand() -> None:
    """A spot of 16 x 16 inside the mask by 51, one pixel outside by 102."""
    truth = spotted(slice(0, 16), slice(0, 16), 80)
    mask = true_mask(GREY, [truth])
    assert mask.sum() == 256
    edited = spotted(slice(0, 16), slice(0, 16), 51)
    edited[40, 40] += 102
    found = change(GREY, edited, mask)
    assert found.inside == 51 and found.outside == pytest.approx(102 / (64 * 64 - 256))
    both = background(GREY, edited, mask)
    assert both.mse_alone == pytest.approx(0.16 / (64 * 64 - 256)) and both.mse_all == pytest.approx(0.16 / (64 * 64))
    assert both.psnr_all > (both.psnr_alone or 0)  # a mask flatters the first
    assert both.psnr_alone == pytest.approx(-10 * np.log10(0.16 / (64 * 64 - 256)))
    assert change(GREY, GREY, np.ones((64, 64), bool)).outside is None
    whole = background(GREY, edited, np.ones((64, 64), bool))
    assert (whole.psnr_alone, whole.ssim_alone, whole.psnr_all) == (None, None, 99.0)
    same = background(GREY, GREY, mask)
    assert (same.psnr_all, same.psnr_alone, same.ssim_all, same.ssim_alone) == (99.0, 99.0, 1.0, 1.0)


def test_the_nearest_true_edit_counts() -> None:
    truths = [spotted(slice(0, 16), slice(0, 16), 80), spotted(slice(30, 46), slice(0, 16), 80)]
    edited = spotted(slice(30, 46), slice(0, 16), 75)
    features = [np.array([1.0, 0.0], np.float32), np.array([0.0, 1.0], np.float32), np.array([1.0, 1.0], np.float32)]
    found = measure(GREY, edited, truths, features)
    assert found.psnr == pytest.approx(-10 * np.log10((5 / 255) ** 2 * 256 / 4096))
    assert found.features == pytest.approx(1 - 1 / np.sqrt(2))
    assert found.inside == pytest.approx(75 / 2) and found.outside == 0.0  # half of what might change did
    assert measure(GREY, truths[0], truths).ssim == pytest.approx(1.0)
    assert measure(GREY, truths[0], truths).colour == 0.0


def test_ssim_by_the_formula() -> None:
    """Wang et al. 2004 with a Gaussian of 1.5 pixels, in float64, inside the border that windows leave."""
    rng = np.random.default_rng(0)
    one = rng.integers(0, 256, (40, 40, 3), np.uint8)
    two = np.clip(one.astype(int) + rng.integers(-30, 31, one.shape), 0, 255).astype(np.uint8)
    reach = np.arange(-5, 6)
    window = np.exp(-(reach**2) / (2 * 1.5**2))
    window /= window.sum()

    def blur(x: Any) -> Any:
        for axis in (0, 1):
            x = np.apply_along_axis(lambda row: np.convolve(row, window, "valid"), axis, x)
        return x

    values = []
    for k in range(3):
        a, b = one[..., k].astype(float), two[..., k].astype(float)
        ma, mb = blur(a), blur(b)
        va, vb, cov = blur(a * a) - ma**2, blur(b * b) - mb**2, blur(a * b) - ma * mb
        c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
        values.append((2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2)))
    mask = np.ones((40, 40), bool)
    mask[5:-5, 5:-5] = False
    assert background(one, two, mask).ssim_alone == pytest.approx(np.mean(values), abs=1e-6)


@pytest.mark.parametrize("other", [GREY[:32], GREY.astype(np.float32), GREY[..., :1]])
def test_pictures_that_do_not_fit(other: Any) -> None:
    with pytest.raises(InputError, match="picture"):
        measure(GREY, other, [GREY])
    with pytest.raises(InputError, match="truth"):
        measure(GREY, GREY, [])
    with pytest.raises(InputError, match="mask"):
        background(GREY, GREY, np.zeros((32, 64), bool))


# --- a folder in PIE-Bench's format -------------------------------------------------------------------------


def pie_folder(root: Path, **changes: Any) -> Path:
    item = {
        "image_path": "0_random/one.jpg",
        "original_prompt": "a [round] cake",
        "editing_prompt": "a [square] cake",
        "editing_type_id": "1",
        "blended_word": "cake cake",
        "mask": [512 * 10 + 10, 100, 512 * 11 + 10, 100],
    }
    (root / "annotation_images" / "0_random").mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (512, 512), (90, 90, 90)).save(root / "annotation_images" / "0_random" / "one.jpg")
    (root / "mapping_file.json").write_text(json.dumps({"000": item | changes}))
    return root


def test_masks_of_runs() -> None:
    mask = decode_mask([512 * 10 + 10, 100, 512 * 512 - 600, 5000])
    assert mask[10, 10:110].all() and not mask[10, 110] and not mask[9, 10] and mask[511].all() and mask[:, 0].all()
    for wrong in ([1], [1, -2], [True, 1], [512 * 512, 1], [1.5, 2]):
        with pytest.raises(InputError, match="mask"):
            decode_mask(wrong)  # type: ignore[arg-type]


def test_a_folder_of_pictures_that_people_own(limner: Callable[..., Any], tmp_path: Path) -> None:
    folder = pie_folder(tmp_path / "pie")
    (item,) = read_pie(folder)
    assert (item.source_prompt, item.target_prompt) == ("a round cake", "a square cake")
    edited = np.full((512, 512, 3), 90, np.uint8)
    edited[item.mask] = 190
    edited[300, 300] += 51
    (tmp_path / "results" / "0_random").mkdir(parents=True)
    write_png_atomically(tmp_path / "results" / "0_random" / "one.png", edited)
    done = limner("study", "pie", folder, tmp_path / "results", "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    inside = int(item.mask.sum())
    assert found["all"]["inside"] == 100 and found["1"]["count"] == 1
    assert found["all"]["mse_all"] == pytest.approx(0.04 / 512**2)
    assert found["all"]["mse_alone"] == pytest.approx(0.04 / (512**2 - inside))
    assert "| all | 1 |" in limner("study", "pie", folder, tmp_path / "results").out
    lost = limner("study", "pie", folder, tmp_path / "nothing")
    assert lost.code == 2 and "0_random/one" in lost.err


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"image_path": "../x.png"}, "image_path"),
        ({"image_path": 3}, "image_path"),
        ({"mask": "none"}, "mask"),
        ({"mask": [1]}, "mask"),
        ({"editing_prompt": " "}, "editing_prompt"),
        ({"image_path": "0_random/two.jpg"}, "two"),
    ],
)
def test_folders_that_do_not_fit(limner: Callable[..., Any], tmp_path: Path, changes: Any, said: str) -> None:
    folder = pie_folder(tmp_path / "pie", **changes)
    failed = limner("study", "pie", folder, tmp_path)
    assert failed.code == 2 and said in failed.err, failed.err
    assert limner("study", "pie", tmp_path, tmp_path).code == 2


# --- a run ------------------------------------------------------------------------------------------------


def test_a_run_with_true_edits(limner: Callable[..., Any], tmp_path: Path) -> None:
    """Sunglasses on two avatars: nearer to the truth than the picture was, the change where it belongs."""
    assert limner("train", "samples", "--count", 4, "--truth", "--out", tmp_path / "samples").code == 0
    run = ("study", "run", tmp_path / "samples", "-m", "global-directions", "--edit", "sunglasses", "--count", 2)
    assert limner(*run, "--threads", 1, "--out", tmp_path / "run").code == 0
    done = limner("study", "measure", tmp_path / "run", tmp_path / "samples")
    assert done.code == 0 and "| **global-directions** | 2 |" in done.out and "| sunglasses | 2 |" in done.out, done.err
    rows = [json.loads(line) for line in (tmp_path / "run" / "measures.jsonl").read_text().splitlines()]
    assert len(rows) == 2
    for row in rows:
        assert row["inside"] > 3 * row["outside"] and row["psnr"] > 20 and 0 <= row["features"] < 1
    plain = ("train", "samples", "--count", 4, "--out", tmp_path / "plain")
    assert limner(*plain).code == 0
    failed = limner("study", "measure", tmp_path / "run", tmp_path / "plain")
    assert failed.code == 2 and "other samples than the run's" in failed.err
