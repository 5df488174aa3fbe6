"""The e4e encoder: published keys, a forward against a functional reference, stages, losses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.irse_twin import norm
from torch import Tensor
from torch.nn import functional as F

from limner.runtime.errors import InputError
from limner.training.families.augment import AugmentConfig
from limner.training.families.encoder.module import EncoderModule, EncoderTraining
from limner.training.loop.batches import Batch, StepData
from limner.training.loop.runner import OptimizerConfig, TrainerConfig, fit
from limner.training.models.irse import BodyConfig, IdentityConfig, IdentityNet
from limner.training.models.psp import E4E, Codebook, E4eEncoder, EncoderConfig
from limner.training.models.stylegan2 import Generator, StyleGAN2Config

SMALL = EncoderConfig(32, 32, 8, 12, BodyConfig(8, (8, 12, 16), (1, 1, 1), 4), 10, 3, 5)
UNITS = [(0, 2), (1, 2), (1, 2)]


def body(state: dict[str, Tensor], x: Tensor) -> list[Tensor]:
    """Activations after each block, as published."""
    x = F.prelu(norm(F.conv2d(x, state["input_layer.0.weight"], padding=1), state, "input_layer.1"),
                state["input_layer.2.weight"])  # fmt: skip
    found = []
    for i, (projects, stride) in enumerate(UNITS):
        key = f"body.{i}"
        shortcut = F.max_pool2d(x, 1, stride)
        if projects:
            shortcut = norm(F.conv2d(x, state[f"{key}.shortcut_layer.0.weight"], stride=stride), state,
                            f"{key}.shortcut_layer.1")  # fmt: skip
        y = F.conv2d(norm(x, state, f"{key}.res_layer.0"), state[f"{key}.res_layer.1.weight"], padding=1)
        y = F.conv2d(F.prelu(y, state[f"{key}.res_layer.2.weight"]), state[f"{key}.res_layer.3.weight"],
                     stride=stride, padding=1)  # fmt: skip
        y = norm(y, state, f"{key}.res_layer.4")
        gate = F.conv2d(F.adaptive_avg_pool2d(y, 1), state[f"{key}.res_layer.5.fc1.weight"]).relu()
        x = shortcut + y * F.conv2d(gate, state[f"{key}.res_layer.5.fc2.weight"]).sigmoid()
        found.append(x)
    return found


def style(state: dict[str, Tensor], i: int, x: Tensor) -> Tensor:
    layer = 0
    while f"styles.{i}.convs.{layer}.weight" in state:
        key = f"styles.{i}.convs.{layer}"
        x = F.leaky_relu(F.conv2d(x, state[f"{key}.weight"], state[f"{key}.bias"], 2, 1), 0.01)
        layer += 2
    weight = state[f"styles.{i}.linear.weight"]
    return F.linear(x.flatten(1), weight / weight.shape[1] ** 0.5, state[f"styles.{i}.linear.bias"])


def reference(state: dict[str, Tensor], image: Tensor, last: int) -> Tensor:
    """Tov et al.'s forward: one w, repeated, and deltas of layers 1 to `last`."""
    c1, c2, c3 = body(state, image)
    w_plus = style(state, 0, c3)[:, None].repeat(1, SMALL.num_ws, 1)
    features = p2 = c3
    for i in range(1, last + 1):
        if i == SMALL.coarse:
            lateral = F.conv2d(c2, state["latlayer1.weight"], state["latlayer1.bias"])
            features = p2 = F.interpolate(c3, lateral.shape[2:], mode="bilinear", align_corners=True) + lateral
        elif i == SMALL.middle:
            lateral = F.conv2d(c1, state["latlayer2.weight"], state["latlayer2.bias"])
            features = F.interpolate(p2, lateral.shape[2:], mode="bilinear", align_corners=True) + lateral
        w_plus[:, i] += style(state, i, features)
    return w_plus + state["latent_avg"]


@pytest.mark.parametrize("last", [0, 2, 4, 7])
def test_forward_equals_the_reference(last: int) -> None:
    torch.manual_seed(0)
    network = E4eEncoder(SMALL).eval().double()
    network.latent_avg.normal_()
    network.stage = last
    image = torch.rand(2, 3, 32, 32, dtype=torch.float64) * 2 - 1
    found = network(image)
    assert found.shape == (2, 8, 12)
    assert (found - reference(network.state_dict(), image, last)).abs().max() < 1e-6  # resizes are fp32


