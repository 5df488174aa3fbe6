"""Steps that keep the UNet's deep features, and guidance that ends early: against diffusers' pipelines with hooks.

DeepCache's own package gives the same latents on the shipped model to 6e-6, at intervals of 2, 3 and 5.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from numpy.typing import NDArray
from support.engines import diffusion
from support.tiny_diffusion import tiny_unet, write_folder

from limner.export.diffusion.cached import cut
from limner.export.diffusion.layers import choose_layers
from limner.export.diffusion.specs import cached_graph, unet_graph
from limner.export.diffusion.writer import DiffusionExport, export_folder
from limner.runtime import Editor, PromptEdit, Recipe, Source
from limner.runtime.bundle.loading import Bundle, load_bundle
from limner.runtime.bundle.shipped import checkpoints_folder
from limner.runtime.diffusion.caching import CACHED, DEEP
from limner.runtime.diffusion.networks import DiffusionNetworks
from limner.runtime.diffusion.sampling import Draws, generate
from limner.runtime.errors import InputError, LimnerError
from limner.runtime.settings import SamplingParameters

PROMPT = "a face with red hair"
TOLERANCE = 1e-3  # in latents, relative to the largest: ONNX Runtime sums in another order than torch
STEPS = 10


@contextmanager
def deep_cache(unet: UNet2DConditionModel, interval: int) -> Iterator[None]:
    """diffusers' UNet with the deep half of what its last residual block takes kept for `interval` calls."""
    calls: list[torch.Tensor] = []
    block = unet.up_blocks[-1].resnets[-1]
    deep = block.in_channels - unet.conv_in.out_channels
    kept: dict[str, torch.Tensor] = {}

    def keep(module: torch.nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        if len(calls) % interval == 0:
            kept["deep"] = args[0][:, :deep].clone()
        calls.append(args[0])
        return (torch.cat([kept["deep"], args[0][:, deep:]], 1), *args[1:])

    handle = block.register_forward_pre_hook(keep)
    try:
        yield
    finally:
        handle.remove()


def difference(mine: NDArray[np.float32], theirs: NDArray[np.float32]) -> float:
    return float(np.abs(mine - theirs).max() / max(1.0, np.abs(theirs).max()))


def start(bundle: Bundle) -> NDArray[np.float32]:
    meta = bundle.diffusion
    return Draws([3], (meta.latent_channels, meta.sample_size, meta.sample_size))()


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Bundle]:
    folder = write_folder(tmp_path_factory.mktemp("sdxl") / "model", "sdxl")
    out = folder.with_name("bundle")
    return folder, export_folder(folder, out, DiffusionExport(name="sdxl", batches=(1, 2)), say=lambda line: None)


