"""Samplers of diffusion models: `schedule`, then a file a kind; `by_name` finds one.

`alpha` steps in alphas (DDIM, DDPM, PNDM), `sigma` in sigmas (Euler, Heun, LMS), `multistep` keeps earlier estimates
(DPM-Solver++, UniPC, DEIS), `few_step` is for distilled models (LCM, TCD).
"""
