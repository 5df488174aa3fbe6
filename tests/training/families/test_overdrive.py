"""Over-driven codes: what changes, what stays, and the truncation towards the mean."""

from pathlib import Path

import numpy as np
import pytest
import torch

from limner.training.avatars.attributes import POSE_NAMES, STYLES
from limner.training.avatars.dataset import AvatarsConfig, AvatarsDataset
from limner.training.families.stylegan2.overdrive import Overdrive, OverdriveConfig
from limner.training.families.stylegan2.run import Run, build
from limner.training.families.stylegan2.stand_ins import StandIns, stand_ins
from limner.training.families.stylegan2.warmup import CodeEmbedding, WarmupConfig, WarmupModule
from limner.training.loop.runner import TrainerConfig
from limner.training.models.stylegan2 import Generator, StyleGAN2Config

STYLE = STYLES["avataaars"]


def codes(count: int = 64) -> torch.Tensor:
    torch.manual_seed(1)
    options = torch.stack([torch.randint(len(o.choices), (count,)) for o in STYLE.options], 1)
    return CodeEmbedding(STYLE, 8).encode(options, torch.rand(count, len(POSE_NAMES)) * 2 - 1)


def test_off_leaves_codes_alone() -> None:
    code = codes()
    rows, rgb, _ = Overdrive(STYLE, OverdriveConfig())(code, 5)
    assert torch.equal(rows, code[:, None].expand(-1, 5, -1))
    assert torch.equal(rows, rgb)


def test_one_group_moves_and_the_target_wins() -> None:
    code = codes()
    overdrive = Overdrive(STYLE, OverdriveConfig(probability=1.0, least=1.5, layer_spread=0.0, plain_rgb=0.0))
    rows, rgb, _ = overdrive(code, 3)
    assert torch.equal(rows, rgb)
    sizes = [*(len(o.choices) for o in STYLE.options), len(POSE_NAMES)]
    names = [*(o.name for o in STYLE.options), "pose"]
    for moved, still in zip(rows[:, 0], code, strict=True):
        parts = zip(names, moved.split(sizes), still.split(sizes), strict=True)
        changed = [name for name, a, b in parts if not torch.allclose(a, b)]
        assert "pose" not in changed
        assert len(changed) == 1 or set(changed) <= {"mouth", "eyes", "eyebrows"}
    value = code @ overdrive.value_mean  # what the attribute value of the target looks like
    gain = ((rows[:, 0] - code) * (value - overdrive.mean)).sum(1)
    assert float((gain > 0).float().mean()) > 0.9  # moved towards the target's value; equal sources may not


def test_plain_rgb_keeps_the_source_in_to_rgb_styles() -> None:
    code = codes()
    torch.manual_seed(2)
    rows, rgb, _ = Overdrive(STYLE, OverdriveConfig(probability=1.0, plain_rgb=1.0))(code, 3)
    assert not torch.allclose(rows, rgb)
    assert torch.equal(rgb, rgb[:, :1].expand(-1, 3, -1))


def test_truncation_moves_towards_the_mean_but_for_the_pose() -> None:
    code = codes()
    overdrive = Overdrive(STYLE, OverdriveConfig(truncation=1.0, truncation_least=0.5))
    rows, *_ = overdrive(code, 2)
    pose = len(POSE_NAMES)
    assert torch.equal(rows[:, 0, -pose:], code[:, -pose:])
    psi = ((rows[:, 0] - overdrive.mean) / (code - overdrive.mean))[:, :-pose]
    assert float(psi.min()) >= 0.5 - 1e-4
    assert float(psi.max()) <= 1 + 1e-4
    assert float(psi.std()) > 0.05


