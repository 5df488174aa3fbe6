"""Weights that people already own, from the formats in which they were published, as Limner's checkpoints.

Reading order: `files` (foreign files as data, nothing executed), `states` (state dicts and shared checks), one file a
family (`stylegan2`, `nvidia`, `encoder`, `identity`, `clip` with `tokenizer`, `mapper`, `directions`), `sets` (the
folder that they go to), `registry` (which file is what, and the import), `cli` (`limner models import`).
"""
