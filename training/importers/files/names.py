"""What a pickle of weights may ask for, and the data that stands in for it.

`known` is the whole allow-list. A tensor becomes a `TensorRecord` that is read when it is needed, within the bounds of
its storage; an array of numpy becomes an `ArrayRecord`; objects of NVIDIA's persistent classes and of TorchScript
become `Record`s of their attributes, their embedded source being dropped unread.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from limner.training.importers.files.pickles import Name, Record, Refused, StandIn, StandIns

DTYPES = {
    "Float": torch.float32, "Double": torch.float64, "Half": torch.float16, "BFloat16": torch.bfloat16,
    "Long": torch.int64, "Int": torch.int32, "Short": torch.int16, "Char": torch.int8, "Byte": torch.uint8,
    "Bool": torch.bool,
}  # fmt: skip
Array = np.ndarray[Any, np.dtype[Any]]
MAX_DIMENSIONS = 8
MAX_COPIES = 16  # of one storage, by all tensors that view it
DTYPE = re.compile(r"[<>=|]?(?:f[248]|[iu][1248]|b1|\?)")  # of numpy, as pickles write it


class StorageRecord:
    """A storage of `count` elements; `read` gives its bytes. Views of it are copies, MAX_COPIES times it all in all:
    tied weights are two, and thousands of views of one storage would be memory without end."""

    def __init__(self, dtype: torch.dtype, count: int, read: Callable[[], memoryview]) -> None:
        self.dtype, self.count, self.read, self.copied = dtype, count, read, 0

    def tensor(self, first: int, size: tuple[int, ...], stride: tuple[int, ...]) -> torch.Tensor:
        """A copy of the elements that a view reads."""
        last = first + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        count = math.prod(size)
        if count == 0:
            return torch.empty(size, dtype=self.dtype)
        if min(first, *size, *stride, 0) < 0 or last >= self.count or count > self.count:
            raise Refused(f"a tensor {list(size)} that leaves its storage of {self.count} elements")
        self.copied += count
        if self.copied > MAX_COPIES * self.count:
            raise Refused(f"tensors that read one storage of {self.count} elements more than {MAX_COPIES} times")
        data, width = self.read(), self.dtype.itemsize
        if len(data) != self.count * width:
            raise Refused(f"a storage of {len(data)} bytes instead of {self.count * width}")
        part = torch.frombuffer(bytearray(data[first * width : (last + 1) * width]), dtype=self.dtype)
        return part.as_strided(size, stride).contiguous()


class TensorRecord:
    """A tensor as a view of its storage."""

    def __init__(self, storage: StorageRecord, first: int, size: tuple[int, ...], stride: tuple[int, ...]) -> None:
        self.storage, self.first, self.size, self.stride = storage, first, size, stride

    def tensor(self) -> torch.Tensor:
        return self.storage.tensor(self.first, self.size, self.stride)


class DtypeRecord(Record):
    """numpy's dtype; BUILD brings the byte order."""

    def dtype(self) -> np.dtype[Any]:
        found = np.dtype(self.kind)
        order = self.state[1] if isinstance(self.state, tuple) and len(self.state) > 1 else "|"
        return found.newbyteorder(">") if order == ">" else found.newbyteorder("<") if order == "<" else found


class ArrayRecord(Record):
    """numpy's array; BUILD brings version, shape, dtype, order and bytes, unless it is there already."""

    def __init__(self, found: Array | None = None) -> None:
        super().__init__("ndarray")
        self.found = found

    def array(self) -> Array:
        if self.found is not None:
            return self.found
        if not isinstance(self.state, tuple) or len(self.state) != 5:
            raise Refused("a pickle with an array without data")
        _, shape, dtype, fortran, data = self.state
        return to_array(data, dtype, shape, "F" if fortran else "C")


def to_array(data: Any, dtype: Any, shape: Any, order: Any) -> Array:
    """An array from its raw bytes; a copy."""
    if not isinstance(dtype, DtypeRecord) or not isinstance(data, (memoryview, bytes)):
        raise Refused("a pickle with an array of objects")
    kind, numbers = dtype.dtype(), _integers(shape)
    if len(data) != math.prod(numbers) * kind.itemsize:
        raise Refused(f"an array {list(numbers)} whose data has {len(data)} bytes")
    return np.frombuffer(data, kind).reshape(numbers, order="F" if order == "F" else "C").astype(kind.newbyteorder("="))


def _integers(values: Any) -> tuple[int, ...]:
    given = tuple(values) if isinstance(values, (tuple, list)) else (None,)
    if len(given) > MAX_DIMENSIONS or not all(type(v) is int and abs(v) < 2**40 for v in given):
        raise Refused("a pickle with a shape that is none")
    return given


def _rebuild_tensor(storage: Any, first: Any, size: Any, stride: Any, *_rest: Any) -> TensorRecord:
    if not isinstance(storage, StorageRecord) or type(first) is not int:
        raise Refused("a pickle with a tensor without a storage")
    shape, steps = _integers(size), _integers(stride)
    if len(shape) != len(steps):
        raise Refused("a pickle with a tensor whose sizes and strides differ in number")
    return TensorRecord(storage, first, shape, steps)


