"""Which TensorRT is installed, behind one small interface.

- `tensorrt-rtx`, TensorRT for RTX: builds ahead of time for several GPUs, on a machine with none of them; kernels are
  finished on the user's GPU. Always strongly typed: a tensor has the type that the graph gives it.
- `tensorrt`, TensorRT for servers and Jetson: builds for the GPU at hand and times its kernels on it. 11.x is strongly
  typed; 10.x is by default weakly typed: it takes the fp32 graph and may choose fp16 where that is faster, but in the
  nodes that have to stay fp32.
"""

from __future__ import annotations

import importlib
from typing import Any

from limner.export.tensorrt.request import EngineBuilder
from limner.runtime.bundle.engines import Builder
from limner.runtime.errors import InputError
from limner.runtime.graphs.driver import Driver, probe_driver
from limner.runtime.graphs.selection import RUNTIMES, module_version

WAYS: dict[Builder, str] = {
    "tensorrt": "`pip install 'limner[tensorrt]'` builds on and for the GPU at hand",
    "tensorrt-rtx": "`pip install 'limner[tensorrt-rtx]'` builds for RTX GPUs, and needs none",
}


def installed() -> tuple[Builder, ...]:
    """The builders whose packages are there, without importing them."""
    return tuple(name for name in WAYS if module_version(RUNTIMES[name]) is not None)


def find_builder(name: str | None = None, driver: Driver | None = None) -> EngineBuilder:
    """The builder of that name, or the one that can work here; InputError says what to install.

    Without a name it is `tensorrt` where it is installed and has a GPU, else `tensorrt-rtx`.
    """
    from limner.export.tensorrt.api import RtxBuilder, ServerBuilder

    there, driver = installed(), probe_driver() if driver is None else driver
    if name is not None and name not in WAYS:
        raise InputError("builder", repr(name), " or ".join(WAYS))
    if name is None:
        usable = [found for found in there if found == "tensorrt-rtx" or driver.gpus]
        if not usable:
            given = f"no builder that can work here ({', '.join(there) or 'none'} installed"
            given += f", {driver.reason})" if driver.reason else ")"
            raise InputError("builder", given, " or ".join(WAYS), "; ".join(WAYS.values()))
        name = usable[0]
    if name not in there:
        other = next((found for found in there if found != name), None)
        allowed = f"{other}, which is installed" if other else "an installed builder"
        raise InputError("builder", f"{name!r}, which is not installed", allowed, WAYS[name])
    if name == "tensorrt":
        driver.require("tensorrt")
        return ServerBuilder(_import(RUNTIMES["tensorrt"]), driver)
    return RtxBuilder(_import(RUNTIMES["tensorrt-rtx"]), driver)


def _import(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except (ImportError, OSError, RuntimeError) as reason:
        first = (str(reason).strip() or type(reason).__name__).splitlines()[0]
        raise InputError("builder", f"a {module} that does not import ({first})", "a working installation") from reason
