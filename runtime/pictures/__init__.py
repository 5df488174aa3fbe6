"""What picture files are beside their pixels.

Reading order: `formats` (which are read), `containers` (what a file carries), `colour` (to sRGB), `xmp` (the packet
that says what a picture is), `writing` (PNG, JPEG and WebP with all of it), `naming` (a free name for one).
`limner.runtime.pictures.images` puts them together.
"""
