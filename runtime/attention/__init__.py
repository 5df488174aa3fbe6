"""Attention control: every Prompt-to-Prompt edit as tensors that the exported UNet takes.

Reading order:

1. `words`: a prompt as words and tokens, and where a word stands in it
2. `aligners`: which token of the source each token of an edit takes its attention from
3. `windows`: when, per word and per step
4. `control`: the tensors of one call of the UNet, and which rows it needs
5. `local_blend`: what may change in the picture, from the attention of some words
6. `maps`: the attention of every word as pictures
7. `settings`, `plan`: what may be asked of an edit, and what a run makes of it
8. `editing`: the run, from latents to latents
"""
