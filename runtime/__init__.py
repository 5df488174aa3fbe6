"""Limner's runtime: edits images by words with numpy and ONNX Runtime, without torch.

Reading order, from the ground up (`tests/test_packaging.py` holds the directions):

1. `errors`, `schema`, `settings`, `storage`: the error tree, strict JSON, declared settings, whole-or-nothing files
2. `pictures`, `faces`: pictures in and out, faces cut out of photographs
3. `methods`, `recipe`: what each method declares, and an edit as data
4. `bundle`, `graphs`, `text`: what a bundle is, where its graphs run, words as tokens
5. `critics`, `outcome`, `edit`, `notices`: who judges a picture, what a method finds, the result, its warnings
6. `stylegan2`, `diffusion`: the families, twins behind `outcome.Engine`; the walks of StyleCLIP, samplers and sources
7. `guidance`, `attention`: SEGA and Prompt-to-Prompt on a diffusion model
8. `completing`, `wording`, `editor`: a recipe with all that acts filled in, recipes in words, what makes edits of them
9. `photograph`, `marking`, `provenance`: the edit pasted back; signatures, marks; the recipe in a picture, its replay
10. `study`, `client`, `server`, `page`: edits judged, and served to programs and to people
11. `cli`: the command line

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
    "whole_picture": "photograph",
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
