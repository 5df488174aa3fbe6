"""SEGA's algebra: `concepts` (the published guidance), `masks` (LEDITS++), `steering` (both, step by step)."""
