"""TensorRT engines of a bundle: graphs compiled ahead of time for certain GPUs, run without ONNX Runtime.

Reading order: `schema` (what bundle.json says of an engine), `driver` (is there a GPU, asked without TensorRT),
`selection` (the engine for this machine, or why there is none), `cuda` and `session` (running one), `backends` (what
would run here).

Nothing here imports TensorRT before `driver` has found a GPU: without one its runtime ends the process.
"""
