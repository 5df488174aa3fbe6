"""The benchmark on tiny networks: both sides of a comparison do the same work, and the report holds the figures."""

from pathlib import Path

import pytest
import torch

from benchmarks.stylegan2 import (
    Report,
    StepTiming,
    as_markdown,
    compare_steps,
    machine,
    runtime_step,
    time_edits,
    torch_step,
)
from limner.export.stylegan2.graphs import Sampler
from limner.export.stylegan2.networks import Networks, load_networks
from limner.runtime.bundle.loading import Bundle
from limner.runtime.editor import Editor
from limner.runtime.stylegan2.networks import Models


@pytest.fixture(scope="module")
def networks(tiny_checkpoints: Path) -> Networks:
    return load_networks(tiny_checkpoints)


def test_both_sides_make_the_same_step(networks: Networks, tiny_bundle: Bundle) -> None:
    inputs = Sampler(networks).latent_gradient(2, torch.Generator().manual_seed(0))
    in_torch = torch_step(networks, inputs)
    in_runtime = runtime_step(Models(tiny_bundle, threads=1), inputs)
    for _ in range(3):
        wanted, found = in_torch(), in_runtime()
    torch.testing.assert_close(torch.from_numpy(found), wanted.detach(), rtol=1e-3, atol=1e-3)
    assert not torch.equal(wanted.detach(), inputs[0])


def test_step_timing(networks: Networks, tiny_bundle: Bundle) -> None:
    timing = compare_steps(networks, tiny_bundle, threads=1, batch=2, repeats=3)
    assert timing.ratio == pytest.approx(timing.torch_ms / timing.runtime_ms)


def test_edit_stages(tiny_bundle: Bundle) -> None:
    stages = time_edits(Editor(tiny_bundle, threads=1), repeats=2, new_words=False)
    assert {"source", "text", "affine", "synthesis", "total"} <= set(stages)


def test_report_shows_every_figure() -> None:
    report = Report(
        machine(), [StepTiming(1, 1, 60.0, 30.0, 2.0, 3)], {"total": 12.5}, {"total": 99.5}, [0.25], {"mapping": 7.0}
    )
    text = as_markdown(report)
    for figure in ("60.0", "30.0", "2.00", "12.5", "99.5", "0.25", "| mapping | 7 |"):
        assert figure in text
