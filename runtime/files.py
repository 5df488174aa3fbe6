"""Files: whole or not at all when written, hashed when read."""

import hashlib
import os
import tempfile
from pathlib import Path

from limner.runtime.errors import InputError

HASH_BLOCK = 1 << 20


def sha256_bytes(data: bytes) -> str:
    """Return the SHA-256 of `data` as 64 lower-case hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file as 64 lower-case hexadecimal digits; OSError passes through."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(HASH_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def write_atomically(path: str | Path, data: bytes, field: str = "output") -> Path:
    """Write `data` beside `path`, then rename: a reader sees the old file or the new one, never half of one.

    Raises InputError naming `field` if the folder is missing or the file cannot be written.
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        if path.is_dir():
            raise InputError(field, f"the folder {str(path)!r}", "the path of a file")
        if not path.parent.is_dir():
            given = f"a path in the missing folder {str(path.parent)!r}"
            raise InputError(field, given, "a path in an existing folder")
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name[:80]}.", suffix=".part", dir=path.parent)
        temporary = Path(name)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.chmod(_permissions(path))
        temporary.replace(path)
    except (OSError, ValueError) as reason:  # ValueError: a zero byte in the path
        given = f"{getattr(reason, 'strerror', None) or reason} for {str(path)!r}"
        raise InputError(field, given, "a path that can be written") from reason
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
    return path


def _permissions(path: Path) -> int:
    """Keep the mode of the file that is replaced; otherwise what the umask would have given a new file."""
    if path.exists():
        return path.stat().st_mode & 0o777
    umask = os.umask(0)
    os.umask(umask)
    return 0o666 & ~umask
