"""fp16 and int8 of diffusion bundles in the shapes of Stable Diffusion 1, 2 and XL: every graph, then edits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper
from support.tiny_diffusion import write_folder

from limner.export.diffusion.writer import DiffusionExport, export_folder
from limner.export.precision.convert import PrecisionConfig, convert
from limner.export.precision.gate import tolerance
from limner.export.precision.half import half_model
from limner.export.precision.kernels import SCATTERS, has_no_half_kernel, write_scatters_plainly
from limner.export.tensorrt.rows import all_rows
from limner.runtime.bundle.loading import Bundle
from limner.runtime.editor import Editor
from limner.runtime.recipe import PromptEdit, Recipe, Source

KINDS = ("sd1", "sd2", "sdxl")
STEPS = {"steps": 3, "guidance_scale": 3.0, "sampler": "ddim"}

GRAPHS = ("text_encoder", "unet", "unet_cached")  # that fp16 takes


@pytest.fixture(scope="module", params=KINDS)
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = write_folder(tmp_path_factory.mktemp("precision") / request.param, request.param, words=True)
    return export_folder(folder, folder.parent / "bundle", DiffusionExport(batches=(1,)), say=lambda line: None)


def recipes() -> list[Recipe]:
    source = Source.from_prompt("a person with a beard", 3)
    swap = PromptEdit("a person with a hat", options={"blend": ["beard:hat"]})
    return [
        Recipe("prompt-to-prompt", source, (swap,), STEPS),
        Recipe("sega", source, (PromptEdit("glasses"),), {**STEPS, "negative_prompt": "a hat"}),
    ]


@pytest.mark.parametrize("kind", ["fp16", "int8"])
def test_every_graph_is_converted_or_left_with_the_reason_and_edits_follow(
    bundle: Bundle, kind: str, tmp_path: Path
) -> None:
    made, report = convert(bundle.root, tmp_path / kind, PrecisionConfig(kind, batches=(1, 2)), say=lambda line: None)  # type: ignore[arg-type]
    assert {quality.graph for quality in report} == {*GRAPHS, "vae_encoder", "vae_decoder"}
    for quality in report:
        converted = quality.precision == kind
        assert converted or quality.note, quality
        for name, error in quality.errors.items():
            assert error <= tolerance(kind, name)
        if kind == "fp16" and quality.graph.startswith("vae"):
            assert "fp16's range" in quality.note and not quality.errors  # nothing is claimed of what was not made
    if kind == "fp16":
        assert {q.graph for q in report if q.precision == "fp16"} == set(GRAPHS)
    before, after = Editor(bundle), Editor(made)
    for recipe in recipes():
        wanted, found = before.edit(recipe), after.edit(recipe)
        assert found.image.shape == wanted.image.shape and found.image.std() > 0
        if kind == "fp16":
            assert np.abs(found.image.astype(int) - wanted.image).mean() < 2.0


def test_no_node_of_an_fp16_graph_lacks_a_kernel(bundle: Bundle) -> None:
    for name in GRAPHS:
        model, _ = half_model(bundle, name)
        for node in model.graph:
            half = any(v is not None and v.dtype == ir.DataType.FLOAT16 for v in (*node.inputs, *node.outputs))
            assert not (half and has_no_half_kernel(node)), node.name


def test_a_compiler_still_gets_rows_that_do_not_hang_on_values(bundle: Bundle) -> None:
    model, _ = half_model(bundle, "unet")
    all_rows(model)
    assert not [node for node in model.graph if node.op_type in ("NonZero", *SCATTERS)]


def test_a_scatter_with_rows_of_the_callers_stays_as_it_is() -> None:
    """They might repeat: such a sum is kept, in fp32."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, 3])
    rows = helper.make_tensor_value_info("rows", TensorProto.INT64, [2, 1])
    values = helper.make_tensor_value_info("values", TensorProto.FLOAT, [2, 3])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [4, 3])
    node = helper.make_node("ScatterND", ["x", "rows", "values"], ["y"], reduction="add")
    graph = helper.make_graph([node], "g", [x, rows, values], [y])
    model = ir.serde.deserialize_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]))
    write_scatters_plainly(model)
    assert [node.op_type for node in model.graph] == ["ScatterND"]
    assert has_no_half_kernel(model.graph[0])
