"""The figures of the model cards: one file per family, each a function from a network and data to numbers."""
