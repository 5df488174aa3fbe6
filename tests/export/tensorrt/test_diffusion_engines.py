"""Every graph of a diffusion bundle compiles: text encoder, both halves of the VAE, the control UNet."""

from pathlib import Path

import pytest
from support.tiny_diffusion import write_folder

from limner.export.diffusion.writer import DiffusionExport, export_folder
from limner.export.tensorrt.compile import EngineConfig, compile_bundle

pytest.importorskip("tensorrt_rtx", reason="the extra tensorrt-rtx has wheels for x86-64 alone")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sd1", "sd2", "sdxl"])
def test_every_graph_compiles(tmp_path: Path, kind: str) -> None:
    bundle = export_folder(write_folder(tmp_path / kind, kind), tmp_path / "bundle", DiffusionExport(name=kind), print)
    built = compile_bundle(bundle.root, EngineConfig(("sm86", "sm89", "sm120")), stop_at_refusal=False)
    assert {one.graph: one.refused for one in built} == dict.fromkeys(bundle.manifest.graphs, ())
