"""The driver is asked without TensorRT, and CUDA is called with the right signatures (against a stand-in in C)."""

import ctypes
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from limner.runtime.errors import LimnerError, ProviderError
from limner.runtime.graphs.cuda import Buffers, CudaDevice
from limner.runtime.graphs.driver import probe_driver

COMPILER = shutil.which("cc") or shutil.which("gcc")
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C compiler to build the stand-in with")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("cuda") / "libcuda.so.1"
    source = Path(__file__).with_name("libcuda.c")
    subprocess.run([str(COMPILER), "-shared", "-fPIC", "-o", str(out), str(source)], check=True)
    return str(out)


def test_no_driver_is_a_reason() -> None:
    driver = probe_driver("libcuda-that-is-not-there.so.1")
    assert driver.gpus == ()
    assert "libcuda-that-is-not-there.so.1 is missing" in driver.reason
    with pytest.raises(ProviderError, match="'engine' on a machine where there is no NVIDIA driver"):
        driver.require("engine")


def test_another_library_is_a_reason() -> None:
    assert "is not an NVIDIA driver" in probe_driver("libc.so.6").reason


@needs_compiler
def test_the_gpu_is_named(library: str) -> None:
    driver = probe_driver(library)
    assert driver.version == "13.0"
    assert driver.require("engine").target == "sm89"
    assert (driver.gpus[0].name, driver.gpus[0].memory) == ("Stand-in", 24 << 30)


@needs_compiler
def test_memory_and_graphs(library: str) -> None:
    device = CudaDevice(probe_driver(library), library)
    buffers = Buffers(device)
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    address = buffers.address("x", array.nbytes)
    device.upload(address, array)
    back = np.empty_like(array)
    device.download(address, back)
    device.synchronize()
    np.testing.assert_array_equal(back, array)
    assert buffers.address("x", 8) == address
    assert buffers.moves == 0
    buffers.address("x", 1 << 16)
    assert buffers.moves == 1
    graph = device.capture(lambda: None)
    device.launch(graph)
    device.launch(graph)
    assert ctypes.CDLL(library).launched() == 2
    device.forget(graph)
    buffers.close()
    with pytest.raises(LimnerError, match=r"the GPU refused cuMemAlloc_v2: out of memory \(CUDA error 2\)"):
        device.allocate(1 << 41)


def test_tensorrt_is_not_imported_without_a_gpu(repository: Path) -> None:
    code = (
        "import sys\n"
        "from limner.runtime.graphs.backends import backends\n"
        "from limner.runtime.graphs.providers import available_providers, check_provider\n"
        "backends(); available_providers()\n"
        "try: check_provider('engine')\n"
        "except Exception: pass\n"
        "assert not {'tensorrt', 'tensorrt_rtx', 'torch'} & set(sys.modules), 'imported'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
