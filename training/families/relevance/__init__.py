"""Channel relevance. `run` says what a run is made of, `module` holds the losses."""
