"""The second judge: what it reads, how attributes come of options, and which pictures are like drawings."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from limner.export.judge import export_judge
from limner.runtime.errors import InputError
from limner.runtime.pictures.images import write_png_atomically
from limner.runtime.study.header import Header
from limner.runtime.study.judge import JudgeGraph
from limner.runtime.study.rows import Row, open_run, read_run
from limner.runtime.study.samples import EditSpec
from limner.training.avatars.attributes import AVATAAARS, Avatar, sample_avatar, sample_in_split
from limner.training.avatars.nearest import difference, distance, nearest
from limner.training.avatars.render import render
from limner.training.avatars.ruins import RUINS
from limner.training.families.augment import AugmentConfig
from limner.training.families.reader.module import ReaderModule
from limner.training.families.reader.run import Run, model_config
from limner.training.loop.runner import OptimizerConfig
from limner.training.models.reader import Reader, config_of
from limner.training.models.store import load_model, save_model
from limner.training.running import resolve


def small(size: int = 64) -> Reader:
    torch.manual_seed(0)
    return Reader(config_of(AVATAAARS, image_size=size, stem=(8, 16), width=16, blocks=1, heads=2)).eval()


def options_of(avatar: Avatar) -> dict[str, torch.Tensor]:
    """Logits that are sure of an avatar's options."""
    sizes = [len(option.choices) for option in AVATAAARS.options]
    rows = [20.0 * torch.eye(count)[k][None] for count, k in zip(sizes, avatar.options, strict=True)]
    return {option.name: row for option, row in zip(AVATAAARS.options, rows, strict=True)}


def test_attributes_are_those_of_the_options() -> None:
    """The words of 200 avatars, hidden colours among them, out of logits that are sure of their options."""
    reader, rng, hidden = small(), np.random.default_rng(1), 0
    for _ in range(200):
        avatar = sample_avatar(AVATAAARS, rng, independent=True)
        logits = reader.attribute_logits(options_of(avatar))
        read = tuple(int(row.argmax(1)) for row in logits.values())
        assert read == avatar.attribute_indices(AVATAAARS)
        for row in logits.values():
            assert float(row.detach().exp().sum()) == pytest.approx(1.0, abs=1e-4)
        hidden += avatar.attributes(AVATAAARS)["hair_color"] == "hidden"
    assert hidden > 20


def test_draws_with_eyes_brows_and_mouth_on_their_own() -> None:
    """Every pair of mouth and eyes comes; the usual draws know some of them only, and stay what they were."""
    rng = np.random.default_rng(0)
    names = [option.name for option in AVATAAARS.options]
    mouth, eyes = names.index("mouth"), names.index("eyes")
    pairs = {True: set[tuple[int, int]](), False: set[tuple[int, int]]()}
    for independent, seen in pairs.items():
        for _ in range(3000):
            avatar = sample_avatar(AVATAAARS, rng, independent=independent)
            seen.add((avatar.options[mouth], avatar.options[eyes]))
    assert len(pairs[True]) == 56 and len(pairs[False]) < 20
    assert sample_in_split(AVATAAARS, "test", 3) == sample_in_split(AVATAAARS, "test", 3, independent=False)


def test_the_graph_stands_in_for_a_judge(tmp_path: Path) -> None:
    reader = small()
    save_model(tmp_path, "reader", reader.config, reader.state_dict())
    assert export_judge(tmp_path) < 1e-4
    graph = JudgeGraph(tmp_path)
    assert [name for name, _ in graph.attributes] == [name for name, _ in AVATAAARS.attributes]
    pictures = np.stack([render(AVATAAARS, sample_in_split(AVATAAARS, "test", k), 64) for k in range(3)])
    written: Any = load_model(tmp_path)
    read = written.read(torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1)
    for row, words in zip(read, graph.words(pictures), strict=True):
        assert words == {name: values[int(k)] for (name, values), k in zip(graph.attributes, row, strict=True)}
    assert json.loads((tmp_path / "config.json").read_text())["family"] == "reader"


