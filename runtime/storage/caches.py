"""Where things that can be made again are kept: LIMNER_CACHE, or the user's cache folder."""

import os
from pathlib import Path

from platformdirs import user_cache_path

VARIABLE = "LIMNER_CACHE"


def cache_folder() -> Path:
    """The folder, which need not exist yet."""
    if named := os.environ.get(VARIABLE):
        return Path(named).expanduser()
    return user_cache_path("limner", appauthor=False)
