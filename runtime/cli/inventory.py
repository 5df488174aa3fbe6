"""What is shipped: checkpoints (config.json beside weights, or single tensor files) and a bundle's graphs."""

from pathlib import Path
from typing import Any

from limner.runtime.bundle.loading import Bundle
from limner.runtime.bundle.mappers import FOLDER
from limner.runtime.schema import read_json, to_dict
from limner.runtime.storage.files import sha256_file

__all__ = ["bundle_entry", "checkpoint_entries"]

WEIGHTS = "*.safetensors"


def checkpoint_entries(root: Path) -> list[dict[str, Any]]:
    """Return one entry per weights file under <root>/<family>/<model>/, mappers too, with size, hash and licence."""
    entries = []
    for path in sorted([*root.glob(f"*/*/{WEIGHTS}"), *root.glob(f"*/{FOLDER}/*/{WEIGHTS}")]):
        folder = path.parent
        if (folder / "bundle.json").is_file():
            continue  # the graphs of a bundle have their own list
        is_model = (folder / "config.json").is_file()
        name = folder if is_model else path.with_suffix("")
        card = folder / "README.md"
        entries.append(
            {
                "name": name.relative_to(root).as_posix(),
                "family": _family(folder / "config.json") if is_model else "tensors",
                "file": path.relative_to(root).as_posix(),
                "megabytes": path.stat().st_size / 1e6,
                "sha256": sha256_file(path),
                "licence": _licence(card),
                "card": card.relative_to(root).as_posix() if card.is_file() else None,
            }
        )
    return entries


def bundle_entry(bundle: Bundle) -> dict[str, Any]:
    """Return name, digest, path, graphs and licences of a verified bundle."""
    manifest = bundle.manifest
    graphs = [
        {
            "name": name,
            "file": graph.file,
            "sha256": manifest.files[graph.file].sha256,
            "inputs": [to_dict(tensor) for tensor in graph.inputs],
            "outputs": [to_dict(tensor) for tensor in graph.outputs],
            "max_rel_error": None if graph.parity is None else graph.parity.max_rel_error,
        }
        for name, graph in sorted(manifest.graphs.items())
    ]
    return {
        "name": manifest.name,
        "path": str(bundle.root),
        "digest": bundle.digest,
        "created_by": manifest.created_by,
        "precision": manifest.precision,
        "size": bundle.image_size,
        "megabytes": sum(meta.size for meta in manifest.files.values()) / 1e6,
        "graphs": graphs,
        "mappers": [{"name": name} | to_dict(mapper) for name, mapper in sorted(manifest.mappers.items())],
        "licences": [to_dict(licence) for licence in manifest.licences],
    }


def _family(config: Path) -> str:
    data = read_json(config, config.name)
    if not isinstance(data, dict):
        return "unknown"
    return str(data.get("family") or data.get("_class_name", "unknown"))  # the second in folders of diffusers'


def _licence(card: Path) -> str | None:
    """Return the value of "license:" in a card's front matter, if it has one."""
    if not card.is_file():
        return None
    for line in card.read_text(encoding="utf-8").splitlines()[:40]:
        key, sign, value = line.partition(":")
        if sign and key.strip().lower() in ("license", "licence"):
            return value.strip()
    return None
