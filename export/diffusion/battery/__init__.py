"""`make battery-diffusion`: do Prompt-to-Prompt and SEGA do what the words say, and nothing else?

Judged as `limner.export.battery` judges: the asked attribute is seen, and 85 % of the others stay. Read in this order:

- words: the words that the methods get for an edit of an avatar
- methods: what is compared, and a recipe for each edit
- rows: what is kept of each edit, line by line, so that a run goes on where it stopped
- runs: the three parts: prompts, generated pictures, held-out pictures
- report: tables with Wilson's intervals
- command: `python -m limner.export.diffusion.battery`
- tuning: settings chosen on validation pictures, `python -m limner.export.diffusion.battery.tuning`
"""
