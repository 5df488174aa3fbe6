"""Limner's runtime: edits images by words with numpy and ONNX Runtime, without torch.

Reading order:

1. `errors`, `schema`, `files`: the error tree, strict JSON, whole-or-nothing files
2. `bundle_schema`, `bundle`: what a bundle is and how it is checked
3. `providers`, `sessions`, `engines`: where the graphs run
4. `tokenizer`, `templates`, `images`, `sheets`: words and pictures in and out
5. `recipe`, `edit`, `editor`: an edit as data, its result, and what turns one into the other
6. `sources`, `models`, `presets`, `methods`: where a picture comes from, what a method works with
7. `descent`, `spaces`, `trajectory`, `adam`: the walk down a loss in W+, P_N or S
8. `inversion`, `latent_optimization`, `global_directions`, `latent_mapper` (with `mapper_schema`): the methods
9. `faces`: faces of photographs, cut out and pasted back
10. `diffusion`, `attention`: latent diffusion, and attention control; `sega`, `prompt_to_prompt`: the methods on them
11. `provenance`: the recipe in a PNG, and its replay

Names below are imported when first used, so that `import limner.runtime` stays fast.
"""

import importlib
from typing import TYPE_CHECKING, Any

if __name__ != "limner.runtime":
    raise ImportError(f"import this package as 'limner.runtime', not as {__name__!r}: pip install -e . first")

if TYPE_CHECKING:
    from limner.runtime.bundle.loading import Bundle, load_bundle
    from limner.runtime.edit import Edit
    from limner.runtime.editor import Editor
    from limner.runtime.errors import (
        BundleError,
        GraphError,
        InputError,
        LimnerError,
        MissingGraphError,
        ProviderError,
    )
    from limner.runtime.faces.face import Face
    from limner.runtime.graphs.sessions import Sessions
    from limner.runtime.photograph import whole_picture
    from limner.runtime.pictures.images import Picture, read_picture, write_png_atomically
    from limner.runtime.pictures.sheets import make_sheet
    from limner.runtime.provenance import read_recipe, replay, write_edit
    from limner.runtime.recipe import PromptEdit, Recipe, Source
    from limner.runtime.stylegan2.inversion import Inversion
    from limner.runtime.text.tokenizer import Tokenizer

_HOME = {
    "Bundle": "bundle.loading",
    "BundleError": "errors",
    "Edit": "edit",
    "Editor": "editor",
    "Face": "faces.face",
    "GraphError": "errors",
    "InputError": "errors",
    "LimnerError": "errors",
    "MissingGraphError": "errors",
    "Picture": "pictures.images",
    "ProviderError": "errors",
    "Inversion": "stylegan2.inversion",
    "PromptEdit": "recipe",
    "Recipe": "recipe",
    "Source": "recipe",
    "read_recipe": "provenance",
    "replay": "provenance",
    "write_edit": "provenance",
    "Sessions": "graphs.sessions",
    "Tokenizer": "text.tokenizer",
    "load_bundle": "bundle.loading",
    "make_sheet": "pictures.sheets",
    "read_picture": "pictures.images",
    "whole_picture": "faces.whole",
    "write_png_atomically": "pictures.images",
}

__all__ = [
    "Bundle",
    "BundleError",
    "Edit",
    "Editor",
    "Face",
    "GraphError",
    "InputError",
    "Inversion",
    "LimnerError",
    "MissingGraphError",
    "Picture",
    "PromptEdit",
    "ProviderError",
    "Recipe",
    "Sessions",
    "Source",
    "Tokenizer",
    "load_bundle",
    "make_sheet",
    "read_picture",
    "read_recipe",
    "replay",
    "whole_picture",
    "write_edit",
    "write_png_atomically",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'limner.runtime' has no attribute {name!r}")
    return getattr(importlib.import_module(f"limner.runtime.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
