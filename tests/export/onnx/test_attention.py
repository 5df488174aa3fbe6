"""Fused attention against torch, and written out against itself."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch.nn import functional

from limner.export.diffusion.rows import attend
from limner.export.diffusion.trace import export_module
from limner.export.onnx.attention import has_fused, write_out
from limner.runtime.bundle.parts import TensorMeta

OPSET = 20


class Attend(torch.nn.Module):
    """The operation alone."""

    def __init__(self, heads: int, scale: float) -> None:
        super().__init__()
        self.heads, self.scale = heads, scale

    def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return attend(q, k, v, self.heads, self.scale)


def exported(heads: int, width: int, scale: float) -> ir.Model:
    shapes: list[tuple[int | str, ...]] = [("batch", "n", heads * width), *[("batch", "m", heads * width)] * 2]
    metas = [TensorMeta(name, "float32", shape) for name, shape in zip("qkv", shapes, strict=True)]
    example = tuple(torch.randn(2, 5 + (i > 0), heads * width) for i in range(3))
    return export_module(Attend(heads, scale), example, metas, [TensorMeta("o", "float32", shapes[0])], OPSET)


def run(model: ir.Model, path: Path, *arrays: np.ndarray) -> np.ndarray:
    ir.save(model, path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found: list[Any] = session.run(["o"], dict(zip("qkv", arrays, strict=True)))
    return np.asarray(found[0])


@pytest.mark.parametrize(("heads", "width", "batch"), [(1, 64, 1), (4, 40, 3), (2, 160, 2), (5, 8, 0)])
def test_both_forms_are_what_torch_computes(heads: int, width: int, batch: int, tmp_path: Path) -> None:
    """Sizes that the export never saw; no rows give no rows."""
    model = exported(heads, width, 0.17)
    assert has_fused(model) and len(list(model.graph)) == 1
    random = np.random.RandomState(heads)
    q, k, v = (random.randn(batch, tokens, heads * width).astype(np.float32) for tokens in (77, 33, 33))
    a, b, c = (torch.from_numpy(x).unflatten(2, (heads, width)).transpose(1, 2).double() for x in (q, k, v))
    wanted = functional.scaled_dot_product_attention(a, b, c, scale=0.17).transpose(1, 2).flatten(2).numpy()
    fused = run(model, tmp_path / "fused.onnx", q, k, v)
    np.testing.assert_allclose(fused, wanted, atol=1e-5)
    write_out(model)
    assert not has_fused(model) and "com.microsoft" not in model.graph.opset_imports
    np.testing.assert_allclose(run(model, tmp_path / "plain.onnx", q, k, v), wanted, atol=1e-5)


def test_an_output_keeps_its_name(tmp_path: Path) -> None:
    model = exported(2, 4, 1.0)
    write_out(model)
    assert [value.name for value in model.graph.outputs] == ["o"]
