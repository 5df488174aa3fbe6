"""IR-SE: published keys, a forward against a functional reference, ArcFace, a fit of one step."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from support.irse_twin import norm
from torch import Tensor
from torch.nn import functional as F

from limner.training.avatars.attributes import AVATAAARS
from limner.training.avatars.identities import IdentitiesConfig, avatars
from limner.training.families.identity.module import arcface_logits, area_under_curve, pair_scores
from limner.training.models.irse import IR_SE50, BodyConfig, IdentityConfig, IdentityNet
from limner.training.running import resolve

SMALL = IdentityConfig(32, 16, "none", BodyConfig(8, (8, 16), (2, 2), 4), 12, 0.1)


def reference(state: dict[str, Tensor], x: Tensor, units: list[tuple[int, int]]) -> Tensor:
    """The published network in functional form; `units` are (projects, stride) of each block."""
    x = F.prelu(norm(F.conv2d(x, state["input_layer.0.weight"], padding=1), state, "input_layer.1"),
                state["input_layer.2.weight"])  # fmt: skip
    for i, (projects, stride) in enumerate(units):
        key = f"body.{i}"
        if projects:
            shortcut = F.conv2d(x, state[f"{key}.shortcut_layer.0.weight"], stride=stride)
            shortcut = norm(shortcut, state, f"{key}.shortcut_layer.1")
        else:
            shortcut = F.max_pool2d(x, 1, stride)
        y = F.conv2d(norm(x, state, f"{key}.res_layer.0"), state[f"{key}.res_layer.1.weight"], padding=1)
        y = F.conv2d(F.prelu(y, state[f"{key}.res_layer.2.weight"]), state[f"{key}.res_layer.3.weight"],
                     stride=stride, padding=1)  # fmt: skip
        y = norm(y, state, f"{key}.res_layer.4")
        gate = F.conv2d(F.adaptive_avg_pool2d(y, 1), state[f"{key}.res_layer.5.fc1.weight"]).relu()
        x = shortcut + y * F.conv2d(gate, state[f"{key}.res_layer.5.fc2.weight"]).sigmoid()
    x = norm(x, state, "output_layer.0").flatten(1)
    x = F.linear(x, state["output_layer.3.weight"], state["output_layer.3.bias"])
    x = norm(x, state, "output_layer.4")
    return x / x.norm(dim=1, keepdim=True)


def shaken(config: IdentityConfig) -> IdentityNet:
    """A network whose norms and slopes are not at their start values."""
    torch.manual_seed(0)
    network = IdentityNet(config).eval()
    for name, value in network.state_dict().items():
        if value.is_floating_point() and value.ndim == 1:
            value.copy_(torch.rand(value.shape) * (1.0 if "var" in name else 0.5) + 0.5)
    return network.double()


def test_small_network_equals_the_reference() -> None:
    network, image = shaken(SMALL), torch.rand(2, 3, 32, 32, dtype=torch.float64) * 2 - 1
    expected = reference(network.state_dict(), F.adaptive_avg_pool2d(image, 16), [(0, 2), (0, 1), (1, 2), (0, 1)])
    assert (network(image) - expected).abs().max() < 1e-7  # the resize's matrix is fp32


def test_published_keys_and_shapes() -> None:
    with torch.device("meta"):
        network = IdentityNet(IR_SE50)
    state = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    assert len({key.split(".")[1] for key in state if key.startswith("body.")}) == 24
    assert state["input_layer.0.weight"] == (64, 3, 3, 3)
    assert state["body.3.shortcut_layer.0.weight"] == (128, 64, 1, 1)
    assert "body.0.shortcut_layer.0.weight" not in state  # 64 to 64 channels takes every other pixel
    assert state["body.23.res_layer.5.fc1.weight"] == (32, 512, 1, 1)
    assert state["body.21.res_layer.3.weight"] == (512, 512, 3, 3)
    assert state["output_layer.3.weight"] == (512, 512 * 7 * 7) and state["output_layer.4.weight"] == (512,)
    parameters = sum(value.numel() for value in network.parameters())
    assert parameters == 43_797_696  # as published for IR-SE50 with a 512-d embedding


def test_any_size_and_unit_length() -> None:
    network = IdentityNet(SMALL).eval()
    keys = list(network.state_dict())
    for size in (32, 48, 16):
        assert torch.allclose(network(torch.randn(2, 3, size, size)).norm(dim=1), torch.ones(2))
    assert list(network.state_dict()) == keys


def test_arcface_against_angles() -> None:
    cosine = torch.tensor([[0.5, -0.2], [0.1, 0.9]], dtype=torch.float64)
    found = arcface_logits(cosine, torch.tensor([0, 1]), 10.0, 0.3)
    assert torch.allclose(found[0, 0], torch.tensor(10 * math.cos(math.acos(0.5) + 0.3), dtype=torch.float64))
    assert torch.allclose(found[1, 1], torch.tensor(10 * math.cos(math.acos(0.9) + 0.3), dtype=torch.float64))
    assert float(found[0, 1]) == -2.0 and float(found[1, 0]) == 1.0
    assert arcface_logits(cosine, torch.tensor([0, 1]), 10.0, 0.0).allclose(10 * cosine)


def test_area_under_curve_against_all_pairs() -> None:
    generator = torch.Generator().manual_seed(0)
    same = torch.randint(0, 8, (40,), generator=generator).double()
    different = torch.randint(0, 6, (50,), generator=generator).double()
    wins = (same[:, None] > different[None]).double() + 0.5 * (same[:, None] == different[None]).double()
    assert area_under_curve(same, different) == pytest.approx(float(wins.mean()))


def test_pair_scores_counts_each_pair_once() -> None:
    same, different = pair_scores(torch.eye(4), torch.tensor([0, 0, 1, 1]))
    assert len(same) == 2 and len(different) == 4


def test_identities_vary_only_what_is_no_identity() -> None:
    rows = avatars(IdentitiesConfig(identities=6, pictures=5), "test")
    texts = [avatar.identity(AVATAAARS) for avatar in rows]
    assert [len(set(texts[i : i + 5])) for i in range(0, 30, 5)] == [1] * 6 and len(set(texts)) == 6
    backgrounds = {avatar.attributes(AVATAAARS)["background"] for avatar in rows}
    assert len(backgrounds) > 2
    assert rows == avatars(IdentitiesConfig(identities=6, pictures=5), "test")


def test_fast_dev_run_and_checkpoint(tmp_path: Path) -> None:
    from limner.training.families.identity import run as family
    from limner.training.loop.runner import fit

    run = resolve("identity", overrides=[
        "data.size=32", "data.identities=4", "data.pictures=2", "held_out=3", "model.image_size=32",
        "model.input_size=16", "model.body={stem: 8, widths: [8, 16], units: [1, 1], reduction: 4}",
        "model.embedding=12", "trainer.batch_size=4", "trainer.precision=32-true", "trainer.validation_limit=8",
    ])  # fmt: skip
    module, data = family.build(run, tmp_path / "cache")
    fit(module, data, run.trainer, tmp_path / "run", run, fast_dev_run=True)
    figures = family.save(run, module, tmp_path / "identity", tmp_path / "cache")
    assert 0 <= figures["area under the curve, same against different"] <= 1