def test_a_value_alone_is_told_for_its_stand_in() -> None:
    code = codes(300)
    config = OverdriveConfig(least=1.0, most=1.0, layer_spread=0.0, plain_rgb=1.0, variant=(1.0, 1.0))
    overdrive = Overdrive(STYLE, config)
    hair = len(STYLE.options[0].choices)
    told = torch.where(torch.arange(300) % 2 == 0, code[:, :hair].argmax(1), -1)
    rows, source, _ = overdrive(code, 1, told)
    offset = (rows - source)[:, 0]
    assert not offset[1::2].any()  # nothing else is over-driven
    expected = ((code @ overdrive.value_mean) - overdrive.mean)[::2, :hair]
    torch.testing.assert_close(offset[::2, :hair], expected)
    assert not offset[::2, hair:].any()
    long = [k for k, choice in enumerate(STYLE.options[0].choices) if choice[1] == "long"]
    same = offset[::2][[int(k) in long for k in told[::2]]][:, long]
    assert float((same - same[:1, :1]).abs().max()) < 1e-6  # the six variants of long hair cannot be told apart


def test_stand_ins_are_drawn_beside_the_data(tmp_path: Path) -> None:
    assert stand_ins(STYLE)[0, STYLE.options[0].values.index("straight01")] == 6
    assert stand_ins(STYLE)[0, STYLE.options[0].values.index("none")] == 1
    assert {STYLE.options[place].name for place, _ in stand_ins(STYLE)} == {
        "hair",
        "facial_hair",
        "eyewear",
        "mouth",
        "clothes",
    }
    data = AvatarsDataset(AvatarsConfig(size=32, train=400, validation=8, test=8), "train", tmp_path)
    drawn = StandIns(data, 0.5)
    indices = np.arange(200)
    batch = drawn.batch(indices)
    told = batch["stand_in"]
    assert 70 < int((told >= 0).sum()) < 130
    assert bool((batch["options"][told < 0] == data.batch(indices[(told < 0).numpy()])["options"]).all())
    sizes = [len(option.choices) for option in STYLE.options]
    code = CodeEmbedding(STYLE, 8).encode(batch["options"], batch["pose"])
    shown = code.gather(1, told.clamp(min=0)[:, None])[:, 0]
    assert bool((shown[told >= 0] == 1).all())  # the picture shows what its code will tell by the value alone
    again = drawn.batch(indices)
    assert all(torch.equal(again[name], batch[name]) for name in batch)
    assert set(told.tolist()) - {-1} <= {sum(sizes[:place]) + k for place, k in stand_ins(STYLE)}


def test_options_move_one_by_one() -> None:
    code = codes(400)
    overdrive = Overdrive(STYLE, OverdriveConfig(probability=1.0, apart=True, plain_rgb=1.0))
    rows, source, _ = overdrive(code, 1)
    sizes = [*(len(o.choices) for o in STYLE.options), len(POSE_NAMES)]
    names = [*(o.name for o in STYLE.options), "pose"]
    found = {
        tuple(n for n, part in zip(names, row.split(sizes), strict=True) if float(part.abs().sum()) > 1e-6)
        for row in (rows - source)[:, 0]
    }
    assert {("mouth",), ("eyes",), ("eyebrows",), ("mouth", "eyes", "eyebrows")} <= found


def test_sparse_offsets_are_of_the_channels_that_move_most() -> None:
    config = StyleGAN2Config(size=8, z_dim=16, w_dim=16, n_mlp=2, channels={4: 8, 8: 8})
    torch.manual_seed(3)
    over = OverdriveConfig(probability=1.0, sparse=1.0, sparse_most=0.9)
    module = WarmupModule(Generator(config), CodeEmbedding(STYLE, 16), WarmupConfig(overdrive=over))
    generator, mean = module.generator, module.overdrive.mean
    draws = torch.cat(
        [torch.eye(len(o.choices))[part.multinomial(20_000, replacement=True)]
         for o, part in zip(STYLE.options, mean.split(module.embedding.sizes)[:-1], strict=True)]
        + [torch.zeros(20_000, len(POSE_NAMES))], 1,
    )  # fmt: skip
    deviations = module.affine(draws[:, None].expand(-1, generator.num_ws, -1)).std(0)
    offset = torch.randn(5, len(deviations))
    counted = torch.rand(len(deviations)) < 0.7
    thresholds = torch.tensor([0.0, 0.2, 0.5, 0.8, 1.0])
    size = offset.abs() / deviations
    wanted = size >= thresholds[:, None] * (size * counted).amax(1, keepdim=True)
    found = module.moves_most(offset, thresholds, counted)
    assert bool(found[0].all())
    assert int((found[4] & counted).sum()) == 1
    assert float((found == wanted).float().mean()) > 0.97  # deviations of 20,000 draws are off by half a percent


