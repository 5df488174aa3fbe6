"""The engine of an Editor as what it is: tests look below the protocol."""

from limner.runtime.diffusion.engine import DiffusionEngine
from limner.runtime.editor import Editor
from limner.runtime.stylegan2.engine import StyleGAN2Engine


def stylegan2(editor: Editor) -> StyleGAN2Engine:
    """Of a StyleGAN2 bundle."""
    assert isinstance(editor.engine, StyleGAN2Engine)
    return editor.engine


def diffusion(editor: Editor) -> DiffusionEngine:
    """Of a diffusion bundle."""
    assert isinstance(editor.engine, DiffusionEngine)
    return editor.engine
