"""What every training's loop has: guarded steps, checkpoints, a run folder that can be gone on with, loggers by name.

Reading order: `steps` (what surrounds one step), `checkpoints` (last and best), `run_folder` (what is refused before
anything is touched), `extras` (loggers and callbacks by name), `progress_line` (what a person reads).
"""
