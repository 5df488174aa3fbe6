"""The UNet's form for CPUs: chosen by a budget, on par with torch, run by the CPU alone."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from support.tiny_diffusion import tiny_unet, write_folder

from limner.export.diffusion.filtered import filtered, filtered_autoencoder, level_of
from limner.export.diffusion.layers import choose_layers
from limner.export.diffusion.specs import unet_graph, vae_graphs
from limner.export.diffusion.writer import DiffusionExport, export_folder
from limner.export.precision.convert import PrecisionConfig, convert
from limner.export.report.parity import measure, open_session
from limner.runtime.bundle.loading import Bundle, load_bundle
from limner.runtime.errors import BundleError, InputError
from limner.runtime.graphs.sessions import Sessions

CPU_FORM = "unet.cpu.onnx"


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle whose UNet is wide enough; read-only by agreement."""
    folder = write_folder(tmp_path_factory.mktemp("wide") / "model", "wide", words=True)
    return export_folder(folder, folder.with_name("bundle"), DiffusionExport(batches=(1, 2)), say=lambda line: None)


def feed(bundle: Bundle, batch: int = 2, height: int = 20, width: int = 36) -> dict[str, Any]:
    random = np.random.RandomState(0)
    sizes = {"batch": batch, "height": height, "width": width, "words": 1}
    found = {
        tensor.name: np.asarray(random.randn(*(sizes.get(str(size), size) for size in tensor.shape)), tensor.dtype)
        for tensor in bundle.graph("unet").inputs
    }
    return found | {"source_index": np.zeros(batch, np.int64)}


def test_both_forms_have_a_parity_and_the_same_weights(wide: Bundle) -> None:
    meta = wide.graph("unet")
    assert meta.cpu == CPU_FORM and meta.file == "unet.onnx" and meta.data == ("weights.bin",)
    assert meta.parity is not None and meta.parity.max_rel_error <= 1e-5
    assert {"noise_pred, on CPUs", "noise_pred, plain, on CPUs", "blend_maps, on CPUs"} <= set(meta.parity.outputs)
    assert [wide.graph(name).cpu for name in ("text_encoder", "vae_encoder", "vae_decoder")] == ["", "", ""]
    plain, quick = (ir.load(wide.file(name)) for name in (meta.file, meta.cpu))
    convolutions = [sum(node.op_type == "Einsum" for node in model.graph) for model in (plain, quick)]
    assert convolutions[0] == 0 and convolutions[1] >= 6


def test_the_cpu_runs_its_form_and_others_the_plain_one(wide: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes that the export never saw; the numbers are those of the plain form up to rounding."""
    monkeypatch.setenv("LIMNER_PREPARED", "no")
    given = feed(wide)
    found = Sessions(wide, threads=1).run("unet", **given)["noise_pred"]
    plain, quick = (open_session(wide.file(name)).run(["noise_pred"], given)[0] for name in ("unet.onnx", CPU_FORM))
    assert np.array_equal(found, quick) and not np.array_equal(found, plain)
    assert np.linalg.norm(found - plain) <= 1e-5 * np.linalg.norm(plain)
    assert wide.graph("unet").file_on("cuda") == "unet.onnx"


def test_the_budget_chooses_the_levels() -> None:
    unet = tiny_unet("wide")
    chosen = {}
    for memory in (8.0, 0.55, 0.0):
        model = unet_graph(unet, choose_layers(unet)).export()
        found = filtered(model, unet, memory)
        chosen[memory] = found.levels
        assert found.convolutions == sum(node.op_type == "Einsum" for node in model.graph)
    assert chosen[8.0] == (0, 1) and chosen[0.0] == ()
    assert chosen[0.55] in ((), (0,))
    assert [level_of(name, 4) for name in ("/unet/down_blocks.2/x", "/unet/up_blocks.1/resnets.0", "/unet/conv_in",
            "/unet/mid_block/x", "/unet/up_blocks.1/upsamplers.0/conv")] == [2, 2, None, 3, 1]  # fmt: skip


@pytest.mark.parametrize("name", ["vae_encoder", "vae_decoder"])
def test_an_autoencoder_keeps_maps_of_the_pictures_size(name: str, tmp_path: Path) -> None:
    from diffusers import AutoencoderKL

    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(96, 96, 96), layers_per_block=1, norm_num_groups=8, sample_size=64,
    ).eval().requires_grad_(False)  # fmt: skip
    graph = vae_graphs(vae, 9)[name]
    model = graph.export()
    whole = sum(node.op_type == "Conv" for node in model.graph)
    assert not filtered_autoencoder(model, vae, 0.02).convolutions
    found = filtered_autoencoder(model, vae, 8.0)
    assert found.levels == (1, 2) and 4 <= found.convolutions < whole - 2
    ir.save(model, tmp_path / "graph.onnx")
    report = measure(graph.spec, tmp_path / "graph.onnx", (1, 2, 3), 1e-5)  # odd sides and even ones
    assert report.max_rel_error <= 1e-5


def test_a_form_that_was_changed_is_refused(wide: Bundle, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(wide.root, tmp_path / "copy"))
    bundle = load_bundle(copy)
    (copy / CPU_FORM).write_bytes((copy / "unet.onnx").read_bytes())
    with pytest.raises(BundleError, match=CPU_FORM):
        Sessions(bundle).run("unet", **feed(bundle))
    with pytest.raises(BundleError, match=CPU_FORM):
        load_bundle(copy)
    manifest = json.loads((copy / "bundle.json").read_text())
    manifest["graphs"]["unet"]["cpu"] = "../unet.onnx"
    (copy / "bundle.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=r"graphs\.unet\.cpu"):
        load_bundle(copy)


def test_another_precision_has_no_form_for_cpus(wide: Bundle, tmp_path: Path) -> None:
    made, _ = convert(wide.root, tmp_path / "fp32", PrecisionConfig("fp32", batches=(1,)), say=lambda line: None)
    assert made.graph("unet").cpu == "" and not (made.root / CPU_FORM).exists()


def test_bad_input(limner: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="memory"):
        DiffusionExport(memory=-1.0)
    for option in (("--memory", 8), ("--edited-layers", "x"), ("--blend-layers", "x")):
        done = limner("export", "onnx", *option, "--out", tmp_path / "x")
        assert done.code == 2 and f"{option[0]} without --model" in done.err
