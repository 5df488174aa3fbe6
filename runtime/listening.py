"""A socket that listens, or a sentence that says why there is none."""

import socket

from limner.runtime.errors import InputError

__all__ = ["address_of", "listening"]

BACKLOG = 2048


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens; InputError naming the port where something else does."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except (OSError, OverflowError) as reason:
        given = f"{host}:{port}, {getattr(reason, 'strerror', None) or reason}"
        raise InputError("port", given, "an address and port of this machine that nothing listens on") from reason


def address_of(opened: socket.socket) -> str:
    """http://HOST:PORT of a socket that listens."""
    host, port = opened.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
