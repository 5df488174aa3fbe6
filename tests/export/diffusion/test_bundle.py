"""An exported diffusion bundle: its graphs against diffusers, its format, the runtime's view, and bad input."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from support.tiny_diffusion import tiny_unet, write_folder
from transformers import CLIPTextModel

from limner.export.diffusion.cli import patterns, run
from limner.export.diffusion.control import CONTROL_INPUTS
from limner.export.diffusion.folder import read_folder
from limner.export.diffusion.layers import choose_layers
from limner.export.diffusion.specs import identity_control, random_control, unet_graph
from limner.export.diffusion.surgery import operate
from limner.export.diffusion.writer import DiffusionExport, export_folder
from limner.export.onnx.attention import FUSED
from limner.export.onnx.weights import WeightFile
from limner.export.report import parity
from limner.runtime.bundle.loading import Bundle, load_bundle
from limner.runtime.diffusion.networks import DiffusionNetworks
from limner.runtime.errors import InputError, LimnerError
from limner.runtime.graphs.sessions import Sessions

GRAPHS = ("text_encoder", "vae_encoder", "vae_decoder", "unet", "unet_cached")


def close(found: np.ndarray, wanted: torch.Tensor) -> None:
    """1e-4 relative in norm: fp32 sums in another order."""
    b = wanted.double().numpy()
    assert found.shape == b.shape
    assert np.linalg.norm(found - b) <= 1e-4 * np.linalg.norm(b)


@pytest.mark.parametrize("graph", GRAPHS)
def test_parity_opset_and_axes(sd1_bundle: Bundle, graph: str) -> None:
    meta = sd1_bundle.graph(graph)
    assert meta.parity is not None
    assert meta.parity.max_rel_error <= 1e-4
    model = onnx.load(sd1_bundle.file(meta.file), load_external_data=False)
    assert {(entry.domain, entry.version) for entry in model.opset_import} <= {("", 20), (FUSED[0], 1)}
    assert all(node.domain == "" or (node.domain, node.op_type) == FUSED for node in model.graph.node)
    for value, tensor in zip([*model.graph.input, *model.graph.output], [*meta.inputs, *meta.outputs], strict=True):
        dims = [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        assert tuple(dims) == tensor.shape
    content = sd1_bundle.file(meta.file).read_bytes()
    for word in (b"/home", b"/root", b"/work", b".py", b"site-packages"):
        assert word not in content


def test_weights_lie_outside_the_graphs(sd1_bundle: Bundle) -> None:
    model = onnx.load(sd1_bundle.file("unet.onnx"), load_external_data=False)
    inside = [t.name for t in model.graph.initializer if t.data_location != onnx.TensorProto.EXTERNAL]
    sizes = {t.name: int(np.prod(t.dims)) for t in model.graph.initializer}
    assert all(sizes[name] < 128 for name in inside)
    assert not [node for node in model.graph.node if node.op_type == "Transpose" and node.input[0] in sizes]


def test_manifest(sd1_bundle: Bundle) -> None:
    meta = sd1_bundle.diffusion
    assert (meta.scaling_factor, meta.prediction_type, meta.latent_channels) == (0.2, "epsilon", 4)
    assert (meta.sample_size, meta.vae_factor, meta.multiple) == (8, 2, 4)
    assert set(meta.blend_layers) < set(meta.edited_layers)
    assert sd1_bundle.manifest.licences[0].licence == "openrail"
    assert set(json.loads(sd1_bundle.file("parity.json").read_text())["graphs"]) == set(GRAPHS)
    assert "noise_pred, plain" in sd1_bundle.file("parity.md").read_text()


@torch.no_grad()
def test_the_runtime_agrees_with_diffusers(sd1_folder: Path, sd1_bundle: Bundle) -> None:
    """Sizes and batches that the export never saw, through the runtime's own classes."""
    networks = DiffusionNetworks.from_bundle(sd1_bundle, Sessions(sd1_bundle))
    models: list[Any] = [
        kind.from_pretrained(str(sd1_folder / part), torch_dtype=torch.float32)
        for kind, part in ((UNet2DConditionModel, "unet"), (AutoencoderKL, "vae"), (CLIPTextModel, "text_encoder"))
    ]
    unet, vae, text = models
    states = networks.token_states(["a hat", ""])
    ids = torch.from_numpy(networks.tokenizer.encode("a hat"))
    close(states[:1], text(ids).last_hidden_state)
    image = torch.rand(2, 3, 24, 16) * 2 - 1
    close(networks.encode(image.numpy()), 0.2 * vae.encode(image).latent_dist.mean)
    latents = torch.randn(1, 4, 6, 10)
    close(networks.decode(latents.numpy()), vae.decode(latents / 0.2).sample.clamp(-1, 1))
    sample = torch.randn(2, 4, 6, 14)
    found = networks.unet(sample.numpy(), 500.0, states)
    close(found.output, unet(sample, 500, torch.from_numpy(states)).sample)


