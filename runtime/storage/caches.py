"""Where things that can be made again are kept: LIMNER_CACHE, or the user's cache folder."""

import os
import sys
from pathlib import Path

VARIABLE = "LIMNER_CACHE"


def cache_folder() -> Path:
    """The folder, which need not exist yet."""
    if named := os.environ.get(VARIABLE):
        return Path(named).expanduser()
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "limner"
