"""One training from its YAML to its folder: resolve the settings, build, fit, save."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

CONFIGS = Path(__file__).parent / "configs"


def default_cache() -> Path:
    """Where rendered pictures are kept: below the cache folder of all of Limner (LIMNER_CACHE, else the user's)."""
    from limner.runtime.storage.caches import cache_folder

    return cache_folder() / "avatars"


def resolve(name: str, config: Path | None = None, overrides: list[str] | None = None) -> Any:
    """The run of a family from its YAML and overrides; InputError for anything unknown."""
    from limner.training.config import from_mapping, override, read_yaml
    from limner.training.families import run_type

    declared = run_type(name)
    values = read_yaml(config or CONFIGS / f"{name}.yaml")
    return from_mapping(declared, override(values, overrides or []), name)


def run_family(
    name: str,
    run: Any,
    out: Path,
    save: Path,
    cache: Path,
    resume: bool = False,
    fast_dev_run: bool = False,
    callbacks: tuple[Any, ...] = (),
) -> dict[str, Any]:
    """Build, fit and save one family. Returns the figures of its card, empty after a fast dev run."""
    from limner.training.families import family
    from limner.training.loop.runner import check_run, fit, quiet, seed_all
    from limner.training.loop.saving import saved_whole

    quiet()
    spec = family(name)
    check_run(run.trainer, run, out, resume, fast_dev_run)
    seed_all(run.trainer)
    module, data = spec.build(run, cache)
    start = time.monotonic()
    average = getattr(spec, "AVERAGE", "network")
    trainer = fit(module, data, run.trainer, out, run, resume, fast_dev_run, average, callbacks)
    if fast_dev_run or not trainer.is_global_zero:
        return {}
    minutes = round((time.monotonic() - start) / 60, 1)
    with saved_whole(save) as beside:
        figures = spec.save(run, module, beside, cache)
    return {**figures, "training, minutes": minutes}