@pytest.mark.parametrize("batch", [1, 4, 6])
@torch.no_grad()
def test_controls_against_surgery_at_other_sizes(sd1_folder: Path, sd1_bundle: Bundle, batch: int) -> None:
    folder = read_folder(sd1_folder)
    layers = choose_layers(folder.unet)
    rng = torch.Generator().manual_seed(batch)
    control = dict(zip(CONTROL_INPUTS, random_control(batch, rng, words=1 + batch % 2), strict=True))
    sample, step = torch.randn(batch, 4, 10, 6, generator=rng), torch.rand(batch, generator=rng) * 999
    states = torch.randn(batch, 77, 16, generator=rng)
    noise, maps, deep = operate(folder.unet, layers, sample, step, states, control)
    arrays = {name: value.numpy() for name, value in control.items()}
    found = Sessions(sd1_bundle).run("unet", only=None, sample=sample.numpy(), timestep=step.numpy(),
                                     encoder_hidden_states=states.numpy(), **arrays)  # fmt: skip
    close(found["noise_pred"], noise)
    close(found["blend_maps"], maps)
    close(found["deep_features"], deep)


@pytest.mark.parametrize("kind", ["sd2", "sdxl"])
def test_other_unets_by_config(tmp_path: Path, kind: str) -> None:
    """Linear projections and upcast attention; text_time conditioning and several blocks a transformer."""
    unet = tiny_unet(kind)
    graph = unet_graph(unet, choose_layers(unet))
    names = [tensor.name for tensor in graph.spec.inputs]
    assert (names[-2:] == ["text_embeds", "time_ids"]) == (kind == "sdxl")
    path = WeightFile(tmp_path, "fp32").save(graph.export(), tmp_path / "unet.onnx")
    for spec in (graph.spec, *graph.more):
        report = parity.measure(spec, path, (1, 2))
        assert report.passed, report.outputs


def test_weights_kept_as_an_fp16_variant_are_found(tmp_path: Path, sd1_folder: Path) -> None:
    shutil.copytree(sd1_folder, tmp_path / "model")
    for path in (tmp_path / "model").glob("*/*.safetensors"):
        path.rename(path.with_suffix(".fp16.safetensors"))
    found, wanted = (read_folder(root).unet.state_dict() for root in (tmp_path / "model", sd1_folder))
    assert all(torch.equal(found[name], value) for name, value in wanted.items())


def test_stable_diffusion_2_folder(tmp_path: Path) -> None:
    folder = read_folder(write_folder(tmp_path / "sd2", "sd2"))
    assert folder.prediction_type == "v_prediction"
    vocab = folder.tokenizer.vocab
    assert folder.pad == vocab["!"] != folder.eos


