"""An edit in words: what is written on a command line or the page, as a recipe, and back.

Reading order: `recipes`, `concepts` (SEGA's), `words` (Prompt-to-Prompt's); `spelled` is the way back.
"""
