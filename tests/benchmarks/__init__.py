"""What times things, or takes hours: tables go to docs/figures/, `make help` lists the targets.

- `stylegan2`, `diffusion`, `attention_control`: edits beside torch and diffusers eager, both sides in turns
- `size`: a UNet of Stable Diffusion's shape on a CPU, beside diffusers, torch.compile and OpenVINO
- `inversion`: what inversions keep
- `engines`, `scale_engines`: graphs compiled for GPUs without one; `scale_diffusion`: Stable Diffusion 1.5's size
"""
