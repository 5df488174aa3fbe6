"""One file of weights for all graphs of a bundle.

Every large constant goes to `weights.bin` once, whatever number of graphs use it, found again by the hash of its
bytes. With storage "fp16" a constant that fp16 holds exactly (weights read from fp16 checkpoints are such) is kept
as fp16 with a cast behind it, which ONNX Runtime folds when it loads the graph; every other constant stays fp32.
So storage never changes a number.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

Storage = Literal["fp16", "fp32"]
WEIGHTS = "weights.bin"
SMALLEST_BYTES = 256  # smaller constants stay inside the graph's own file
ALIGNMENT = 64  # bytes


class WeightFile:
    """Writes `folder`/weights.bin and remembers what is in it."""

    def __init__(self, folder: Path, storage: Storage = "fp16", name: str = WEIGHTS) -> None:
        self.folder, self.storage, self.name = folder, storage, name
        self.places: dict[str, tuple[int, int]] = {}  # sha256 -> offset, length
        self.size = 0
        self.shared = 0  # bytes that were there already
        (folder / name).write_bytes(b"")

    def place(self, data: bytes) -> tuple[int, int]:
        """Offset and length of `data` in the file, written now if it is new."""
        digest = hashlib.sha256(data).hexdigest()
        if digest in self.places:
            self.shared += len(data)
            return self.places[digest]
        offset = -(-self.size // ALIGNMENT) * ALIGNMENT
        with (self.folder / self.name).open("ab") as stream:
            stream.write(b"\0" * (offset - self.size) + data)
        self.size = offset + len(data)
        self.places[digest] = (offset, len(data))
        return self.places[digest]

    def save(self, model: ir.Model, path: Path) -> Path:
        """Move the large constants of `model` here and write the graph to `path`, in the same folder."""
        for value in list(model.graph.initializers.values()):
            if value.const_value is not None and value.const_value.nbytes >= SMALLEST_BYTES:
                self._move(model, value)
        ir.save(model, path)
        return path

    def _move(self, model: ir.Model, value: ir.Value) -> None:
        array = np.ascontiguousarray(value.const_value.numpy())  # type: ignore[union-attr]
        if self.storage == "fp16" and exact_in_fp16(array):
            self._cast_behind(model, value, array.astype(np.float16))
        else:
            value.const_value = self._external(value.name or "", array)

    def _cast_behind(self, model: ir.Model, value: ir.Value, half: NDArray[Any]) -> None:
        name = f"{value.name}_fp16"
        stored = ir.Value(
            name=name,
            shape=ir.Shape(half.shape),
            type=ir.TensorType(ir.DataType.FLOAT16),
            const_value=self._external(name, half),
        )
        cast = ir.node("Cast", [stored], attributes={"to": ir.DataType.FLOAT}, name=f"{value.name}_cast")
        restored = cast.outputs[0]
        restored.shape, restored.type = ir.Shape(half.shape), ir.TensorType(ir.DataType.FLOAT)
        old_name = value.name or ""
        value.replace_all_uses_with(restored, replace_graph_outputs=True)
        del model.graph.initializers[old_name]
        restored.name = old_name
        model.graph.initializers[name] = stored
        model.graph.insert_before(model.graph[0], cast)

    def _external(self, name: str, array: NDArray[Any]) -> ir.ExternalTensor:
        offset, length = self.place(array.tobytes())
        return ir.ExternalTensor(
            self.name,
            offset,
            length,
            ir.DataType.from_numpy(array.dtype),
            name=name,
            shape=ir.Shape(array.shape),
            base_dir=str(self.folder),
        )


def data_files(path: Path) -> tuple[str, ...]:
    """The files beside a graph that its weights lie in."""
    values = ir.load(path).graph.initializers.values()
    found = {str(v.const_value.location) for v in values if isinstance(v.const_value, ir.ExternalTensor)}
    return tuple(sorted(found))


def exact_in_fp16(array: NDArray[Any]) -> bool:
    """True if a float32 array survives the way to fp16 and back bit for bit."""
    if array.dtype != np.float32:
        return False
    with np.errstate(over="ignore"):
        return bool(np.array_equal(array.astype(np.float16).astype(np.float32), array))
