"""The second judge. `run` says what a run is made of, `module` holds the losses, `figures` are its card's."""
