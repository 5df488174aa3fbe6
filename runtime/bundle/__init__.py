"""What a bundle is: its manifest, its loading and checking, presets, and which ones come with Limner.

Reading order: `manifest` (with `mappers`, `engines`, `ranges`: its parts), `onnx_files`, `vocabulary`, `loading`,
`presets`, `shipped`.
"""
