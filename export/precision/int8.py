"""A graph with 8-bit convolutions and matrix products for small CPUs: static, calibrated on pictures.

Weights are int8 per channel, activations uint8 with the limits seen in calibration; quantise and dequantise nodes stand
beside what they surround, which ONNX Runtime fuses. Weights use 7 of the 8 bits: without VNNI the products of two full
8-bit numbers overflow the 16-bit sums of AVX2 (ONNX Runtime, "reduce_range").

Some graphs bear it in every layer, some in their convolutions alone, some not at all. `int8_model` tries in this order
(`ATTEMPTS`), the caller's gate decides.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from limner.export.precision.half import settled
from limner.export.precision.samples import GRADIENTS, Samples
from limner.runtime.bundle.loading import Bundle
from limner.runtime.storage.folders import scratch

ATTEMPTS = {"all": ("Conv", "MatMul", "Gemm"), "convolutions": ("Conv",)}
Accept = Callable[[ir.Model], bool]


@dataclass(frozen=True)
class Int8Config:
    """How a graph is calibrated."""

    batches: int = 8
    batch: int = 4
    seed: int = 3


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, samples: Samples, graph: str, config: Int8Config) -> None:
        self._feeds: Iterator[dict[str, Any]] = (samples(graph, config.batch) for _ in range(config.batches))

    def get_next(self) -> dict[str, Any] | None:
        return next(self._feeds, None)


def int8_model(
    bundle: Bundle, graph: str, samples: Samples, accept: Accept, config: Int8Config = Int8Config()
) -> tuple[ir.Model, str] | None:
    """The int8 form that `accept` takes, with the name of the attempt, or None if there is none."""
    if graph in GRADIENTS:  # one of 8 bits leads nowhere
        return None
    model = settled(bundle.file(bundle.graph(graph).file))
    with scratch("limner-int8-") as beside:
        source = beside / "fp32.onnx"
        ir.save(model, source, external_data="fp32.data", size_threshold_bytes=256)
        present = {node.op_type for node in model.graph}
        tried: set[frozenset[str]] = set()
        for name, operators in ATTEMPTS.items():
            chosen = frozenset(operators) & present
            if not chosen or chosen in tried:
                continue
            tried.add(chosen)
            target = beside / f"{name}.onnx"
            _quantize(source, target, _Reader(samples, graph, config), sorted(chosen))
            made = ir.external_data.load_to_model(ir.load(target))
            if accept(made):
                return made, name
    return None


def _quantize(source: Path, target: Path, reader: _Reader, operators: list[str]) -> None:
    level = logging.root.level
    logging.root.setLevel(logging.ERROR)  # it recommends a preparation that `settled` has done
    try:
        quantize_static(
            str(source),
            str(target),
            reader,
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=operators,
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            use_external_data_format=True,
        )
    finally:
        logging.root.setLevel(level)
