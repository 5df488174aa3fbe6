"""Avatars: the captioned pictures that every shipped model learns from.

Reading order: ``attributes`` (what can vary and how it is sampled), ``render`` (one picture),
``captions`` (words for it), ``dataset`` (the memory-mapped cache and the LightningDataModule).
"""
