"""The families that can be imported, how a file's family is recognised, and the import itself."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from limner.runtime.errors import InputError, nearest
from limner.runtime.storage.files import sha256_file
from limner.training.importers import clip, directions, encoder, identity, mapper, nvidia, stylegan2
from limner.training.importers.files.opening import HINT, Foreign, open_foreign
from limner.training.importers.files.pickles import Refused
from limner.training.importers.sets import check_free, plain_facts, refuse_other_generator, set_generator, write
from limner.training.importers.states import Imported, Options, as_tensors, below, listed
from limner.training.models.store import build_on_meta, state_problems


@dataclass(frozen=True)
class Importer:
    """One kind of file."""

    what: str
    recognises: Callable[[Foreign], bool]
    convert: Callable[[Foreign, Options], Imported]


IMPORTERS = {
    "mapper": Importer(mapper.WHAT, mapper.recognises, mapper.convert),
    "encoder": Importer(encoder.WHAT, encoder.recognises, encoder.convert),
    "stylegan2": Importer(stylegan2.WHAT, stylegan2.recognises, stylegan2.convert),
    "stylegan2-ada": Importer(nvidia.WHAT, nvidia.recognises, nvidia.convert),
    "identity": Importer(identity.WHAT, identity.recognises, identity.convert),
    "clip": Importer(clip.WHAT, clip.recognises, clip.convert),
    "clip-folder": Importer(clip.WHAT_FOLDER, clip.recognises_folder, clip.convert_folder),
    "directions": Importer(directions.WHAT, directions.recognises, directions.convert),
}
KNOWN = "; ".join(importer.what for importer in IMPORTERS.values())


@dataclass(frozen=True)
class Report:
    """What an import did."""

    family: str
    folder: str
    tensors: int
    megabytes: float
    seconds: float
    notes: tuple[str, ...]


def import_file(path: Path, options: Options, family: str = "", licence: str = "", replace_old: bool = False,
                dry_run: bool = False) -> Report:  # fmt: skip
    """Read a foreign file and write it as a checkpoint of the set `options.out`, whole or not at all.

    Raises InputError for a file that is not known, not whole, not finite or not fit; then nothing is written.
    """
    start = time.monotonic()
    if family and family not in IMPORTERS:
        raise InputError("family", repr(family), ", ".join(IMPORTERS), nearest(family, IMPORTERS))
    try:
        found = _read(path, options, family)
    except (Refused, ValueError, RuntimeError, MemoryError) as reason:
        what = str(reason)
        if isinstance(reason, (RecursionError, MemoryError)):
            what = "which is nested too deep or too large"
        elif isinstance(reason, RuntimeError):  # torch's, whose text is about its own inside
            what = "whose tensors do not have the shapes of one network"
        raise InputError(
            "file", f"{path.name!r}, {what}", IMPORTERS[family].what if family else KNOWN, HINT
        ) from reason
    folder = options.out / found.folder
    if dry_run:
        if found.family != "relevance":
            check_free(folder, replace_old)
    else:
        write(found, options.out, card(found, path, licence), replace_old)
    size = sum(value.numel() * value.element_size() for value in found.state.values()) / 1e6
    seconds = time.monotonic() - start
    return Report(found.family, str(folder), len(found.state), round(size, 1), round(seconds, 2), found.notes)


def _read(path: Path, options: Options, family: str) -> Imported:
    foreign = open_foreign(path)
    names = [name for name, importer in IMPORTERS.items() if importer.recognises(foreign)]
    if family and family not in names:
        what = f"which is a {IMPORTERS[names[0]].what}" if names else "which holds no such weights"
        raise InputError(
            "file", f"{path.name!r}, {what}", IMPORTERS[family].what, "leave --family out" if names else HINT
        )
    if not names:
        raise Refused("which holds no weights of a known family")
    found = IMPORTERS[family or names[0]].convert(foreign, options)
    verify(found, path)
    if found.family == "encoder":
        check_encoder(found, foreign, options)
    return found


def verify(found: Imported, path: Path) -> None:
    """Compare names and shapes with the network's. Raises InputError with the first ten of each kind."""
    if found.family == "relevance":
        return
    own = build_on_meta(found.family, found.config).state_dict()
    problems = state_problems(own, found.state)
    if found.unknown:
        problems.append(f"unknown {listed(list(found.unknown))}")
    if problems:
        given = f"{path.name!r}, whose weights do not fit: {'; '.join(problems)}"
        raise InputError("file", given, f"all weights of the family {found.family!r} and no others", HINT)


def check_encoder(found: Imported, foreign: Foreign, options: Options) -> None:
    """Refuse an encoder of another generator than the set's."""
    own = set_generator(options.out)
    if own is None:
        return
    decoder = below(foreign.content["state_dict"], "decoder.")
    learnt = as_tensors({key: value for key, value in decoder.items() if not key.endswith(".kernel")})
    sizes = replace(own.config, size=found.config.image_size, w_dim=found.config.w_dim, channels={})
    refuse_other_generator("an encoder", sizes, learnt, own)


def card(found: Imported, path: Path, licence: str) -> str:
    """README.md of an imported checkpoint."""
    source = f"Imported from `{path.name}`"
    if path.is_file():
        source += f" ({path.stat().st_size} bytes, sha256 {sha256_file(path)})"
    terms = licence or "The file states no licence; the terms of its publisher hold."
    figures: dict[str, Any] = {**found.facts, "parameters": sum(value.numel() for value in found.state.values())}
    parts = [f"# {found.title}", f"{source}.", "\n".join(found.notes), "## Figures", "\n".join(plain_facts(figures)),
             "## Licence", terms]  # fmt: skip
    return "\n\n".join(part for part in parts if part) + "\n"


__all__ = ["IMPORTERS", "Importer", "Report", "import_file"]
