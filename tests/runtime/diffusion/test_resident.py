"""The loop whose latents stay on the device, against the loop on the host: all samplers, on ONNX Runtime's CPU."""

import dataclasses
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from support.toy_diffusion import build_toy_diffusion_bundle

from limner.runtime.diffusion import resident
from limner.runtime.diffusion.networks import DiffusionNetworks
from limner.runtime.diffusion.samplers.by_name import SAMPLERS, make_sampler
from limner.runtime.diffusion.samplers.schedule import SchedulerConfig
from limner.runtime.diffusion.sampling import Draws, generate, new_sampler
from limner.runtime.errors import GraphError, InputError, ProviderError
from limner.runtime.graphs.binding import BoundGraph, Linear, to_device
from limner.runtime.graphs.linear import linear_graph
from limner.runtime.graphs.sessions import Sessions
from limner.runtime.settings import SamplerName, SamplingParameters

# Relative to the largest, after five or six steps: terms are added in another order, and this network makes more of
# that (2e-7 in the first latents becomes 3e-6 in three steps and 3e-4 in twelve).
TOLERANCE = 1e-4
SD = {"beta_start": 0.00085, "beta_end": 0.012, "clip_sample": False, "beta_schedule": "scaled_linear"}


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> DiffusionNetworks:
    bundle = build_toy_diffusion_bundle(tmp_path_factory.mktemp("resident") / "bundle")
    return DiffusionNetworks.from_bundle(bundle, Sessions(bundle, threads=1))


def with_scheduler(networks: DiffusionNetworks, **changes: Any) -> DiffusionNetworks:
    config = SchedulerConfig.from_dict(SD | changes)
    return DiffusionNetworks(networks.graphs, networks.meta, networks.tokenizer, config)


