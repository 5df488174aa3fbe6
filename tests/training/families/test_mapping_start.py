"""The constructed mapping network follows its coupling, in fp16 storage too; the shift of w changes no picture."""

import copy

import pytest
import torch

from limner.runtime.errors import InputError
from limner.training.avatars.attributes import STYLES
from limner.training.families.stylegan2.mapping import Coupling
from limner.training.families.stylegan2.mapping_start import construct, shift_to_positive
from limner.training.families.stylegan2.warmup import CodeEmbedding
from limner.training.models.stylegan2 import Generator, StyleGAN2Config

STYLE = STYLES["avataaars"]


def networks(w_dim: int = 256, n_mlp: int = 8) -> tuple[Generator, CodeEmbedding]:
    torch.manual_seed(0)
    config = StyleGAN2Config(size=8, z_dim=64, w_dim=w_dim, n_mlp=n_mlp, channels={4: 16, 8: 16})
    return Generator(config).requires_grad_(False), CodeEmbedding(STYLE, w_dim).requires_grad_(False)


def test_shift_keeps_pictures_and_lifts_w() -> None:
    generator, embedding = networks()
    coupling = Coupling(STYLE, 64)
    options, pose = coupling(torch.randn(40, 64))
    before = generator.synthesis(generator.broadcast(embedding(embedding.encode(options, pose))))
    shift_to_positive(generator, embedding)
    w = embedding(embedding.encode(options, pose))
    assert float(w.min()) > 0
    after = generator.synthesis(generator.broadcast(w))
    assert float((after - before).abs().max()) < 1e-4 * float(before.abs().max())


def test_constructed_mapping_follows_the_coupling() -> None:
    """Off the ramps (about 0.5 % of z for each of some 80 thresholds) w is the code's own."""
    generator, embedding = networks()
    coupling = Coupling(STYLE, 64)
    shift_to_positive(generator, embedding)
    construct(generator, embedding, coupling)
    stored = {k: v.half().float() for k, v in generator.style.state_dict().items()}
    assert all(torch.equal(stored[k], v) for k, v in generator.style.state_dict().items())  # nothing lost in fp16
    z = torch.randn(4000, 64)
    options, pose = coupling(z)
    target = embedding(embedding.encode(options, pose))
    distance = (generator.mapping(z) - target).abs().mean(1)
    spread = float(target.std(0).mean())
    assert float(distance.median()) < 0.02 * spread
    assert float((distance < 0.05 * spread).float().mean()) > 0.6
    assert float(distance.mean()) < 0.05 * spread


def test_samples_have_the_poses_of_the_pictures() -> None:
    """Poses beyond those of the data would be drawn by a generator that never saw them."""
    generator, embedding = networks()
    coupling = Coupling(STYLE, 64, pose=0.25)
    shift_to_positive(generator, embedding)
    construct(generator, embedding, coupling)
    z = torch.randn(4000, 64)
    pose = coupling(z)[1]
    assert 0.24 < float(pose.abs().max()) <= 0.25
    torch.testing.assert_close(pose, 0.25 * Coupling(STYLE, 64)(z)[1])
    decoded = (generator.mapping(z) @ torch.linalg.pinv(embedding.weight.double()).float())[:, -4:]
    assert float((decoded - pose).abs().median()) < 0.01
    assert float(decoded.abs().max()) < 0.3


@pytest.mark.parametrize("style", sorted(STYLES))
@pytest.mark.parametrize("batch", [1, 3])  # torch sums small batches in another order
def test_constructed_mapping_is_accurate_in_fp32(style: str, batch: int) -> None:
    """Against float64 of the same weights, which a few steps of training may have moved. Ramps 80 times as steep as
    their input take the rounding of z's projections along, 2e-7, to 2e-5 of one choice; nothing else is amplified."""
    generator, coupling = networks()[0], Coupling(STYLES[style], 64)
    embedding = CodeEmbedding(STYLES[style], 256).requires_grad_(False)
    shift_to_positive(generator, embedding)
    construct(generator, embedding, coupling)
    for nudge in (0.0, 1e-3):
        for parameter in generator.style.parameters():
            parameter.add_(nudge * torch.randn_like(parameter).sign())
        z = torch.randn(150, 64, generator=torch.Generator().manual_seed(1))
        exact = copy.deepcopy(generator.style).double()(z.double())
        found = torch.cat([generator.mapping(part) for part in z.split(batch)]).double()
        assert float((found - exact).norm() / exact.norm()) < 1e-5
        assert float(((found - exact).norm(dim=1) / exact.norm(dim=1)).max()) < 3e-5


@pytest.mark.parametrize(("w_dim", "n_mlp", "field"), [(64, 8, "model.w_dim"), (256, 4, "model.n_mlp")])
def test_too_small_networks_are_refused(w_dim: int, n_mlp: int, field: str) -> None:
    generator, embedding = networks(w_dim, n_mlp)
    with pytest.raises(InputError, match=field):
        construct(generator, embedding, Coupling(STYLE, 64))
