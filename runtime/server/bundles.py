"""The bundles that a server has: each with sessions that all edits share, swapped for a new one while edits run.

A model of the API is a method on a bundle, "avatars:sega"; the method alone is enough where one bundle has it. Plain
pictures of a diffusion bundle are the model "avatars-diffusion". A folder that changes is loaded again and takes the
place of the one before, whose edits end on what they began with; one that goes is served no more.
"""

import logging
import threading
from dataclasses import dataclass, field
from pathlib import Path

from limner.runtime.bundle.loading import load_bundle
from limner.runtime.bundle.manifest import MANIFEST
from limner.runtime.editor import Editor
from limner.runtime.errors import InputError, LimnerError, nearest
from limner.runtime.graphs.calibration import calibrate, limit_of
from limner.runtime.graphs.scheduling import JoinLimit, ScheduledSessions
from limner.runtime.graphs.threads import usable_cores
from limner.runtime.methods.registry import Method, find_method, methods_of
from limner.runtime.server.errors import Refusal, refused
from limner.runtime.server.settings import ServerSettings
from limner.runtime.storage.held_files import Stamp, stamp_of

__all__ = ["Hosted", "Hosts", "open_bundle", "warm_bundle"]

logger = logging.getLogger("limner.server")
CPUS = ("cpu",)
JOINED = ("unet", "unet_cached", "vae_decoder", "text_encoder", "clip_image", "synthesis_w", "synthesis_s",
          "latent_gradient", "style_gradient", "synthesis_features", "feature_gradient")  # fmt: skip


@dataclass(eq=False)
class Hosted:
    """One bundle that is served."""

    name: str
    folder: Path
    editor: Editor
    sessions: ScheduledSessions
    stamp: Stamp | None
    users: int = 0  # edits that run on it or wait for a place
    replaced: bool = False
    closed: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods that run on it."""
        return methods_of(self.editor.bundle.manifest.family)

    def __enter__(self) -> "Hosted":
        with self.lock:
            if self.closed:
                raise Refusal(503, f"the bundle {self.name!r} was just replaced", "model", "bundle_replaced", 1)
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
            free = self.replaced and self.users == 0 and not self.closed
            self.closed = self.closed or free
        if free:
            self.sessions.close()


class Hosts:
    """All bundles that are served, by name."""

    def __init__(self, settings: ServerSettings, loads: bool = True) -> None:
        self.settings = settings
        self.loads = loads  # False: graphs run elsewhere, and bundles are read for what they say of themselves
        self._hosted: dict[str, Hosted] = {}
        self._lock = threading.Lock()
        for name, folder in settings.bundles:
            if name in self._hosted:
                raise InputError("bundle", f"the name {name!r} twice", "each name once")
            self._put(self._opened(folder, name))

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
        found = [f"{model}:{method}"] if f"{model}:{method}" in known else []
        found = found or [key for key in known if key.endswith(f":{asked}")]
        if len(found) == 1:
            return known[found[0]]
        if found:
            raise refused("model", f"{asked!r}, which several bundles have", ", ".join(found))
        if not asked:
            raise refused("model", "nothing", ", ".join(known), code="missing_value")
        hint = nearest(asked, known)
        raise refused("model", repr(asked[:80]), ", ".join(known), hint, code="model_not_found", status=404)

    def warm(self) -> None:
        """Load what every method needs, and measure what is worth joining."""
        for one in self.all if self.loads else ():
            warm_bundle(self.settings, one)

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
                new = self._opened(one.folder, one.name)
                if self.loads:
                    warm_bundle(self.settings, new)  # the one before serves meanwhile
            except LimnerError as reason:
                logger.error("%s: %s; the one before stays", one.name, reason)
                one.stamp = stamp
            else:
                self._put(new)
                one.replace()
                logger.info("%s: replaced", one.name)

    def close(self) -> None:
        """End all of them."""
        for one in self.all:
            one.sessions.close()

    def _opened(self, folder: Path, name: str = "") -> Hosted:
        """A bundle under a name or its own."""
        one = open_bundle(self.settings, folder)
        one.name = name or self._free(one.name, one.editor.bundle.manifest.family)
        return one

    def _put(self, one: Hosted) -> None:
        with self._lock:
            self._hosted[one.name] = one

    def _free(self, name: str, family: str) -> str:
        """The name, or a longer one where another bundle has it."""
        names = [name, f"{name}-{family}", *(f"{name}-{family}-{n}" for n in range(2, len(self._hosted) + 2))]
        return next(one for one in names if one not in self._hosted)

    def _drop(self, one: Hosted) -> None:
        with self._lock:
            if self._hosted.get(one.name) is one:
                del self._hosted[one.name]
        one.replace()


def open_bundle(settings: ServerSettings, folder: Path) -> Hosted:
    """A bundle with sessions of its own, which have loaded nothing yet."""
    manifest = folder / MANIFEST
    stamp = stamp_of(manifest) if manifest.is_file() else None  # before it is read: what comes later is seen
    bundle = load_bundle(folder)
    on_cpu = settings.provider in CPUS
    lanes = settings.lanes or (usable_cores() if on_cpu else 1)
    threads = settings.threads or (1 if on_cpu else None)
    sessions = ScheduledSessions(bundle, settings.provider, threads, lanes=lanes)
    return Hosted(bundle.manifest.name, folder, Editor(bundle, sessions=sessions), sessions, stamp)


def warm_bundle(settings: ServerSettings, one: Hosted) -> None:
    """Load what every method needs, and measure what is worth joining."""
    one.editor.warm(*one.methods)
    one.sessions.join = _join(settings, one)
    logger.info("%s: %s joined", one.name, ", ".join(one.sessions.join) or "nothing")


def _join(settings: ServerSettings, one: Hosted) -> dict[str, JoinLimit]:
    graphs = tuple(name for name in JOINED if name in one.sessions)
    if settings.join is False:
        return {}
    if settings.join is None and settings.provider in CPUS:
        return calibrate(one.sessions, graphs)
    limits = {name: limit_of(one.editor.bundle, name) for name in graphs}
    return {name: limit for name, limit in limits.items() if limit is not None}
