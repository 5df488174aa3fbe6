"""Over-driven codes: what changes, what stays, and the truncation towards the mean."""

import torch

from limner.training.avatars.attributes import POSE_NAMES, STYLES
from limner.training.families.stylegan2.overdrive import Overdrive, OverdriveConfig
from limner.training.families.stylegan2.warmup import CodeEmbedding

STYLE = STYLES["avataaars"]


def codes(count: int = 64) -> torch.Tensor:
    torch.manual_seed(1)
    options = torch.stack([torch.randint(len(o.choices), (count,)) for o in STYLE.options], 1)
    return CodeEmbedding(STYLE, 8).encode(options, torch.rand(count, len(POSE_NAMES)) * 2 - 1)


def test_off_leaves_codes_alone() -> None:
    code = codes()
    rows, rgb = Overdrive(STYLE, OverdriveConfig())(code, 5)
    assert torch.equal(rows, code[:, None].expand(-1, 5, -1))
    assert torch.equal(rows, rgb)


def test_one_group_moves_and_the_target_wins() -> None:
    code = codes()
    overdrive = Overdrive(STYLE, OverdriveConfig(probability=1.0, least=1.5, layer_spread=0.0, plain_rgb=0.0))
    rows, rgb = overdrive(code, 3)
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
    rows, rgb = Overdrive(STYLE, OverdriveConfig(probability=1.0, plain_rgb=1.0))(code, 3)
    assert not torch.allclose(rows, rgb)
    assert torch.equal(rgb, rgb[:, :1].expand(-1, 3, -1))


def test_truncation_moves_towards_the_mean_but_for_the_pose() -> None:
    code = codes()
    overdrive = Overdrive(STYLE, OverdriveConfig(truncation=1.0, truncation_least=0.5))
    rows, _ = overdrive(code, 2)
    pose = len(POSE_NAMES)
    assert torch.equal(rows[:, 0, -pose:], code[:, -pose:])
    psi = ((rows[:, 0] - overdrive.mean) / (code - overdrive.mean))[:, :-pose]
    assert float(psi.min()) >= 0.5 - 1e-4
    assert float(psi.max()) <= 1 + 1e-4
    assert float(psi.std()) > 0.05
