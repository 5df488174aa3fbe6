"""The bundle of a StyleGAN2.

Reading order: `networks`, `synthesis`, `clip_tower`; `gradient_rules`, `gradient_graph`; `graphs`, `writer`.
"""
