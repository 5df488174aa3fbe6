"""Diffusion bundles: a diffusers folder becomes ONNX graphs, its UNet with attention control.

Reading order:

1. `folder`: what is in the folder, checked
2. `layers`: attention layers by name, and which of them are edited
3. `rows`, `control`: the UNet whose attention follows the control inputs; `surgery`: its slow reference
4. `parts`: text encoder and autoencoder as plain functions
5. `trace`, `specs`: modules as ONNX models with free axes, and what each must agree with
6. `report`, `writer`, `cli`: parity, and the bundle written whole or not at all
7. `scale`: the same at the size of Stable Diffusion 1.5
"""
