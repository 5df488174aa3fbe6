"""Files: plain and of a known size when read, whole or not at all when written."""

import contextlib
import errno
import hashlib
import os
import secrets
import stat
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


def user_path(path: str | Path, field: str) -> Path:
    """Return the path with "~" filled in; InputError naming `field` for a user that is not there, or a zero byte."""
    if "\0" in str(path):
        raise InputError(field, f"{str(path)!r}, which holds a zero byte", "the path of a file")
    try:
        return Path(path).expanduser()
    except RuntimeError as reason:
        raise InputError(field, f"{str(path)!r}, of which no user is known", "the path of a file") from reason


def read_plain(
    path: str | Path,
    field: str,
    limit: int,  # bytes
    allowed: str = "a readable file",
    error: type[InputError] = InputError,
) -> bytes:
    """Read a plain file of at most `limit` bytes; `error` names `field` for anything else, a pipe or a device included.

    Nothing is waited for: what is no plain file is not opened, and what became one meanwhile is not read.
    """
    path = user_path(path, field)
    shown = repr(str(path)) if len(str(path)) <= 120 else f"a path of {len(str(path))} characters"
    try:
        _require_plain(path.stat(), shown, field, limit, allowed, error)
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with os.fdopen(descriptor, "rb") as stream:
            _require_plain(os.fstat(descriptor), shown, field, limit, allowed, error)
            data = stream.read(limit + 1)
            if data is None:  # a file of the kernel that would be waited for
                raise error(field, f"{shown}, which is no plain file", allowed)
    except OSError as reason:
        missing = isinstance(reason, (FileNotFoundError, NotADirectoryError))
        given = f"no file at {shown}" if missing else f"{reason.strerror or reason} for {shown}"
        raise error(field, given, allowed) from reason
    if len(data) > limit:
        raise _too_large(field, shown, len(data), limit, error)
    return data


def _require_plain(
    found: os.stat_result, shown: str, field: str, limit: int, allowed: str, error: type[InputError]
) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise error(field, f"the folder {shown}", allowed)
    if not stat.S_ISREG(found.st_mode):
        raise error(field, f"{shown}, which is no plain file", allowed)
    if found.st_size > limit:
        raise _too_large(field, shown, found.st_size, limit, error)


def _too_large(field: str, shown: str, size: int, limit: int, error: type[InputError]) -> InputError:
    return error(field, f"{shown} of {shown_size(size)}", f"at most {shown_size(limit)}")


def shown_size(size: int) -> str:
    """A number of bytes as people write it."""
    return f"{size / 1e6:.3g} MB" if size >= 1e6 else f"{size} bytes"


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
        descriptor, temporary = _beside(path)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(descriptor)
            if temporary is None:
                os.fchmod(descriptor, _permissions(path))
                temporary = _named(descriptor, path)
            else:
                temporary.chmod(_permissions(path))
        if temporary != path:
            temporary.replace(path)
        temporary = None
    except (OSError, ValueError) as reason:  # ValueError: a zero byte in the path
        given = f"{getattr(reason, 'strerror', None) or reason} for {str(path)!r}"
        raise InputError(field, given, "a path that can be written") from reason
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
    return path


def _beside(path: Path) -> tuple[int, Path | None]:
    """Open a new file beside `path`: one without a name where the system has such, of which a kill leaves nothing."""
    nameless = getattr(os, "O_TMPFILE", 0)
    if nameless:
        with contextlib.suppress(OSError):  # a file system that has none
            return os.open(path.parent, nameless | os.O_WRONLY, 0o600), None
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name[:80]}.", suffix=".part", dir=path.parent)
    return descriptor, Path(name)


def _named(descriptor: int, path: Path) -> Path:
    """Give a file without a name that of `path`, or one beside it where there is a file already; return the name."""
    source, folder = f"/proc/self/fd/{descriptor}", os.open(path.parent, os.O_RDONLY)
    try:
        for name in (path, path.with_name(f".{path.name[:80]}.{secrets.token_hex(4)}.part")):
            with contextlib.suppress(FileExistsError):
                os.link(source, name, src_dir_fd=folder, follow_symlinks=True)  # the folder makes it linkat(2)
                return name
    finally:
        os.close(folder)
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))


def _permissions(path: Path) -> int:
    """Keep the mode of the file that is replaced; otherwise what the umask would have given a new file."""
    if path.exists():
        return path.stat().st_mode & 0o777
    umask = os.umask(0)
    os.umask(umask)
    return 0o666 & ~umask