def test_a_graph_that_is_off_is_never_written(
    sd1_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from limner.export.diffusion import writer
    from limner.export.diffusion.specs import folder_graphs

    folder = read_folder(sd1_folder)
    only = {"text_encoder": folder_graphs(folder, choose_layers(folder.unet))["text_encoder"]}
    monkeypatch.setattr(writer, "folder_graphs", lambda *_: only)
    config = DiffusionExport(tolerance=1e-12, batches=(1,))
    with pytest.raises(LimnerError, match="text_encoder"):
        writer.write_bundle(folder, choose_layers(folder.unet), tmp_path / "out", config, say=lambda line: None)
    assert list(tmp_path.iterdir()) == []


def test_without_an_edit_the_source_is_never_read(sd1_bundle: Bundle) -> None:
    """Bit for bit: rows that nothing edits take no part in the second product."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(str(sd1_bundle.file("unet.onnx")), options, ["CPUExecutionProvider"])
    sample, states = np.zeros((2, 4, 8, 8), np.float32), np.zeros((2, 77, 16), np.float32)
    control = identity_control(2, torch.Generator().manual_seed(0))
    feed = {"sample": sample, "timestep": np.zeros(2, np.float32), "encoder_hidden_states": states}
    feed |= {name: value.numpy() for name, value in zip(CONTROL_INPUTS, control, strict=True)}
    noise = session.run(["noise_pred"], feed)[0]
    feed["source_index"] = np.zeros(2, np.int64)
    np.testing.assert_array_equal(session.run(["noise_pred"], feed)[0], noise)


def test_in_place_the_graphs_read_the_folders_own_weights(sd1_folder: Path, sd1_bundle: Bundle, tmp_path: Path) -> None:
    root = tmp_path / "model"
    shutil.copytree(sd1_folder, root)
    presets = {"defaults": {"sega": {"steps": 20}, "sega.inversion": {"skip": 0.2}}}
    (root / "presets.json").write_text(json.dumps(presets))
    config = DiffusionExport(batches=(1,))
    bundle = export_folder(root, None, config, say=lambda line: None)
    weights = sum(path.stat().st_size for path in root.glob("*/*.safetensors"))
    assert (root / "weights.bin").stat().st_size < 0.1 * weights  # the text encoder's mask, little else
    assert bundle.root == root and bundle.manifest.defaults == presets["defaults"]
    assert "unet/diffusion_pytorch_model.safetensors" in bundle.graph("unet").data
    assert set(bundle.graph("unet").data) <= set(bundle.manifest.files)
    assert not {"README.md", "model_index.json"} & set(bundle.manifest.files)
    assert not list(tmp_path.glob(".*"))
    rng = np.random.RandomState(0)
    sample, states = rng.randn(2, 4, 8, 8), rng.randn(2, 77, 16)
    outputs = []
    for one in (bundle, sd1_bundle):
        networks = DiffusionNetworks.from_bundle(one, Sessions(one))
        outputs.append(networks.unet(sample.astype(np.float32), 9.0, states.astype(np.float32)).output)
        outputs.append(networks.token_states(["a hat"]))
    np.testing.assert_allclose(outputs[0], outputs[2], atol=1e-6)
    np.testing.assert_allclose(outputs[1], outputs[3], atol=1e-6)
    read_folder(root)  # still a folder of diffusers'
    assert export_folder(root, None, config, say=lambda line: None).digest == bundle.digest
    (root / "presets.json").write_text(json.dumps({"defaults": {"saga": {}}}))
    with pytest.raises(InputError, match="did you mean 'sega'"):
        export_folder(root, None, config, say=lambda line: None)
    assert load_bundle(root).digest == bundle.digest


def broken(tmp_path: Path, source: Path, change: str) -> Path:
    root = tmp_path / "model"
    shutil.copytree(source, root)
    if change == "no vae":
        shutil.rmtree(root / "vae")
    elif change == "second text encoder":
        (root / "text_encoder_2").mkdir()
    elif change == "no tokenizer":
        (root / "tokenizer" / "merges.txt").unlink()
    elif change == "weights":
        (root / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"no weights")
    elif change == "pickle":
        (root / "unet" / "diffusion_pytorch_model.safetensors").rename(root / "unet" / "diffusion_pytorch_model.bin")
    elif change == "inpainting":
        _edit(root / "vae" / "config.json", _class_name="VQModel")
    return root


def _edit(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ("no vae", "vae/config.json"), ("second text encoder", "text_encoder_2/config.json"),
        ("no tokenizer", "merges.txt"), ("weights", "do not load"), ("inpainting", "VQModel"),
        ("pickle", "do not load"),
    ],
)  # fmt: skip
def test_broken_folders_are_refused(tmp_path: Path, sd1_folder: Path, change: str, word: str) -> None:
    root = broken(tmp_path, sd1_folder, change)
    with pytest.raises(InputError, match=word):
        export_folder(root, tmp_path / "out", DiffusionExport(), say=lambda line: None)
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".*"))


def test_command_line_values_are_checked(tmp_path: Path, sd1_folder: Path) -> None:
    with pytest.raises(InputError, match="no folder"):
        run(tmp_path / "nothing", None, "", "", False)
    with pytest.raises(InputError, match="opset"):
        run(sd1_folder, tmp_path / "out", "", "", False, opset=23)
    with pytest.raises(InputError, match="commas"):
        patterns("a,,b")
    planned = run(sd1_folder, tmp_path / "out", "*.attn2", "", True)
    assert planned["graphs"] == list(GRAPHS)
    assert all(name.endswith("attn2") for name in planned["edited_layers"])
    assert not (tmp_path / "out").exists()