@pytest.mark.parametrize("interval", [2, 3, 5])
def test_the_shipped_model_caches_like_diffusers_with_hooks(interval: int) -> None:
    bundle = load_bundle(checkpoints_folder() / "avatars" / "diffusion", verify_hashes=False)
    pipe = StableDiffusionPipeline.from_pretrained(bundle.root, torch_dtype=torch.float32, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    noise = start(bundle)
    with deep_cache(pipe.unet, interval):
        found = pipe(PROMPT, num_inference_steps=STEPS, guidance_scale=5.0, latents=torch.from_numpy(noise),
                     output_type="latent").images.numpy()  # fmt: skip
    networks = diffusion(Editor(bundle)).networks
    settings = SamplingParameters(steps=STEPS, guidance_scale=5.0, cache_interval=interval)
    mine = generate(networks, [PROMPT], [3], settings, latents=noise)
    exact = generate(networks, [PROMPT], [3], replace(settings, cache_interval=1), latents=noise)
    assert difference(mine, found) <= TOLERANCE
    assert difference(mine, exact) > 10 * TOLERANCE


def test_sdxl_caches_like_diffusers_with_hooks(sdxl: tuple[Path, Bundle]) -> None:
    folder, bundle = sdxl
    pipe = StableDiffusionXLPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    noise = Draws([3], (4, 8, 16))()
    with deep_cache(pipe.unet, 2):
        found = pipe(PROMPT, height=16, width=32, num_inference_steps=6, guidance_scale=5.0,
                     latents=torch.from_numpy(noise), output_type="latent").images.numpy()  # fmt: skip
    assert [tensor.name for tensor in bundle.graph(CACHED).inputs][-3:] == ["text_embeds", "time_ids", DEEP]
    settings = SamplingParameters(steps=6, guidance_scale=5.0, cache_interval=2, height=16, width=32)
    mine = generate(diffusion(Editor(bundle)).networks, [PROMPT], [3], settings, latents=noise)
    assert difference(mine, found) <= TOLERANCE


@pytest.mark.parametrize("until", [0.3, 0.75])
def test_guidance_ends_as_with_diffusers_callback(sd1_folder: Path, sd1_bundle: Bundle, until: float) -> None:
    pipe = StableDiffusionPipeline.from_pretrained(sd1_folder, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    last = int(np.ceil(until * STEPS)) - 1

    def end(pipe: Any, step: int, timestep: Any, given: dict[str, Any]) -> dict[str, Any]:
        if step == last:
            pipe._guidance_scale = 0.0
            given["prompt_embeds"] = given["prompt_embeds"].chunk(2)[-1]
        return given

    found = pipe(PROMPT, num_inference_steps=STEPS, latents=torch.from_numpy(start(sd1_bundle)), output_type="latent",
                 callback_on_step_end=end, callback_on_step_end_tensor_inputs=["prompt_embeds"])  # fmt: skip
    networks = diffusion(Editor(sd1_bundle)).networks
    mine = generate(networks, [PROMPT], [3], SamplingParameters(steps=STEPS, guidance_until=until))
    assert networks.unet_rows == STEPS + last + 1
    assert difference(mine, found.images.numpy()) <= TOLERANCE


def edits(**settings: Any) -> dict[str, Recipe]:
    source = Source.from_prompt(PROMPT, 3)
    common = {"steps": 6} | settings
    return {
        "sega": Recipe("sega", source, (PromptEdit("a beard", strength=6.0),), common | {"warmup": 0}),
        "prompt-to-prompt": Recipe(
            "prompt-to-prompt", source,
            (PromptEdit("a face with blue hair", options={"blend": ["hair"]}),), common | {"maps": True},
        ),
    }  # fmt: skip


class Called:
    """Sessions that write down which graph ran and on how many rows."""

    def __init__(self, networks: DiffusionNetworks) -> None:
        self.graphs, self.calls = networks.graphs, list[tuple[str, int]]()
        networks.graphs = self

    def run(self, graph: str, /, *, only: Sequence[str] | None = None, **inputs: Any) -> dict[str, Any]:
        if graph in ("unet", CACHED):
            self.calls.append((graph, len(inputs["sample"])))
        return self.graphs.run(graph, only=only, **inputs)


@pytest.mark.parametrize("method", ["sega", "prompt-to-prompt"])
def test_an_edit_computes_the_deep_layers_every_third_step(sd1_bundle: Bundle, method: str) -> None:
    editor = Editor(sd1_bundle)
    exact = editor.edit(edits()[method], compare=False)
    called = Called(diffusion(editor).networks)
    edit = editor.edit(edits(cache_interval=3)[method], compare=False)
    assert [graph for graph, _ in called.calls] == ["unet", CACHED, CACHED] * 2
    assert edit.recipe.parameters.cache_interval == 3
    change = np.abs(edit.image.astype(int) - exact.image)
    assert 0 < change.mean() < 40
    assert Editor(sd1_bundle).edit(edit.recipe, compare=False).image.tobytes() == edit.image.tobytes()


@pytest.mark.parametrize("method", ["sega", "prompt-to-prompt"])
def test_an_edit_is_guided_for_a_part_of_its_steps(sd1_bundle: Bundle, method: str) -> None:
    editor = Editor(sd1_bundle)
    called = Called(diffusion(editor).networks)
    editor.edit(edits(guidance_until=0.5)[method], compare=False)
    rows = {"sega": [3, 3, 3, 1, 1, 1], "prompt-to-prompt": [4, 4, 4, 2, 2, 2]}
    assert [count for _, count in called.calls] == rows[method]


def test_a_given_picture_comes_back_whatever_is_left_out() -> None:
    """Inversion and edit leave the same out: where a concept has hardly a place, the picture is as it was."""
    editor = Editor(load_bundle(checkpoints_folder() / "avatars" / "diffusion", verify_hashes=False))
    picture = editor.generate(["a portrait of a man"], [1], {"steps": 8})[0].image
    shown = editor.edit(
        Recipe("sega", Source("image", prompt="a portrait of a man"), (PromptEdit("a beard", strength=6.0),),
               {"steps": 8, "cache_interval": 2, "guidance_until": 0.5, "threshold": 1.0, "masks": "noise"}),
        given=picture,
    )  # fmt: skip
    change = np.abs(shown.image.astype(int) - shown.reconstruction)
    assert change.mean() < 3


def test_a_text_that_changes_between_calls_is_computed_whole(sd1_bundle: Bundle) -> None:
    networks = diffusion(Editor(sd1_bundle)).networks
    called = Called(networks)
    shared = networks.sharing(4)
    noise, states = start(sd1_bundle), networks.token_states(["a face", "a hat"])
    for rows in (states[:1], states[:1], states[1:], states[1:], states):
        shared.unet(np.repeat(noise, len(rows), 0), 500.0, rows)
    shared.unet(np.repeat(noise, 2, 0), 400.0, states, maps=True)
    shared.unet(np.zeros((2, 4, 8, 16), np.float32), 400.0, states)
    assert [graph for graph, _ in called.calls] == ["unet", CACHED, "unet", CACHED, "unet", "unet", "unet"]


def test_a_bundle_without_the_graph_says_so(sd1_bundle: Bundle) -> None:
    graphs = {name: graph for name, graph in sd1_bundle.manifest.graphs.items() if name != CACHED}
    old = replace(sd1_bundle, manifest=replace(sd1_bundle.manifest, graphs=graphs))
    for method, recipe in edits(cache_interval=2).items():
        with pytest.raises(InputError) as error:
            Editor(old).edit(recipe)
        assert error.value.field == "parameters.cache_interval" and "limner export onnx" in str(error.value), method
    with pytest.raises(InputError, match=r"parameters\.cache_interval"):
        Editor(old).generate([PROMPT], [0], {"steps": 2, "cache_interval": 2})
    Editor(old).edit(edits()["sega"], compare=False)


@pytest.mark.parametrize("given", [{"cache_interval": 0}, {"cache_interval": 51}, {"guidance_until": 0.0},
                                   {"guidance_until": 1.1}, {"cache_interval": 2.5}])  # fmt: skip
def test_out_of_range(given: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(given))):
        edits(**given)


def test_layers_that_read_less_of_the_control_have_fewer_inputs() -> None:
    unet = tiny_unet("wide")  # its last block is without attention
    layers = choose_layers(unet)
    names = [tensor.name for tensor in cached_graph(unet, layers).spec.inputs]
    assert names == ["sample", "timestep", DEEP]
    unet = tiny_unet("sd1")
    crossed = choose_layers(unet, ["*.attn2"], ["up_blocks.1.*.attn2"])
    spec = cached_graph(unet, crossed).spec
    part = cut(unet_graph(unet, crossed).export(), [tensor.name for tensor in spec.inputs])
    assert "self_replace" not in [value.name for value in part.graph.inputs]
    with pytest.raises(LimnerError, match="last layers of the UNet read"):
        cut(unet_graph(unet, crossed).export(), ["sample"])
