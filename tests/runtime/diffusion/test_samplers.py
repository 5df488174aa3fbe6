"""The samplers against diffusers' schedulers, step by step on the same outputs of an imagined network."""

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from support.torch_twin import CLASSES

from limner.runtime.diffusion.samplers.by_name import SAMPLERS, default_sampler, make_sampler
from limner.runtime.diffusion.samplers.schedule import NoiseSchedule, SchedulerConfig, read_scheduler_config
from limner.runtime.errors import BundleError, InputError

SD15 = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
SD15 |= {"skip_prk_steps": True, "set_alpha_to_one": False, "clip_sample": False}
SDE = {"algorithm_type": "sde-dpmsolver++"}
TOLERANCE = 1e-5  # float32 sums in another order, relative to the largest latent
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("any", {}),
    ("any", {"prediction_type": "v_prediction"}),
    ("any", {"timestep_spacing": "linspace"}),
    ("any", {"timestep_spacing": "leading"}),
    ("any", {"timestep_spacing": "trailing"}),
    ("any", {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02}),
    ("any", {"beta_schedule": "squaredcos_cap_v2"}),
    ("any", {"num_train_timesteps": 100}),
    ("ddim", {"set_alpha_to_one": True, "clip_sample": True, "clip_sample_range": 2.0}),
    ("ddim", {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction", "timestep_spacing": "trailing"}),
    ("ddim", {"prediction_type": "sample"}),
    ("pndm", {"skip_prk_steps": False}),
    ("euler", {"use_karras_sigmas": True}),
    ("euler", {"final_sigmas_type": "sigma_min", "use_karras_sigmas": True, "sigma_min": 0.1, "sigma_max": 10.0}),
    ("euler", {"prediction_type": "sample"}),
    ("euler-ancestral", {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}),
    ("dpm-solver++", {"use_karras_sigmas": True}),
    ("dpm-solver++", {"solver_order": 1}),
    ("dpm-solver++", {"solver_type": "heun", "final_sigmas_type": "sigma_min"}),
    ("dpm-solver++", {"euler_at_final": True, "final_sigmas_type": "sigma_min"}),
    ("dpm-solver++", {"beta_schedule": "squaredcos_cap_v2", "lambda_min_clipped": -5.1}),
    ("lms", {"use_karras_sigmas": True}),
    ("dpm-solver++", {"solver_order": 3, "final_sigmas_type": "sigma_min"}),
    ("dpm-solver++", {"solver_order": 3}),
    ("heun", {"use_karras_sigmas": True}),
    ("heun", {"prediction_type": "sample"}),
    ("heun", {"clip_sample": True, "clip_sample_range": 1.5}),
    ("ddpm", {"variance_type": "fixed_large"}),
    ("ddpm", {"clip_sample": True, "clip_sample_range": 1.5}),
    ("ddpm", {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction", "timestep_spacing": "trailing"}),
    ("unipc", {"solver_order": 3}),
    ("unipc", {"solver_order": 1}),
    ("unipc", {"solver_type": "bh1", "solver_order": 3, "lower_order_final": False, "final_sigmas_type": "sigma_min"}),
    ("unipc", {"predict_x0": False, "final_sigmas_type": "sigma_min"}),
    ("unipc", {"disable_corrector": [0, 3]}),
    ("unipc", {"use_karras_sigmas": True, "final_sigmas_type": "sigma_min"}),
    ("unipc", {"use_karras_sigmas": True, "sigma_min": 0.1, "sigma_max": 10.0}),
    ("unipc", {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction", "timestep_spacing": "trailing"}),
    ("deis", {"solver_order": 3}),
    ("deis", {"solver_order": 1}),
    ("deis", {"use_karras_sigmas": True, "solver_order": 3, "lower_order_final": False}),
    ("dpm-solver++-sde", {"use_karras_sigmas": True}),
    ("dpm-solver++-sde", {"solver_type": "heun", "final_sigmas_type": "sigma_min"}),
    ("lcm", {"original_inference_steps": 25}),
    ("lcm", {"timestep_scaling": 3.0, "clip_sample": True, "clip_sample_range": 1.5}),
    ("lcm", {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}),
    ("tcd", {"original_inference_steps": 25}),
    ("tcd", {"prediction_type": "sample"}),
]
CASES = [
    (name, steps, change)
    for target, change in VARIANTS
    for name in (CLASSES if target == "any" else [target])
    for steps in ((50, 7) if not change else (20,))
]


@pytest.mark.parametrize(("name", "steps", "change"), CASES)
def test_against_diffusers(name: str, steps: int, change: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    config = SD15 | change | (SDE if name == "dpm-solver++-sde" else {})
    reference = CLASSES[name].from_config(config)
    reference.set_timesteps(steps)
    sampler = make_sampler(SchedulerConfig.from_dict(config), name, steps)
    np.testing.assert_allclose(sampler.timesteps, reference.timesteps.numpy(), rtol=1e-5)
    np.testing.assert_allclose(sampler.init_noise_sigma, float(reference.init_noise_sigma), rtol=1e-6)

    draws = np.random.RandomState(0)
    noises = draws.randn(len(sampler.timesteps), 2, 4, 5, 6).astype(np.float32)
    current = {"step": 0}
    module = __import__(CLASSES[name].__module__, fromlist=["randn_tensor"])
    if sampler.draws_noise:
        monkeypatch.setattr(module, "randn_tensor", lambda *a, **k: torch.from_numpy(noises[current["step"]]))
    mine = draws.randn(2, 4, 5, 6).astype(np.float32) * np.float32(sampler.init_noise_sigma)
    theirs = torch.from_numpy(mine.copy())
    weight = draws.randn(4, 4).astype(np.float32) / 2
    for index, timestep in enumerate(reference.timesteps):
        current["step"] = index
        scaled = reference.scale_model_input(theirs, timestep).numpy()
        close(sampler.scale_input(mine, index), scaled)
        output = np.tanh(np.einsum("cd,ndhw->nchw", weight, scaled) + np.float32(index / 10))
        more = {"eta": 0.0} if name == "tcd" else {}
        theirs = reference.step(torch.from_numpy(output), timestep, theirs, return_dict=False, **more)[0]
        mine = sampler.step(output, index, mine, noises[index] if sampler.draws_noise else None)
        close(mine, theirs.numpy())
        mine = theirs.numpy().copy()  # step by step, errors do not add up


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_ddim_with_noise(eta: float) -> None:
    reference = diffusers.DDIMScheduler.from_config(SD15)
    reference.set_timesteps(20)
    sampler = make_sampler(SchedulerConfig.from_dict(SD15), "ddim", 20, eta)
    draws = np.random.RandomState(1)
    for index, timestep in enumerate(reference.timesteps):
        sample, output, noise = draws.randn(3, 1, 4, 3, 3).astype(np.float32)
        theirs = reference.step(*map(torch.from_numpy, [output]), timestep, torch.from_numpy(sample), eta=eta,
                                variance_noise=torch.from_numpy(noise)).prev_sample  # fmt: skip
        close(sampler.step(output, index, sample, noise), theirs.numpy())


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_tcd_with_noise(eta: float, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = diffusers.TCDScheduler.from_config(SD15)
    reference.set_timesteps(5)
    sampler = make_sampler(SchedulerConfig.from_dict(SD15), "tcd", 5, eta)
    draws = np.random.RandomState(1)
    for index, timestep in enumerate(reference.timesteps):
        sample, output, noise = draws.randn(3, 1, 4, 3, 3).astype(np.float32)
        monkeypatch.setattr("diffusers.schedulers.scheduling_tcd.randn_tensor",
                            lambda *a, drawn=noise, **k: torch.from_numpy(drawn))  # fmt: skip
        theirs = reference.step(torch.from_numpy(output), timestep, torch.from_numpy(sample), eta=eta).prev_sample
        close(sampler.step(output, index, sample, noise), theirs.numpy())


@pytest.mark.parametrize("name", CLASSES)
def test_a_file_without_keys_takes_the_schedulers_own_defaults(name: str) -> None:
    reference = CLASSES[name](**(SDE if name == "dpm-solver++-sde" else {}))
    reference.set_timesteps(6)
    sampler = make_sampler(SchedulerConfig.from_dict({"_class_name": CLASSES[name].__name__}), name, 6)
    np.testing.assert_allclose(sampler.timesteps, reference.timesteps.numpy(), rtol=1e-5)
    np.testing.assert_allclose(sampler.schedule.alphas_cumprod, reference.alphas_cumprod.numpy(), rtol=1e-6)


@pytest.mark.parametrize("name", CLASSES)
def test_adds_noise_as_diffusers(name: str) -> None:
    reference = CLASSES[name].from_config(SD15)
    reference.set_timesteps(10)
    sampler = make_sampler(SchedulerConfig.from_dict(SD15), name, 10)
    clean, noise = np.random.RandomState(2).randn(2, 1, 4, 3, 3).astype(np.float32)
    at = reference.timesteps[4:5]
    theirs = reference.add_noise(torch.from_numpy(clean), torch.from_numpy(noise), at)
    close(sampler.add_noise(clean, noise, 4), theirs.numpy())


def test_alphas_are_those_of_torch() -> None:
    mine = NoiseSchedule(SchedulerConfig.from_dict(SD15)).alphas_cumprod
    np.testing.assert_allclose(mine, diffusers.DDIMScheduler.from_config(SD15).alphas_cumprod.numpy(), rtol=2e-7)


@pytest.mark.parametrize("name", CLASSES)
def test_reads_the_files_that_diffusers_writes(name: str, tmp_path: Path) -> None:
    CLASSES[name].from_config(SD15 | (SDE if name.endswith("sde") else {})).save_pretrained(tmp_path)
    config = read_scheduler_config(tmp_path / "scheduler_config.json")
    assert default_sampler(config) == name
    assert config.beta_schedule == "scaled_linear" and config.beta_end == 0.012


def test_bad_values_are_named() -> None:
    config = SchedulerConfig.from_dict(SD15)
    for steps in (0, -1, 1001, 2.5):
        with pytest.raises(InputError) as error:
            make_sampler(config, "ddim", steps)  # type: ignore[arg-type]
        assert error.value.field == "steps"
    with pytest.raises(InputError, match="did you mean 'euler'"):
        make_sampler(config, "eulr", 10)
    with pytest.raises(InputError) as error:
        make_sampler(config, "euler", 10, eta=0.5)
    assert error.value.field == "eta"
    with pytest.raises(BundleError, match="thresholding"):
        SchedulerConfig.from_dict(SD15 | {"thresholding": True})
    with pytest.raises(BundleError, match="beta_schedule"):
        SchedulerConfig.from_dict(SD15 | {"beta_schedule": "sigmoid"})
    assert set(SAMPLERS) == set(CLASSES)


def close(mine: np.ndarray, theirs: np.ndarray) -> None:
    scale = max(1.0, float(np.abs(theirs).max()))
    assert np.isfinite(mine).all()
    assert float(np.abs(mine - theirs).max()) / scale <= TOLERANCE
