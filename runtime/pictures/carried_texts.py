"""Names of what a picture of ours says of itself: texts of a PNG, properties of an XMP packet. See `provenance`."""

__all__ = ["BUNDLE", "COMPARE", "PIXELS", "PREFIX", "PROVIDER", "RECIPE", "SOFTWARE", "SOURCE", "WATERMARK"]

PREFIX = "limner."
RECIPE, BUNDLE, SOURCE, PROVIDER, PIXELS, COMPARE, WATERMARK, SOFTWARE = (
    f"{PREFIX}{name}"
    for name in ("recipe", "bundle", "source", "provider", "pixels", "compare", "watermark", "software")
)
