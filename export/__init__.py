"""Limner's export: torch checkpoints become a bundle of ONNX graphs with a parity report.

Reading order, by rooms:

1. `stylegan2`: its networks, two of them rewritten for inference engines, the gradient of latent optimization as one
   traced graph, and the bundle written whole or not at all
2. `onnx`: fewer nodes, and one file of weights for all graphs
3. `report`: errors against torch, licences
4. `diffusion`: the same for a Stable Diffusion folder in diffusers' format
5. `precision`, `tensorrt`: a bundle in fp16 or int8 behind a gate, and its graphs as engines
6. `judge`: the attribute judge as a graph, for `limner study`
7. `cli`: the verbs of `limner export`
"""

if __name__ != "limner.export":
    raise ImportError(f"import this package as 'limner.export', not as {__name__!r}: pip install -e . first")

import os

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before any module here imports onnxruntime