def test_published_keys_and_shapes() -> None:
    with torch.device("meta"):
        network = E4eEncoder(E4E)
    state = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    assert state["latlayer1.weight"] == (512, 256, 1, 1) and state["latlayer2.weight"] == (512, 128, 1, 1)
    assert len({key.split(".")[1] for key in state if key.startswith("styles.")}) == 18
    convs = {i: max(int(k.split(".")[3]) for k in state if k.startswith(f"styles.{i}.convs")) for i in (0, 3, 7)}
    assert convs == {0: 6, 3: 8, 7: 10}  # 4, 5 and 6 convolutions from 16, 32 and 64 pixels, a leaky ReLU between
    assert state["styles.17.linear.weight"] == (512, 512) and state["latent_avg"] == (18, 512)


def test_other_sizes_are_refused() -> None:
    with pytest.raises(InputError, match="image"):
        E4eEncoder(SMALL)(torch.zeros(1, 3, 16, 16))


class Noise:
    """Random pictures as a data set."""

    def __len__(self) -> int:
        return 8

    def batch(self, indices: object) -> Batch:
        count = len(indices)  # type: ignore[arg-type]
        return {"image": torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8)}


def test_module_trains_the_encoder_alone(tmp_path: Path) -> None:
    generator = Generator(StyleGAN2Config(32, 8, 12, 2, channels={4: 8, 8: 8, 16: 8, 32: 8}))
    identity = IdentityNet(IdentityConfig(32, 16, "none", BodyConfig(8, (8, 16), (1, 1), 4), 8, 0.0))
    before = {k: v.clone() for k, v in generator.state_dict().items()}
    module = EncoderModule(
        E4eEncoder(SMALL), generator, identity, EncoderTraining(image_from=0.0, deltas_from=0.0, deltas_until=0.5),
        AugmentConfig(shift=1), OptimizerConfig(), 4,
        target_w_plus=lambda batch: torch.zeros(len(batch["image"]), 8, 12),
    )  # fmt: skip
    assert [module.stage(step) for step in range(5)] == [0, 4, 7, 7, 7]
    assert not any(p.requires_grad for p in generator.parameters())
    data = StepData(Noise, Noise, 4)
    trainer = fit(module, data, TrainerConfig(4, 4, precision="32-true"), tmp_path, fast_dev_run=True)
    logged = trainer.callback_metrics
    assert {"train/latent", "train/pixel", "train/identity", "train/perceptual", "validation/latent"} <= set(logged)
    for key, value in generator.state_dict().items():
        assert torch.equal(value, before[key]), key
    grid = module.grid()
    assert grid is not None and grid.shape == (8, 3, 32, 32)


def test_losses_of_known_codes_are_those_of_what_w_decodes_to() -> None:
    from limner.training.avatars.attributes import STYLES
    from limner.training.families.encoder.run import SHARPNESS, KnownLatents
    from limner.training.families.stylegan2.warmup import CodeEmbedding

    style = STYLES["avataaars"]
    embedding = CodeEmbedding(style, 128)
    generator = Generator(StyleGAN2Config(32, 8, 128, 2, channels={4: 8, 8: 8, 16: 8, 32: 8}))
    known = KnownLatents(generator, embedding, pose=0.25)
    options = torch.stack([torch.randint(len(o.choices), (6,)) for o in style.options], 1)
    pose = torch.rand(6, 4) / 2 - 0.25
    batch = {"options": options, "pose": pose}
    exact = known.code_losses(known.target(batch), batch)
    sizes = torch.tensor([float(len(o.choices)) for o in style.options])
    expected = torch.log(1 + (sizes - 1) * torch.exp(torch.tensor(-SHARPNESS))).mean()  # one-hot codes
    torch.testing.assert_close(exact["options"], expected, atol=1e-4, rtol=0)
    assert float(exact["pose"]) < 1e-6
    moved = known.code_losses(known.target({"options": options, "pose": pose + 0.125}), batch)
    torch.testing.assert_close(moved["pose"], torch.tensor(0.25), atol=1e-4, rtol=0)  # half of the limits
    other = (options + 1) % sizes.long()
    assert float(known.code_losses(known.target({"options": other, "pose": pose}), batch)["options"]) > 5


def test_codebook_gives_back_latents_of_codes() -> None:
    torch.manual_seed(0)
    book = torch.randn(9, 32)
    codebook = Codebook((4, 3, 2), 32)
    codebook.fill(book)
    code = torch.tensor([[0, 1, 0, 0, 1, 0, 0, 0.5, -0.25]])
    w_plus = (code @ book)[:, None].expand(-1, 5, -1)
    noisy = w_plus + 0.02 * torch.randn(1, 5, 32)
    assert (codebook(w_plus) - w_plus).abs().max() < 1e-3
    found = codebook(noisy)
    assert torch.equal(found[:, 0], found[:, 4])
    assert (found - w_plus).norm() < (noisy - w_plus).norm()
