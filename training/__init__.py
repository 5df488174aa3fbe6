"""Limner's training: avatars, base models and channel relevance, with torch and Lightning."""

if __name__ != "limner.training":
    raise ImportError(f"import this package as 'limner.training', not as {__name__!r}: pip install -e . first")