def _dtype(code: Any, *_rest: Any) -> DtypeRecord:
    if not isinstance(code, str) or not DTYPE.fullmatch(code):
        raise Refused(f"a pickle with an array of the type {_short(code)}")
    return DtypeRecord(code)


def _scalar(dtype: Any, data: Any) -> Any:
    raw = data.encode("latin-1") if isinstance(data, str) else data
    return to_array(raw, dtype, (), "C").item()


def _encode(text: Any, coding: Any = "latin1") -> bytes:
    """Bytes of Python 3 in a pickle of protocol 2."""
    if not isinstance(coding, str) or coding not in ("latin1", "latin-1") or not isinstance(text, str):
        raise Refused(f"a pickle with bytes in {_short(coding)}")
    return text.encode("latin-1")


def _short(value: Any) -> str:
    """A value in an error: what is no text or number is not written out, since it may hold itself many times over."""
    return repr(value)[:40] if isinstance(value, (str, int, float, Name)) else f"a {type(value).__name__}"


def _ordered(pairs: Any = ()) -> dict[Any, Any]:
    """An OrderedDict; items usually follow by SETITEMS. Pairs come from Python 2."""
    if not all(isinstance(pair, (tuple, list)) and len(pair) == 2 and isinstance(pair[0], str) for pair in pairs):
        raise Refused("a pickle with a mapping whose keys are not plain")
    return dict(pairs)


def _persistent_object(meta: Any) -> Record:
    """An object of a persistent class (stylegan2-ada-pytorch, torch_utils/persistence.py): {class_name, state, ...};
    `module_src`, which the published loader executes, is not looked at."""
    if (
        not isinstance(meta, dict)
        or not isinstance(meta.get("state"), dict)
        or not isinstance(meta.get("class_name", ""), str)
    ):
        raise Refused("a persistent object without a state")
    return Record(str(meta.get("class_name")), meta["state"])


def _empty() -> dict[Any, Any]:
    """A mapping whose items follow by SETITEMS."""
    return {}


def _joined(*parts: Any) -> str:
    return "/".join(part if isinstance(part, str) else _short(part) for part in parts)


def _storage_type(name: Name) -> torch.dtype | None:
    kind = name.name.removesuffix("Storage")
    return DTYPES.get(kind) if name.module in ("torch", "torch.cuda") and kind != name.name else None


def storage_dtype(name: Any) -> torch.dtype:
    """The element type of a storage class such as torch.FloatStorage."""
    dtype = _storage_type(name) if isinstance(name, Name) else None
    if dtype is None:
        raise Refused(f"a pickle with a storage of the class {_short(name)}")
    return dtype


def _nothing(*_arguments: Any) -> None:
    raise Refused("a pickle that calls a type which is only a label")


def _record(kind: str) -> StandIn:
    return lambda *_arguments: Record(kind)


_NUMPY = {
    "multiarray._reconstruct": lambda *_arguments: ArrayRecord(),
    "multiarray.scalar": _scalar,
    "numeric._frombuffer": lambda *parts: ArrayRecord(to_array(*parts)),
}
_KNOWN: dict[str, StandIn] = {
    "collections.OrderedDict": _ordered,
    "argparse.Namespace": _record("Namespace"),
    "_codecs.encode": _encode,
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_parameter": lambda data, *_rest: data,
    "torch.nn.parameter.Parameter": lambda data, *_rest: data,
    "torch.Size": lambda size: _integers(size),
    "torch.device": _joined,
    "numpy.dtype": _dtype,
    "numpy.ndarray": _nothing,
    **{f"{core}.{name}": call for core in ("numpy.core", "numpy._core") for name, call in _NUMPY.items()},
    **{f"{module}.set": lambda members=(): list(members) for module in ("builtins", "__builtin__")},
    **{str(dtype): _nothing for dtype in DTYPES.values()},
    **{f"pathlib.{name}": _joined for name in ("Path", "PosixPath", "WindowsPath", "PurePosixPath")},
}
_NVIDIA: dict[str, StandIn] = {
    "torch_utils.persistence._reconstruct_persistent_obj": _persistent_object,
    "dnnlib.util.EasyDict": _empty,
    "dnnlib.EasyDict": _empty,
}


def known(load_bytes: StandIn | None = None, script: bool = False) -> StandIns:
    """The allow-list. `load_bytes` reads a storage inside a plain pickle, `script` admits TorchScript's classes."""

    def find(name: Name) -> StandIn | None:
        text = str(name)
        if script and name.module.startswith("__torch__"):
            return _record(name.name)
        if script and name.module == "torch.jit._pickle":
            return lambda values: values
        if text == "torch.storage._load_from_bytes":
            return load_bytes
        if _storage_type(name) is not None:
            return _nothing
        return _KNOWN.get(text) or _NVIDIA.get(text)

    return find
