"""The weights and bundles that ship with Limner: data only, no code."""

if __name__ != "limner.checkpoints":
    raise ImportError(f"import this package as 'limner.checkpoints', not as {__name__!r}: pip install -e . first")