def resident_generate(networks: DiffusionNetworks, parameters: SamplingParameters, count: int) -> np.ndarray:
    """`generate` as it goes where the graphs run on a device of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resident, "can_stay", lambda graphs, sampler: True)
        return generate(networks, ["ab", "cd ef"][:count], list(range(count)), parameters, negative="x")


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("name", SAMPLERS)
def test_against_the_loop_on_the_host(networks: DiffusionNetworks, name: SamplerName, prediction: str) -> None:
    mine = with_scheduler(networks, prediction_type=prediction, skip_prk_steps=prediction != "epsilon")
    steps = 4 if name in ("ddpm", "unipc", "dpm-solver++-sde") else 6  # they add up more terms a step
    parameters = SamplingParameters(steps=steps, guidance_scale=3.0, sampler=name)
    expected = generate(mine, ["ab", "cd ef"], [0, 1], parameters, negative="x")
    rows = mine.unet_rows
    found = resident_generate(mine, parameters, 2)
    assert mine.unet_rows == 2 * rows
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() <= TOLERANCE * np.abs(expected).max()


@pytest.mark.parametrize(("name", "eta", "scale"), [("ddim", 1.0, 5.0), ("ddim", 0.3, 1.0), ("lms", 0.0, 1.0)])
def test_noise_and_no_guidance(networks: DiffusionNetworks, name: SamplerName, eta: float, scale: float) -> None:
    parameters = SamplingParameters(steps=5, guidance_scale=scale, sampler=name, eta=eta)
    mine = with_scheduler(networks)
    expected = generate(mine, ["ab"], [0], parameters, negative="x")
    assert np.abs(resident_generate(mine, parameters, 1) - expected).max() <= TOLERANCE * np.abs(expected).max()


def test_where_it_is_taken(networks: DiffusionNetworks, monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = networks.graphs
    assert isinstance(sessions, Sessions)
    linear, clips = (make_sampler(with_scheduler(networks, clip_sample=c).scheduler, "ddim", 4) for c in (False, True))
    assert not resident.can_stay(sessions, linear)  # the CPU is the host
    monkeypatch.setattr(Sessions, "device", "cuda")
    assert resident.can_stay(sessions, linear)
    assert not resident.can_stay(sessions, clips)
    monkeypatch.setattr(Sessions, "device", None)
    assert not resident.can_stay(sessions, linear)
    with pytest.raises(ProviderError, match="keeps no arrays"):
        sessions.bind("unet", ["noise_pred"], {})


def test_what_is_not_finite_names_the_step(networks: DiffusionNetworks) -> None:
    parameters = SamplingParameters(steps=6, sampler="ddim")
    latents = Draws([0], networks.latent_shape())()
    states = networks.token_states(["ab", "cd"])
    with pytest.raises(InputError, match="step 1 of 6"):
        resident.denoise_resident(networks, new_sampler(networks, parameters), latents, states * np.nan, 2.0)
    ancestral = make_sampler(networks.scheduler, "euler-ancestral", 6)
    with pytest.raises(InputError, match="noise"):
        resident.denoise_resident(networks, ancestral, latents, states, 2.0)


def test_inputs_are_checked_when_bound(networks: DiffusionNetworks) -> None:
    sessions = networks.graphs
    assert isinstance(sessions, Sessions)
    fixed = networks.unet_inputs(np.zeros((1, 4, 8, 8), np.float32), 1.0, networks.token_states(["ab"]))
    with pytest.raises(InputError, match=r"unet\.timestep"):
        sessions.bind("unet", ["noise_pred"], fixed | {"timestep": np.zeros(2, np.float32)})
    bound = sessions.bind("unet", ["noise_pred"], fixed)
    first = bound(sample=np.ones((1, 4, 8, 8), np.float32))[0]
    before = first.numpy().copy()
    bound(sample=np.full((1, 4, 8, 8), 2.0, np.float32))
    assert np.array_equal(first.numpy(), before)  # no call writes what an earlier one gave


@pytest.mark.parametrize(("plain", "pairs", "copies"), [(1, 0, 1), (3, 1, 2), (2, 4, 2), (0, 1, 1)])
def test_linear_graph(plain: int, pairs: int, copies: int) -> None:
    """The bytes are a valid model, and it adds up (float64 in numpy; fp32 rounding of some terms)."""
    model = onnx.load_from_string(linear_graph(plain, pairs, copies))
    onnx.checker.check_model(model, full_check=True)
    rng = np.random.default_rng(0)
    x = [rng.standard_normal((2, 4, 3, 5)).astype(np.float32) for _ in range(plain)]
    p = [rng.standard_normal((4, 4, 3, 5)).astype(np.float32) for _ in range(pairs)]
    c, ab = rng.standard_normal(plain), rng.standard_normal((pairs, 2))
    expected = sum((w * v.astype(np.float64) for w, v in zip(c, x, strict=True)), np.zeros((2, 4, 3, 5)))
    expected = expected + sum(w[0] * v[:2].astype(np.float64) + w[1] * v[2:] for w, v in zip(ab, p, strict=True))
    given = [(to_device(v, "cpu"), float(w)) for v, w in zip(x, c, strict=True)]
    halves = [(to_device(v, "cpu"), float(w[0]), float(w[1])) for v, w in zip(p, ab, strict=True)]
    latents, sample, square = Linear("cpu")(given, halves, 0.25, copies)
    np.testing.assert_allclose(latents.numpy(), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(sample.numpy(), np.concatenate([0.25 * expected] * copies), rtol=1e-5, atol=1e-5)
    assert square == pytest.approx(float((expected**2).sum()), rel=1e-5)


def test_a_failing_graph_is_named() -> None:
    session = onnxruntime.InferenceSession(linear_graph(2, 0, 1), providers=["CPUExecutionProvider"])
    one = np.ones((1, 1, 1, 1), np.float32)
    bound = BoundGraph("linear", session, "cpu", ("latents",), {"weights": np.ones(3, np.float32)})
    with pytest.raises(GraphError, match="'linear' failed"):
        bound(x0=one, x1=one, scale=np.ones(1, np.float32))


def test_steps_keep_nothing_that_is_not_needed(networks: DiffusionNetworks) -> None:
    """Terms of a step lie at most three outputs back (linear multistep of order 4)."""
    steps = resident.linear_steps(make_sampler(dataclasses.replace(networks.scheduler), "lms", 10))
    assert len(steps) == 10
    assert all(index - back <= 3 for index, step in enumerate(steps) for _, back in step.terms)
