"""`python -m limner.export.diffusion.battery`."""

from limner.export.diffusion.battery.command import app

app()
