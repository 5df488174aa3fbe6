"""A bundle inside the diffusers folder that it is made from: the graphs read the folder's own weights.

A safetensors file is raw numbers behind a header, so ONNX's external data can point into it. A weight that the graphs
need as the folder stores it, or transposed, is found by the hash of its bytes and stored once for both; what is left
(masks, small tables) goes into weights.bin. ONNX Runtime folds the casts and transposes when it loads a graph.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
from pathlib import Path

import numpy as np
import onnx_ir as ir

from limner.export.onnx.weights import Storage, WeightFile, exact_in_fp16
from limner.runtime.bundle.manifest import MANIFEST
from limner.runtime.storage.stopping import whole

Place = tuple[str, int, int]  # file, offset, length


class FolderWeights(WeightFile):
    """A weight file beside the weights that `root` has already."""

    def __init__(self, folder: Path, storage: Storage, root: Path, files: tuple[Path, ...]) -> None:
        super().__init__(folder, storage)
        self.known = {digest: place for file in files for digest, place in tensors_of(root, file).items()}
        for file in files:
            link(file, folder / file.relative_to(root))

    def _move(self, model: ir.Model, value: ir.Value) -> None:
        array = np.ascontiguousarray(value.const_value.numpy())  # type: ignore[union-attr]
        stored = array.astype(np.float16) if self.storage == "fp16" and exact_in_fp16(array) else array
        turned = array.ndim == 2 and _digest(stored) not in self.known and _digest(stored.T) in self.known
        super()._move(model, _turned(model, value, array) if turned else value)

    def _external(self, name: str, array: np.ndarray) -> ir.ExternalTensor:
        place = self.known.get(_digest(array))
        if place is None:
            return super()._external(name, array)
        file, offset, length = place
        self.shared += length
        dtype, shape = ir.DataType.from_numpy(array.dtype), ir.Shape(array.shape)
        return ir.ExternalTensor(file, offset, length, dtype, name=name, shape=shape, base_dir=str(self.folder))


def _turned(model: ir.Model, value: ir.Value, array: np.ndarray) -> ir.Value:
    """The initializer as the transpose of a new one, which is returned."""
    name, flipped = value.name or "", np.ascontiguousarray(array.T)
    stored = ir.Value(name=f"{name}_stored", shape=ir.Shape(flipped.shape), type=value.type,
                      const_value=ir.Tensor(flipped, name=f"{name}_stored"))  # fmt: skip
    node = ir.node("Transpose", [stored], attributes={"perm": [1, 0]}, name=f"{name}_turn")
    out = node.outputs[0]
    out.shape, out.type = ir.Shape(array.shape), value.type
    value.replace_all_uses_with(out, replace_graph_outputs=True)
    del model.graph.initializers[name]
    out.name = name
    model.graph.initializers[f"{name}_stored"] = stored
    model.graph.insert_before(model.graph[0], node)
    return stored


def tensors_of(root: Path, file: Path) -> dict[str, Place]:
    """sha256 of a tensor's bytes -> where it lies, of a safetensors file (huggingface's format: a header's length in
    eight bytes, a JSON header, raw little-endian numbers).
    """
    found: dict[str, Place] = {}
    name = file.relative_to(root).as_posix()
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        header = json.loads(stream.read(length))
        header.pop("__metadata__", None)
        for entry in header.values():
            first, last = entry["data_offsets"]
            stream.seek(8 + length + first)
            found.setdefault(
                hashlib.sha256(stream.read(last - first)).hexdigest(), (name, 8 + length + first, last - first)
            )
    return found


def link(file: Path, place: Path) -> None:
    """The file at a second place: a hard link, or a copy on another file system. A file that is a link itself, as in a
    hub's cache, is copied: a bundle's files lie in it."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if file.is_symlink():
        shutil.copyfile(file, place)
        return
    try:
        os.link(file, place)
    except OSError:
        shutil.copyfile(file, place)


def put_into(beside: Path, root: Path) -> None:
    """Move a finished bundle into `root`, whose own files are part of it; without bundle.json it is none, so that
    file goes first and comes last.
    """
    with whole():
        _put(beside, root)


def _put(beside: Path, root: Path) -> None:
    (root / MANIFEST).unlink(missing_ok=True)
    for path in sorted(beside.rglob("*"), key=lambda path: path.name == MANIFEST):
        target = root / path.relative_to(beside)
        if path.is_file() and (target.is_symlink() or not (target.exists() and path.samefile(target))):
            target.parent.mkdir(exist_ok=True)
            path.replace(target)


def _digest(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
