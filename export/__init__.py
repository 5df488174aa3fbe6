"""Limner's export: torch checkpoints become a bundle of ONNX graphs with a parity report.

Reading order:

1. `networks`: the torch networks, read from checkpoints
2. `synthesis`, `clip_tower`: two of them rewritten for inference engines
3. `gradient_rules`, `gradient_graph`: backward rules, and the gradient of latent optimization as one traced graph
4. `graphs`: what each graph computes, its export and the reference that it must agree with
5. `simplify`, `rewrites`, `weights`: fewer nodes, and one file of weights for all graphs
6. `parity`, `cards`, `bundle_writer`, `cli`: errors against torch, licences, and the bundle written whole or not at all
7. `diffusion`: the same for a Stable Diffusion folder in diffusers' format
8. `precision`, `tensorrt`: a bundle in fp16 or int8 behind a gate, and its graphs as engines
9. `bench`, `battery`, `inversion_report`: how fast the result is, and how good
"""

if __name__ != "limner.export":
    raise ImportError(f"import this package as 'limner.export', not as {__name__!r}: pip install -e . first")

import os

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before any module here imports onnxruntime