def test_sparse_offsets_leave_to_rgb_alone() -> None:
    code = codes()
    over = OverdriveConfig(probability=1.0, plain_rgb=0.0, sparse=1.0, sparse_most=0.5)
    rows, rgb, thresholds = Overdrive(STYLE, over)(code, 3)
    assert torch.equal(rgb, rgb[:, :1].expand(-1, 3, -1))
    assert not torch.allclose(rows, rgb)
    assert float(thresholds.min()) > 0 and float(thresholds.max()) <= 0.5


@pytest.mark.parametrize(
    "settings", [{"stand_in": 1.5}, {"probability": -0.1}, {"sparse": 0.5}, {"sparse": 0.5, "truncation": 0.5}]
)
def test_shares_that_are_none_and_offsets_of_nothing_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"overdrive\.\w+: got -?\d\.\d; allowed: 0"):
        OverdriveConfig(**settings)  # type: ignore[arg-type]


def test_stand_ins_alone_leave_to_rgb_as_they_are_asked_to() -> None:
    config = StyleGAN2Config(size=8, z_dim=16, w_dim=16, n_mlp=2, channels={4: 8, 8: 8})
    over = OverdriveConfig(probability=0.0, stand_in=1.0, plain_rgb=1.0)
    module = WarmupModule(
        Generator(config), CodeEmbedding(STYLE, 16), WarmupConfig(overdrive=over, jitter=0.0, blend_probability=0.0)
    )
    options = torch.stack([torch.randint(len(o.choices), (30,)) for o in STYLE.options], 1)
    batch = {"options": options, "pose": torch.zeros(30, len(POSE_NAMES)), "stand_in": options[:, 0]}
    torch.manual_seed(4)
    made = module._styles(batch)
    torch.manual_seed(4)
    torch.rand(30, 1), torch.rand(30, 1), torch.randperm(30)  # of the blending, before
    code = module.embedding.encode(options, batch["pose"])
    rows, rgb, _ = module.overdrive(code, module.generator.num_ws, options[:, 0])
    is_rgb = torch.cat([torch.full((s.channels,), s.kind == "to_rgb") for s in module.generator.layers])
    torch.testing.assert_close(made[:, is_rgb], module.affine(rgb)[:, is_rgb])
    torch.testing.assert_close(made[:, ~is_rgb], module.affine(rows)[:, ~is_rgb])
    assert not torch.allclose(module.affine(rows)[:, is_rgb], made[:, is_rgb])


@pytest.mark.parametrize(("stage", "kind"), [("warmup", StandIns), ("adversarial", AvatarsDataset)])
def test_a_discriminator_sees_the_data_as_it_is(tmp_path: Path, stage: str, kind: type) -> None:
    run = Run(
        stage=stage,  # type: ignore[arg-type]
        data=AvatarsConfig(size=32, train=16, validation=8, test=8),
        model=StyleGAN2Config(size=32, z_dim=16, w_dim=16, n_mlp=2, channels={4: 8, 8: 8, 16: 8, 32: 8}),
        warmup=WarmupConfig(stages=((32, 1),), overdrive=OverdriveConfig(stand_in=0.5)),
        trainer=TrainerConfig(average_decay=0.0, precision="32-true"),
    )
    _, data = build(run, tmp_path)
    assert type(data.sources["train"]()) is kind  # type: ignore[attr-defined]
