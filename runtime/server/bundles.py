"""The bundles that a server has: each with sessions that all edits share, swapped for a new one while edits run.

A model of the API is a method on a bundle, "avatars:sega"; the method alone is enough where one bundle has it. Plain
pictures of a diffusion bundle are the model "avatars-diffusion". A folder that changes is loaded again and takes the
place of the one before, whose edits end on what they began with; one that goes is served no more.
"""

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from limner.runtime.bundle.loading import load_bundle
from limner.runtime.bundle.manifest import MANIFEST
from limner.runtime.editor import Editor
from limner.runtime.errors import InputError, LimnerError, nearest
from limner.runtime.graphs.calibration import calibrate
from limner.runtime.graphs.joined import row_symbol
from limner.runtime.graphs.scheduling import JoinLimit, ScheduledSessions
from limner.runtime.graphs.threads import usable_cores
from limner.runtime.methods.registry import Method, find_method, methods_of
from limner.runtime.server.errors import Refusal, refused
from limner.runtime.server.settings import ServerSettings
from limner.runtime.storage.held_files import Stamp, stamp_of

__all__ = ["Hosted", "Hosts"]

logger = logging.getLogger("limner.server")
CPUS = ("cpu",)
JOINED = ("unet", "unet_cached", "vae_decoder", "text_encoder", "clip_image", "synthesis_w", "synthesis_s",
          "latent_gradient", "style_gradient")  # fmt: skip


@dataclass(eq=False)
class Hosted:
    """One bundle that is served."""

    name: str
    folder: Path
    editor: Editor
    sessions: ScheduledSessions
    stamp: Stamp
    users: int = 0  # edits that run on it
    replaced: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods that run on it."""
        return methods_of(self.editor.bundle.manifest.family)

    def __enter__(self) -> "Hosted":
        with self.lock:
            self.users += 1
        return self

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.users -= 1
        self.close_if_free()

    def replace(self) -> None:
        """Let it go when the last edit on it has ended."""
        self.replaced = True
        self.close_if_free()

    def close_if_free(self) -> None:
        """Give its memory back, if nothing runs on it and nothing new will."""
        with self.lock:
            free = self.replaced and self.users == 0
        if free:
            self.sessions.close()


class Hosts:
    """All bundles that are served, by name."""

    def __init__(self, settings: ServerSettings) -> None:
        self.settings = settings
        self._hosted: dict[str, Hosted] = {}
        self._lock = threading.Lock()
        for name, folder in settings.bundles:
            self._add(name, folder)

    @property
    def all(self) -> list[Hosted]:
        """Those that are served now."""
        with self._lock:
            return list(self._hosted.values())

    def models(self) -> dict[str, tuple[Hosted, Method | None]]:
        """Every name that a request may give: the bundle, and the method; None makes pictures from texts."""
        found: dict[str, tuple[Hosted, Method | None]] = {}
        for one in self.all:
            if one.editor.bundle.manifest.family == "diffusion":
                found[one.name] = one, None
            found |= {f"{one.name}:{method}": (one, find_method(method)) for method in one.methods}
        return found

    def find(self, model: str | None, method: str | None = None) -> tuple[Hosted, Method | None]:
        """The bundle and the method that a request names, by its model or by its recipe; 404 naming the nearest."""
        known = self.models()
        asked = model or method or ""
        if asked in known:
            return known[asked]
        short = [key for key in known if key.endswith(f":{asked}")]
        named = [key for key in known if model and method and key == f"{model}:{method}"]
        if found := named or short:
            return known[found[0]]
        if not asked:
            raise refused("model", "nothing", f"{', '.join(known)}", code="missing_value")
        hint = nearest(asked, known)
        message = f"model: got {asked!r}; allowed: {', '.join(known)}" + (f"; {hint}" if hint else "")
        raise Refusal(404, message, "model", "model_not_found")

    def warm(self) -> None:
        """Load what every method needs, and measure what is worth joining."""
        for one in self.all:
            one.editor.warm(*one.methods)
            one.sessions.join = self._join(one)
            logger.info("%s: %s joined", one.name, ", ".join(one.sessions.join) or "nothing")

    def look(self) -> None:
        """Take up folders that changed, and drop those that went; a bundle that does not load changes nothing."""
        for one in self.all:
            try:
                stamp = stamp_of(one.folder / MANIFEST)
            except OSError:
                logger.warning("%s: its folder is gone, it is served no more", one.name)
                self._drop(one)
                continue
            if stamp == one.stamp:
                continue
            try:
                self._add(one.name, one.folder)
            except LimnerError as reason:
                logger.error("%s: %s; the one before stays", one.name, reason)
                one.stamp = stamp
            else:
                one.replace()
                logger.info("%s: replaced", one.name)

    def close(self) -> None:
        """End all of them."""
        for one in self.all:
            one.sessions.close()

    def _add(self, name: str, folder: Path) -> None:
        stamp = stamp_of(folder / MANIFEST) if (folder / MANIFEST).is_file() else None
        bundle = load_bundle(folder)
        if stamp is None:
            raise InputError("bundle", repr(str(folder)), "the folder of a bundle")
        on_cpu = self.settings.provider in CPUS
        lanes = self.settings.lanes or (usable_cores() if on_cpu else 1)
        threads = self.settings.threads or (1 if on_cpu else None)
        sessions = ScheduledSessions(bundle, self.settings.provider, threads, lanes=lanes)
        editor = Editor(bundle, sessions=sessions)
        with self._lock:
            name = name or self._free(bundle.manifest.name, bundle.manifest.family)
            self._hosted[name] = Hosted(name, folder, editor, sessions, stamp)

    def _free(self, name: str, family: str) -> str:
        if name not in self._hosted:
            return name
        longer = f"{name}-{family}"
        number = next(n for n in range(1, len(self._hosted) + 2) if self._numbered(longer, n) not in self._hosted)
        return self._numbered(longer, number)

    @staticmethod
    def _numbered(name: str, number: int) -> str:
        return name if number == 1 else f"{name}-{number}"

    def _drop(self, one: Hosted) -> None:
        with self._lock:
            if self._hosted.get(one.name) is one:
                del self._hosted[one.name]
        one.replace()

    def _join(self, one: Hosted) -> dict[str, JoinLimit]:
        graphs = [name for name in JOINED if name in one.sessions]
        if self.settings.join is False:
            return {}
        if self.settings.join is None and self.settings.provider in CPUS:
            return calibrate(one.sessions, tuple(graphs))
        return self._always(one, graphs)

    @staticmethod
    def _always(one: Hosted, graphs: Sequence[str]) -> dict[str, JoinLimit]:
        from limner.runtime.bundle.ranges import graph_ranges

        found = {}
        for name in graphs:
            symbol = row_symbol(one.editor.bundle.graph(name))
            sizes = graph_ranges(one.editor.bundle.manifest, name).get(symbol or "")
            if sizes is not None:
                found[name] = JoinLimit(sizes.maximum, 1 << 40)
        return found
