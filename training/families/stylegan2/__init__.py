"""StyleGAN2. `run` has three stages: `warmup`, `mapping`, `adversarial`; `figures` are its card's."""
