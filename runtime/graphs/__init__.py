"""Where graphs run: sessions of ONNX Runtime or TensorRT engines, on the provider that was asked for.

Reading order: `providers`, `threads`, `sessions`; `binding` and `linear` (arrays that stay where they
are); `driver` (is there a GPU, asked without TensorRT), `selection` (the engine for this machine, or why there is
none), `cuda` and `tensorrt` (running one), `backends` (what would run here).

Nothing here imports TensorRT before `driver` has found a GPU: without one its runtime ends the process.
"""