def test_a_picture_is_learnt() -> None:
    """Some steps on eight pictures: the loss falls to a part."""
    avatars = [sample_in_split(AVATAAARS, "train", k, pose=1.0, independent=True) for k in range(8)]
    batch = {
        "image": torch.from_numpy(np.stack([render(AVATAAARS, one, 64) for one in avatars])).permute(0, 3, 1, 2),
        "options": torch.tensor([one.options for one in avatars]),
        "pose": torch.tensor([one.pose for one in avatars], dtype=torch.float32),
        "attributes": torch.tensor([one.attribute_indices(AVATAAARS) for one in avatars]),
    }
    module = ReaderModule(small().train(), AugmentConfig(shift=0), OptimizerConfig(learning_rate=3e-3), 100)
    optimizer = torch.optim.AdamW(module.parameters(), lr=3e-3)
    image = batch["image"].float() / 127.5 - 1
    losses = []
    for _ in range(60):
        loss, _ = module._losses(image, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.3 * losses[0]
    _, right = module._losses(image, batch)
    assert float(right.float().mean()) > 0.9


@pytest.mark.parametrize(("changes", "field"), [({"augmentation": AugmentConfig(shift=2)}, "augment.shift"),
                                                ({"weights": {"nose": 2.0}}, "weights")])  # fmt: skip
def test_settings_that_do_not_fit(changes: dict[str, Any], field: str) -> None:
    given: dict[str, Any] = {"augmentation": AugmentConfig(shift=0), "optimizer": OptimizerConfig(), "max_steps": 1}
    with pytest.raises(InputError, match=field):
        ReaderModule(small(), **given | changes)


def test_the_shipped_run() -> None:
    run: Run = resolve("reader")
    assert run.data.independent and run.augment.shift == 0 and run.data.seed != 0
    assert model_config(run).attributes[4][0] == "expression"


# --- nearest drawings ---------------------------------------------------------------------------------------


def test_distances_by_hand() -> None:
    picture = np.full((128, 128, 3), 100, np.uint8)
    spot = picture.copy()
    spot[40:45, 60:65] = 151  # 51 of 255 over a whole window
    assert distance(picture, picture) == 0.0 and distance(spot, picture) == pytest.approx(0.2)
    assert distance(picture, spot) == pytest.approx(0.2 * 9 / 25)  # its rim finds the same colour beside it
    moved = np.roll(spot, 1, axis=1)
    assert distance(moved, spot) == 0.0  # a pixel is forgiven
    line = picture.copy()
    line[:, 64] = 0
    assert difference(line, picture).max() == pytest.approx(100 / 255)


class Sure(torch.nn.Module):
    """Reads what it is told to."""

    def __init__(self, avatar: Avatar, doubt: tuple[str, int] | None = None) -> None:
        super().__init__()
        self.avatar, self.doubt = avatar, doubt

    def read_options(self, image: torch.Tensor) -> Any:
        options = options_of(self.avatar)
        if self.doubt is not None:
            name, choice = self.doubt
            options[name][0, choice] = 19.9
        return options, torch.tensor([self.avatar.pose]), None


def test_the_search_mends_pose_and_doubts() -> None:
    """The right drawing though the pose was read wrong by 0.15 and the mouth's second choice is the right one."""
    avatar = sample_in_split(AVATAAARS, "test", 5)
    names = [option.name for option in AVATAAARS.options]
    at = names.index("mouth")
    picture = render(AVATAAARS, avatar, 128)
    wrong = list(avatar.options)
    wrong[at] = (wrong[at] + 1) % 8
    pose = (avatar.pose[0], avatar.pose[1] + 0.15, *avatar.pose[2:])
    reader: Any = Sure(Avatar(tuple(wrong), pose), ("mouth", avatar.options[at]))
    (found,) = nearest(reader, AVATAAARS, [picture])
    assert found.avatar.options == avatar.options
    assert found.distance < 0.1
    np.testing.assert_array_equal(found.drawing, render(AVATAAARS, found.avatar, 128))


@pytest.mark.parametrize("name", RUINS)
def test_broken_pictures_are_far_from_any_drawing(name: str) -> None:
    """By a reader that is always right, of 6 pictures: a broken one is farther than the picture it was made of."""
    rng = np.random.default_rng(3)
    for k in range(6):
        avatar, other = (sample_in_split(AVATAAARS, "test", n) for n in (k, k + 50))
        picture = render(AVATAAARS, avatar, 128)
        broken = RUINS[name](picture, render(AVATAAARS, other, 128), rng)
        assert broken.dtype == np.uint8 and broken.shape == picture.shape
        reader: Any = Sure(avatar)
        (whole,), (ruined,) = (nearest(reader, AVATAAARS, [one]) for one in (picture, broken))
        assert whole.distance == 0.0
        assert ruined.distance > 0.03, (k, ruined.distance)


def run_folder(folder: Path) -> None:
    """A run of one edit of two pictures, with what they were before."""
    edit = EditSpec("beard", "facial_hair", "beard", "a person with a beard", "a person")
    names = tuple(name for name, _ in AVATAAARS.attributes)
    header = Header({}, 1, (edit,), names, (), ("real",), {"x": {"edits": ["beard"]}}, 2, {}, "", "cpu", "", None, None)
    run = open_run(folder, header)
    for k in range(2):
        for name in (f"pictures/a/{k}.png", f"pictures/b/{k}.png"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            write_png_atomically(folder / name, render(AVATAAARS, sample_in_split(AVATAAARS, "test", k), 64))
        values = ("x",) * len(names)
        run.add([Row(run.short, "real", "x", "beard", k, f"pictures/a/{k}.png", plain=f"pictures/b/{k}.png",
                     before=values, after=values)])  # fmt: skip
    run.add([Row(run.short, "real", "x", "beard", 2, error="no room")])


def test_distances_of_a_run(tmp_path: Path, limner: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every picture once; the rows and the table have them; a picture that is gone is named."""
    reader = small()
    save_model(tmp_path / "reader", "reader", reader.config, reader.state_dict())
    run_folder(tmp_path / "run")
    done = limner("train", "realism", tmp_path / "run", "--reader", tmp_path / "reader")
    assert done.code == 0 and "| like a drawing |" in done.out, done.err
    found = [row for row in read_run(tmp_path / "run").rows.values() if row.error is None]
    for row in found:  # the same picture, with the edit and without
        assert row.distance == row.distance_before and row.distance is not None and 0 <= row.distance <= 1
    seen = list[str]()
    monkeypatch.setattr("limner.training.families.reader.realism._distances", lambda job: seen.extend(job[1]))
    assert limner("train", "realism", tmp_path / "run", "--reader", tmp_path / "reader").out == done.out
    assert not seen  # known already
    monkeypatch.undo()
    (tmp_path / "run" / "distances.json").unlink()
    (tmp_path / "run" / "pictures/a/0.png").unlink()
    failed = limner("train", "realism", tmp_path / "run", "--reader", tmp_path / "reader")
    assert failed.code == 2 and "pictures/a/0.png" in failed.err
    failed = limner("train", "realism", tmp_path / "run", "--reader", "checkpoints/avatars/judge")
    assert failed.code == 2 and "no second judge" in failed.err
