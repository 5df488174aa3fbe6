"""The StyleGAN2 family: networks, sources, inversion, and the walk down a loss in W+, P_N or S.

Reading order: `networks`, `sources`, `inversion`; `descent`, `spaces`, `adam`, `trajectory`, `warm_start`.
"""
