"""Keys: who may use the server, and for what. The file holds hashes alone; a key itself is shown once, when it is made.

A key has 256 random bits, so that SHA-256 without salt is enough; all hashes are compared, in constant time.
"""

import hashlib
import hmac
import json
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

from limner.runtime.errors import InputError
from limner.runtime.schema import from_dict, parse_json
from limner.runtime.server.errors import Refusal
from limner.runtime.storage.files import read_plain, write_atomically
from limner.runtime.storage.held_files import Stamp, stamp_of

__all__ = ["EVERY_RIGHT", "NOBODY", "Key", "KeyFile", "Right", "add_key", "read_keys", "remove_key"]

Right = Literal["edit", "jobs", "metrics"]
EVERY_RIGHT: tuple[Right, ...] = get_args(Right)
PREFIX = "lk-"
MAX_BYTES = 1_000_000


@dataclass(frozen=True)
class Key:
    """One entry of the file."""

    name: str
    sha256: str
    rights: tuple[Right, ...] = EVERY_RIGHT

    def require(self, right: Right) -> None:
        """Raise 403 unless the key has the right."""
        if right not in self.rights:
            raise Refusal(403, f"this key has no right to {right!r}; it may {', '.join(self.rights)}", None, "no_right")


NOBODY = Key("anyone", "")  # of a server without keys


class KeyFile:
    """The keys of a file, which is read again when it changes."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._stamp: Stamp | None = None
        self._keys: list[Key] = []
        if path is not None:
            self._read(path)

    def find(self, authorization: str | None) -> Key:
        """The key of an Authorization header; 401 if there is none."""
        if self.path is None:
            return NOBODY
        self._read(self.path)
        scheme, _, given = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not given.strip():
            raise Refusal(401, "give a key: `Authorization: Bearer lk-...`", None, "no_key")
        digest, found = hashlib.sha256(given.strip().encode()).hexdigest(), None
        for key in self._keys:
            found = key if hmac.compare_digest(key.sha256, digest) else found
        if found is None:
            raise Refusal(401, "the server does not know this key", None, "invalid_api_key")
        return found

    def _read(self, path: Path) -> None:
        try:
            stamp = stamp_of(path)
            if stamp != self._stamp:
                self._keys, self._stamp = read_keys(path), stamp
        except (OSError, InputError):
            if self._stamp is None:
                raise
            self._keys = []  # a file that went or broke lets nobody in


def read_keys(path: Path) -> list[Key]:
    """The keys of a file; InputError for one that does not read."""
    data = parse_json(read_plain(path, "key_file", MAX_BYTES), "key_file")
    if not isinstance(data, list):
        raise InputError("key_file", f"{path.name!r} with {type(data).__name__}", "a list of keys")
    return [from_dict(Key, one, f"key_file[{number}]") for number, one in enumerate(data)]


def add_key(path: Path, name: str, rights: tuple[Right, ...] = EVERY_RIGHT) -> str:
    """Make a key, keep its hash in the file under a name that is new there, and return it."""
    keys = read_keys(path) if path.exists() else []
    if not name.strip() or name in [key.name for key in keys]:
        raise InputError("name", repr(name), "a name that no key of the file has")
    made = PREFIX + secrets.token_urlsafe(32)
    write_keys(path, [*keys, Key(name, hashlib.sha256(made.encode()).hexdigest(), rights)])
    return made


def remove_key(path: Path, name: str) -> None:
    """Take a key out of the file; InputError if there is none of that name."""
    keys = read_keys(path)
    left = [key for key in keys if key.name != name]
    if len(left) == len(keys):
        raise InputError("name", repr(name), ", ".join(key.name for key in keys) or "nothing: there is no key")
    write_keys(path, left)


def write_keys(path: Path, keys: list[Key]) -> None:
    """The file, for its owner alone."""
    text = json.dumps([asdict(key) for key in keys], indent=1)
    write_atomically(path, text.encode(), "key_file")
    path.chmod(0o600)
