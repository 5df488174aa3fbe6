"""Plain generation against diffusers' StableDiffusionPipeline on the same weights."""

from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from support.torch_twin import CLASSES, SD15, TinyModels, difference

from limner.runtime.diffusion.sampling import generate
from limner.runtime.errors import InputError
from limner.runtime.settings import SamplerName, SamplingParameters

TOLERANCE = 1e-3  # in latents after 50 steps, relative to the largest; fp32 on both sides
NOISE = np.random.RandomState(0).randn(2, 4, 16, 16).astype(np.float32)
PROMPTS = ["a cat", "b dog in hat"]


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("name", CLASSES)
def test_against_stable_diffusion_pipeline(
    tiny: TinyModels, name: SamplerName, prediction: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = 50 if prediction == "epsilon" else 10
    own = {"prediction_type": prediction} | ({"algorithm_type": "sde-dpmsolver++"} if name.endswith("sde") else {})
    scheduler = CLASSES[name].from_config(SD15 | own)
    pipe = tiny.pipeline(diffusers.StableDiffusionPipeline, scheduler)
    draws = np.random.RandomState(1).randn(steps, 2, 4, 16, 16).astype(np.float32)
    if name in ("euler-ancestral", "ddpm", "lcm", "dpm-solver++-sde"):
        module = __import__(CLASSES[name].__module__, fromlist=["randn_tensor"])
        given = iter(draws)
        monkeypatch.setattr(module, "randn_tensor", lambda *a, **k: torch.from_numpy(next(given)))
    found = pipe(
        PROMPTS,
        negative_prompt=["x", "x"],
        num_inference_steps=steps,
        guidance_scale=5.0,
        latents=torch.from_numpy(NOISE),
        output_type="latent",
    ).images.numpy()
    parameters = SamplingParameters(steps=steps, guidance_scale=5.0, sampler=name)
    fixed = iter([NOISE, *draws])
    monkeypatch.setattr("limner.runtime.diffusion.sampling.Draws", lambda *a: lambda: next(fixed))
    mine = generate(tiny.networks(prediction), PROMPTS, [0, 1], parameters, negative="x")
    assert np.abs(found).max() > 0.5
    assert difference(mine, found) <= TOLERANCE


def test_without_guidance_there_is_one_row_a_picture(tiny: TinyModels) -> None:
    scheduler = diffusers.DDIMScheduler.from_config(SD15)
    pipe = tiny.pipeline(diffusers.StableDiffusionPipeline, scheduler)
    arguments = {"num_inference_steps": 5, "guidance_scale": 1.0, "output_type": "latent"}
    found = pipe(PROMPTS, latents=torch.from_numpy(NOISE), **arguments).images.numpy()
    networks = tiny.networks()
    mine = generate(
        networks, PROMPTS, [0, 0], SamplingParameters(steps=5, guidance_scale=1.0, sampler="ddim"), latents=NOISE
    )
    assert networks.unet_rows == 2 * 5
    assert difference(mine, found) <= TOLERANCE


def test_a_picture_is_the_same_in_any_batch(tiny: TinyModels) -> None:
    parameters = SamplingParameters(steps=4, sampler="euler-ancestral", height=24, width=40)
    both = generate(tiny.networks(), PROMPTS, [7, 8], parameters)
    alone = generate(tiny.networks(), PROMPTS[1:], [8], parameters)
    assert both.shape == (2, 4, 12, 20)
    assert difference(both[1:], alone) <= 1e-4


def test_encodes_and_decodes_like_the_vae(tiny: TinyModels) -> None:
    networks = tiny.networks()
    image = np.tanh(np.random.RandomState(3).randn(2, 3, 32, 24)).astype(np.float32)
    latents = networks.encode(image)
    reference = tiny.vae.encode(torch.from_numpy(image)).latent_dist.mode() * tiny.vae.config.scaling_factor
    assert difference(latents, reference.numpy()) <= 1e-5
    picture = tiny.vae.decode(reference / tiny.vae.config.scaling_factor).sample.clamp(-1, 1)
    assert difference(networks.decode(latents), picture.numpy()) <= 1e-5


def test_large_pictures_go_through_the_autoencoder_one_by_one(
    tiny: TinyModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    networks = tiny.networks()
    image = np.tanh(np.random.RandomState(4).randn(5, 3, 32, 24)).astype(np.float32)
    latents = networks.encode(image)
    wanted, sizes, run = networks.decode(latents), [], networks.graphs.run

    def noted(graph: str, *arguments: Any, **inputs: Any) -> Any:
        sizes.append(len(inputs["image" if graph == "vae_encoder" else "latents"]))
        return run(graph, *arguments, **inputs)

    monkeypatch.setattr(networks.graphs, "run", noted)
    for pixels, parts in ((2 * 32 * 24, [2, 2, 1]), (1, [1] * 5)):
        monkeypatch.setattr("limner.runtime.diffusion.networks.PIXELS", pixels)
        sizes.clear()
        assert difference(networks.encode(image), latents) <= 1e-5
        assert difference(networks.decode(latents), wanted) <= 1e-5
        assert sizes == [*parts, *parts]


def test_token_states_are_those_of_the_text_encoder(tiny: TinyModels) -> None:
    networks = tiny.networks()
    texts = ["a cat", "", "b", "a cat"]
    ids = tiny.tokenizer(texts, padding="max_length", max_length=77, return_tensors="pt").input_ids
    expected = tiny.text_encoder(ids)[0].numpy()
    np.testing.assert_allclose(networks.token_states(texts), expected, atol=1e-5)
    np.testing.assert_allclose(networks.token_states(texts[::-1]), expected[::-1], atol=1e-5)


def test_the_twin_with_identity_control_is_the_plain_unet(tiny: TinyModels) -> None:
    networks = tiny.networks()
    states = networks.token_states(["a cat", "b"])
    plain = networks.unet(NOISE, 500.0, states)
    controlled = networks.unet(NOISE, 500.0, states, maps=True)
    assert plain.maps is None and controlled.maps is not None and controlled.maps.shape == (2, 1, 4, 4)
    assert difference(controlled.output, plain.output) <= 1e-5


@pytest.mark.parametrize("where", ["graph", "estimate"])
def test_nan_names_the_step(tiny: TinyModels, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    networks = tiny.networks()
    plain, calls = networks.graphs.run, []

    def broken(graph: str, /, **inputs: Any) -> dict[str, Any]:
        found = plain(graph, **inputs)
        if graph == "unet":
            calls.append(graph)
            if len(calls) == 3:
                found["noise_pred"][0, 0, 0, 0] = np.nan
                if where == "graph":
                    from limner.runtime.graphs.sessions import check_outputs

                    check_outputs(graph, found, {name: inputs[name] for name in ("sample", "timestep")})
        return found

    monkeypatch.setattr(networks.graphs, "run", broken)
    with pytest.raises(InputError, match="step 3 of 8") as error:
        generate(networks, ["a"], [0], SamplingParameters(steps=8, sampler="ddim"))
    assert error.value.field == "unet" and error.value.exit_code == 2
    assert len(calls) == 3


def test_bad_values_are_named(tiny: TinyModels) -> None:
    networks = tiny.networks()
    for field, values in {
        "steps": {"steps": 0},
        "guidance_scale": {"guidance_scale": float("nan")},
        "eta": {"eta": 1.5},
        "sampler": {"sampler": "heun3"},
        "height": {"height": 0},
    }.items():
        with pytest.raises(InputError) as error:
            SamplingParameters(**values)  # type: ignore[arg-type]
        assert error.value.field == f"parameters.{field}"
    with pytest.raises(InputError, match="multiples of 8; 32 is near") as error:
        generate(networks, ["a"], [0], SamplingParameters(height=30))
    assert error.value.field == "height"
    with pytest.raises(InputError, match="seeds"):
        generate(networks, ["a"], [0, 1], SamplingParameters())
