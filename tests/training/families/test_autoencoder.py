"""The autoencoder: losses against formulas, gradients that reach one side only, checkpoint, a tiny run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.small_autoencoder import IDENTITY, MODEL, module

from limner.runtime.errors import InputError
from limner.training.avatars.dataset import AvatarsConfig, AvatarsDataset
from limner.training.families.autoencoder import run as autoencoder
from limner.training.families.autoencoder.figures import latent_deviation
from limner.training.families.autoencoder.module import (
    correlation,
    kl_divergence,
    perceptual_distance,
    psnr,
)
from limner.training.models.diffusion import (
    AutoencoderConfig,
    build_autoencoder,
    load_autoencoder,
    save_autoencoder,
)
from limner.training.models.irse import IdentityNet
from limner.training.models.store import save_model
from limner.training.running import resolve, run_family


def test_kl_against_numbers() -> None:
    mean, logvar = torch.tensor([[0.5, -1.0]]), torch.tensor([[0.0, -2.0]])
    m, v = mean.double().numpy(), np.exp(logvar.double().numpy())
    wanted = (0.5 * (m**2 + v - 1 - np.log(v))).mean()
    assert float(kl_divergence(mean, logvar)) == pytest.approx(wanted, rel=1e-6)


def test_correlation_against_numpy() -> None:
    rng = np.random.default_rng(0)
    latents = rng.normal(size=(3, 4, 5, 6))
    latents[:, 2] = 0.5 * latents[:, 0] + 7  # says the same as another channel
    table = np.asarray(np.corrcoef(latents.transpose(1, 0, 2, 3).reshape(4, -1)))
    expected = np.mean([table[i, j] ** 2 for i in range(4) for j in range(4) if i != j])
    assert float(correlation(torch.from_numpy(latents))) == pytest.approx(expected, rel=1e-5)
    assert float(correlation(torch.from_numpy(latents[:, :1]))) == 0  # one channel has no other


def test_terms_are_left_out_unless_asked_for() -> None:
    image = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    made = image + 0.5
    assert "square" not in module(perceptual=0.0).reconstruction(made, image)
    found = module(perceptual=0.0, square=1.0).reconstruction(made, image)
    assert float(found["square"]) == pytest.approx(0.25)


def test_psnr_of_one_grey_level_and_of_equal_pictures() -> None:
    a = torch.full((1, 3, 4, 4), -1.0)
    assert float(psnr(a, a + 2 / 255)) == pytest.approx(20 * np.log10(255), abs=1e-3)
    assert float(psnr(a, a)) > 70


@torch.no_grad()
def test_perceptual_distance_against_loops() -> None:
    net = IdentityNet(IDENTITY).eval()
    a, b = torch.rand(2, 3, 32, 32) * 2 - 1, torch.rand(2, 3, 32, 32) * 2 - 1
    wanted = []
    for row in range(2):
        terms = []
        for x, y in zip(net.maps(a[row : row + 1]), net.maps(b[row : row + 1]), strict=True):
            p, q = x[0].double().numpy(), y[0].double().numpy()
            p, q = p / np.linalg.norm(p, axis=0), q / np.linalg.norm(q, axis=0)
            terms.append(((p - q) ** 2).sum(0).mean())
        wanted.append(np.mean(terms))
    np.testing.assert_allclose(perceptual_distance(net, a, b).numpy(), wanted, rtol=1e-4)


def test_adversarial_gradients_reach_one_side_each() -> None:
    """What the sum leaves in the discriminator is its own hinge loss alone; the autoencoder gets none of that."""
    net = module(adversarial=0.7)
    image = torch.rand(2, 3, 32, 32) * 2 - 1
    made = net.network.decode(net.network.encode(image).latent_dist.mean).sample
    reconstruction = (made - image).abs().mean()
    losses: dict[str, torch.Tensor] = {}
    (reconstruction + net._adversarial(reconstruction, made, image, losses)).backward()
    assert net.discriminator is not None
    found = [p.grad.clone() for p in net.discriminator.parameters() if p.grad is not None]
    last = net.network.decoder.conv_out.weight.grad
    assert last is not None

    net.zero_grad()
    made = net.network.decode(net.network.encode(image).latent_dist.mean).sample
    own = 0.5 * (
        torch.relu(1 - net.discriminator(image)).mean() + torch.relu(1 + net.discriminator(made.detach())).mean()
    )
    for a, b in zip(found, torch.autograd.grad(own, list(net.discriminator.parameters())), strict=True):
        torch.testing.assert_close(a, b)
    pixel, fooled = (made - image).abs().mean(), -net.discriminator(made).mean()
    weight = net.network.decoder.conv_out.weight
    (g_pixel,) = torch.autograd.grad(pixel, weight, retain_graph=True)
    (g_fooled,) = torch.autograd.grad(fooled, weight)
    ratio = g_pixel.norm() / (g_fooled.norm() + 1e-6)
    assert float(losses["ratio"]) == pytest.approx(float(ratio), rel=1e-4)
    torch.testing.assert_close(last, g_pixel + 0.7 * ratio * g_fooled, rtol=1e-3, atol=1e-6)


def test_a_step_is_a_function_of_seed_and_step() -> None:
    net = module(adversarial=0.0)
    batch = {"image": torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)}
    with torch.no_grad():
        assert float(net.training_step(batch, 0)) == float(net.training_step(batch, 5))


def test_checkpoint_is_diffusers_own_format(tmp_path: Path) -> None:
    from diffusers import AutoencoderKL

    network = build_autoencoder(MODEL)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    save_autoencoder(tmp_path / "model", network, 0.25)
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    found = AutoencoderKL.from_pretrained(str(tmp_path / "model"))
    assert found.config.scaling_factor == 0.25
    for name, value in load_autoencoder(tmp_path / "model").state_dict().items():
        torch.testing.assert_close(value, before[name].half().float(), rtol=0, atol=0)


def test_a_folder_that_is_no_autoencoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="AutoencoderKL"):
        load_autoencoder(tmp_path)
    (tmp_path / "config.json").write_text('{"_class_name": "UNet2DConditionModel"}')
    with pytest.raises(InputError, match="UNet2DConditionModel"):
        load_autoencoder(tmp_path)


@pytest.mark.parametrize("wrong", [{"widths": (8,)}, {"widths": (8, 12), "groups": 8}, {"size": 36}])
def test_sizes_that_do_not_fit_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="allowed"):
        AutoencoderConfig(**{"size": 32, "widths": (8, 8, 8, 16), "groups": 4, **wrong})


def test_tiny_run_resumes_and_writes_a_card(tiny_cache: Path, tmp_path: Path, tiny_data: dict[str, object]) -> None:
    save_model(tmp_path / "identity", "identity", IDENTITY, IdentityNet(IDENTITY).state_dict())
    values = [
        f"data={tiny_data}", f"identity={tmp_path / 'identity'}", "judge=",
        "model={size: 32, widths: [8, 8, 8, 16], groups: 4}", "training.adversarial=0.05",
        "training.adversarial_from=0.5", "training.perceptual=0.1",
        "trainer.batch_size=8", "trainer.validation_limit=8", "trainer.validate_every=2",
        "trainer.checkpoint_every=2",
    ]  # fmt: skip
    run = resolve("autoencoder", overrides=[*values, "trainer.max_steps=2"])
    run_family("autoencoder", run, tmp_path / "run", tmp_path / "model", tiny_cache)
    run = resolve("autoencoder", overrides=[*values, "trainer.max_steps=4"])
    figures = run_family("autoencoder", run, tmp_path / "run", tmp_path / "model", tiny_cache, resume=True)
    assert figures["test pictures"] == 8
    network = load_autoencoder(tmp_path / "model")
    deviation = latent_deviation(network, AvatarsDataset(AvatarsConfig(size=32, train=24, validation=8, test=8),
                                                         "train", tiny_cache))  # fmt: skip
    assert network.config.scaling_factor * deviation == pytest.approx(1, rel=1e-2)
    card = (tmp_path / "model" / "README.md").read_text()
    sizes = network.config.latent_channels, 2 ** (len(network.config.block_out_channels) - 1)
    assert "## Licence" in card and f"latents with {sizes[0]} channels and 1/{sizes[1]}\nof its sides" in card
    assert (tmp_path / "model" / "reconstructions.png").is_file()
    assert list((tmp_path / "run" / "grids").glob("*.png"))
    start = [*values, f"start={tmp_path / 'model'}"]
    later, _ = autoencoder.build(resolve("autoencoder", overrides=start), tiny_cache)
    for name, value in network.state_dict().items():
        assert torch.equal(later.network.state_dict()[name], value)
    with pytest.raises(InputError, match="of other sizes"):
        autoencoder.build(resolve("autoencoder", overrides=[*start, "model.widths=[8, 8, 8, 8]"]), tiny_cache)


def test_a_decoder_that_goes_on_alone_leaves_the_latents_as_they_are(
    tiny_cache: Path, tmp_path: Path, tiny_data: dict[str, object]
) -> None:
    torch.manual_seed(0)
    first = build_autoencoder(AutoencoderConfig(32, (8, 8, 16), groups=4))
    save_autoencoder(tmp_path / "first", first, 0.25)
    values = [
        f"data={tiny_data}", "identity=", "judge=", "model={size: 32, widths: [8, 8, 16], groups: 4}",
        "model.latent_channels=4", "training.decoder_only=true", "trainer.batch_size=8", "trainer.validation_limit=8",
        "trainer.max_steps=2", "optimizer.name=muon",
    ]  # fmt: skip
    run = resolve("autoencoder", overrides=[*values, f"start={tmp_path / 'first'}"])
    run_family("autoencoder", run, tmp_path / "run", tmp_path / "model", tiny_cache)
    before, after = (load_autoencoder(tmp_path / name) for name in ("first", "model"))
    changed = {name for name, value in after.state_dict().items() if not torch.equal(value, before.state_dict()[name])}
    assert changed and all(name.startswith(("decoder.", "post_quant_conv.")) for name in changed)
    assert after.config.scaling_factor == 0.25
    with pytest.raises(InputError, match="decoder_only is true without `start`"):
        resolve("autoencoder", overrides=values)
