"""The verbs that look and change nothing: models, check."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from limner.runtime.cli.console import print_json
from limner.runtime.cli.options import BundleOption, JsonOption, open_bundle
from limner.runtime.errors import BundleError, LimnerError
from limner.runtime.machine import machine
from limner.runtime.versions import package_version

if TYPE_CHECKING:
    from limner.runtime.bundle.loading import Bundle

__all__ = ["check", "models"]

PACKAGES = ("numpy", "pillow", "tokenizers", "ftfy", "safetensors", "typer", "rich")
OPTIONAL_PACKAGES = ("torch", "pytorch-lightning", "transformers", "onnx", "onnxscript", "tensorrt", "tensorrt-rtx")


def models(context: typer.Context, bundle: BundleOption = None, as_json: JsonOption = False) -> None:
    """List models with their hashes, or import weights."""
    if context.invoked_subcommand is not None:
        return
    from limner.runtime.bundle.shipped import BUNDLES, checkpoints_folder, is_shipped, shipped_bundle
    from limner.runtime.cli.inventory import bundle_entry, checkpoint_entries

    checkpoints = checkpoint_entries(checkpoints_folder())
    paths = [bundle] if bundle is not None else [shipped_bundle(family) for family in BUNDLES if is_shipped(family)]
    entries = [bundle_entry(open_bundle(path)) for path in paths]
    if as_json:
        print_json({"checkpoints": checkpoints, "bundle": entries[0] if entries else None, "bundles": entries})
        return
    print(f"checkpoints in {checkpoints_folder()}")
    for item in checkpoints:
        print(f"  {item['name']:<32} {item['family']:<12} {item['megabytes']:>8.2f} MB  {item['sha256'][:12]}")
    if not checkpoints:
        print("  none")
    if not entries:
        print("bundle: none is shipped; `limner export onnx` makes one")
    for entry in entries:
        _print_bundle(entry)


def _print_bundle(entry: dict[str, Any]) -> None:
    print(f"bundle {entry['name']} {entry['digest'][:12]} in {entry['path']}")
    for graph in entry["graphs"]:
        error = "not measured" if graph["max_rel_error"] is None else f"error {graph['max_rel_error']:.1e}"
        print(f"  {graph['name']:<32} {graph['sha256'][:12]}  {error}")
    for licence in entry["licences"]:
        terms = f"{licence['licence']}, by {licence['creator']}, {licence['source']}"
        print(f"  licence of {licence['part']}: {terms}")


def check(bundle: BundleOption = None, as_json: JsonOption = False) -> int:
    """Look for problems on this machine.

    Prints machine, versions, execution providers and conflicts between onnxruntime wheels; verifies the
    bundle. Exit code 1 if there is a problem.
    """
    from limner.runtime.bundle.shipped import is_shipped, shipped_bundle

    report: dict[str, Any] = {"limner": package_version("limner"), "machine": machine()}
    names = (*PACKAGES, *OPTIONAL_PACKAGES)
    report["packages"] = {name: package_version(name) for name in names}
    problems: list[str] = []
    report["onnxruntime"] = _onnxruntime(problems)
    report["backends"] = _backends()
    report["bundle"] = _bundle(bundle, problems)
    if bundle is None and is_shipped("diffusion"):
        report["diffusion_bundle"] = _bundle(shipped_bundle("diffusion"), problems)
    report["problems"] = problems
    if as_json:
        print_json(report)
    else:
        _print_report(report)
    return 1 if problems else 0


def _onnxruntime(problems: list[str]) -> dict[str, Any]:
    from limner.runtime.graphs.providers import available_providers, installed_wheels, wheel_conflict

    providers: tuple[str, ...] = ()
    try:
        providers = available_providers()
    except LimnerError as error:
        problems.append(str(error))
    conflict = wheel_conflict()
    if conflict:
        problems.append(f"{conflict}: uninstall all of them, then install limner[cpu] or limner[gpu]")
    return {"wheels": installed_wheels(), "conflict": conflict, "providers": list(providers)}


def _backends() -> list[dict[str, Any]]:
    from dataclasses import asdict

    from limner.runtime.graphs.backends import backends

    return [asdict(backend) for backend in backends()]


def _bundle(path: Path | None, problems: list[str]) -> dict[str, Any] | None:
    try:
        bundle: Bundle = open_bundle(path)
    except BundleError as error:
        problems.append(str(error))
        return None
    manifest = bundle.manifest
    found = {"name": manifest.name, "path": str(bundle.root), "digest": bundle.digest, "verified": True}
    engines = _engines(bundle, problems)
    return found | {"graphs": sorted(manifest.graphs), "files": len(manifest.files), "engines": engines}


def _engines(bundle: "Bundle", problems: list[str]) -> dict[str, str]:
    """Each engine's file -> "usable", or why it would not be loaded; one of another graph is a problem."""
    from limner.runtime.graphs.selection import survey, this_machine, why_stale

    for engine in bundle.manifest.engines:
        stale = why_stale(bundle, engine)
        if stale:
            problems.append(f"{engine.file}: {stale}; make it again with `limner export tensorrt`")
    return survey(bundle, this_machine())


def _print_report(report: dict[str, Any]) -> None:
    machine, runtime, bundle = report["machine"], report["onnxruntime"], report["bundle"]
    rows = {
        "limner": f"{report['limner']}, Python {machine['python']}",
        "machine": f"{machine['system']}, {machine['processor']}",
        "cores, memory": f"{machine['cores']}, {machine['memory_gb']} GB",
        "gpus": "; ".join(machine["gpus"]) or "none seen",
        "packages": ", ".join(f"{name} {found}" for name, found in report["packages"].items() if found),
        "not installed": ", ".join(name for name, found in report["packages"].items() if not found) or "nothing",
        "onnxruntime": ", ".join(f"{name} {found}" for name, found in runtime["wheels"].items()) or "none",
        "providers": ", ".join(runtime["providers"]) or "none",
        "bundle": "not usable",
    }
    if bundle is not None:
        rows["bundle"] = f"{bundle['name']} {bundle['digest'][:12]}, {bundle['files']} files verified"
    if report.get("diffusion_bundle") is not None:
        found = report["diffusion_bundle"]
        rows["diffusion"] = f"{found['name']} {found['digest'][:12]}, {found['files']} files verified"
    for name, value in rows.items():
        print(f"{name:<14} {value}")
    for backend in report["backends"]:
        state = "would run" if backend["usable"] else f"not here: {backend['reason']}"
        print(f"{'--provider':<14} {backend['name']:<13} {state}")
    for file, state in (bundle or {}).get("engines", {}).items():
        print(f"{'engine':<14} {file}: {state}")
    for problem in report["problems"]:
        print(f"problem        {problem}")
    if not report["problems"]:
        print("no problem found")
