"""The server as an application of Ray Serve:

    serve run limner.runtime.server.ray_app:app key_file=keys.json bundles=FOLDER,NAME=FOLDER work=FOLDER

Arguments, each once: `key_file`, or `no_keys=yes`; `bundles` (both shipped ones if not given), `work`, `database`,
`provider`, and the names of `limner serve --limits`. LIMNER_KEY_FILE, LIMNER_WORK and LIMNER_DATABASE stand in for what
is not given. Folders are the same on every machine.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from limner.runtime.errors import InputError
from limner.runtime.server.cluster.launch import application
from limner.runtime.server.given import named_bundle, settings_from_texts, shipped_bundles, usual_work
from limner.runtime.server.settings import Cluster, Limits, ServerSettings

__all__ = ["app"]

OWN = ("key_file", "no_keys", "bundles", "work", "database", "provider")
VARIABLES = {"key_file": "LIMNER_KEY_FILE", "work": "LIMNER_WORK", "database": "LIMNER_DATABASE"}


def app(given: Mapping[str, Any]) -> Any:
    """The application of these arguments; InputError for one that is not known or not allowed."""
    arguments = {name: os.environ[variable] for name, variable in VARIABLES.items() if os.environ.get(variable)}
    arguments |= {name: str(value) for name, value in given.items()}  # numbers, where a file says them
    limits, cluster = {}, {}
    for name, value in arguments.items():
        if name in Limits.__dataclass_fields__:
            limits[name] = value
        elif name in Cluster.__dataclass_fields__:
            cluster[name] = value
        elif name not in OWN:
            raise InputError(name, repr(value), ", ".join(OWN) + " and what `limner serve --limits` lists")
    bundles = [one for one in arguments.get("bundles", "").split(",") if one]
    key_file = arguments.get("key_file")
    if (key_file is None) != (arguments.get("no_keys") == "yes"):
        raise InputError("key_file", repr(key_file), "a file of keys, or no_keys=yes")
    settings = ServerSettings(
        bundles=tuple(named_bundle(one) for one in bundles) or shipped_bundles(),
        work=Path(arguments["work"]) if "work" in arguments else usual_work(),
        provider=arguments.get("provider", "cpu"),
        keys=None if key_file is None else Path(key_file),
        database=arguments.get("database", ""),
        limits=settings_from_texts(Limits, limits),
    )
    return application(settings, settings_from_texts(Cluster, cluster))
