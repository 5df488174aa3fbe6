"""Edits by a server, from Python: the same `Recipe` goes in and the same `Edit` comes out as with an `Editor`.

>>> from limner.runtime.client import Client                                                   # doctest: +SKIP
>>> with Client("http://localhost:8080", key="lk-...") as client:                             # doctest: +SKIP
...     edit = client.edit(Recipe("sega", Source.from_image("me.png"), (PromptEdit("glasses"),)))
"""

from limner.runtime.client.asynchronous import AsyncClient
from limner.runtime.client.errors import ServerError
from limner.runtime.client.synchronous import Client

__all__ = ["AsyncClient", "Client", "ServerError"]
