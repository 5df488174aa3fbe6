"""Verbs that other packages bring, by entry point, so that the runtime never imports them by name.

    [project.entry-points."limner.commands"]
    export = "limner.export.cli:app"

What is named is a typer app; it gets the arguments behind the verb.
"""

from collections.abc import Sequence
from importlib.metadata import entry_points

from limner.runtime.errors import InputError, LimnerError

__all__ = ["run_command"]

GROUP = "limner.commands"


def run_command(verb: str, arguments: Sequence[str], extra: str = "", program: str = "") -> int:
    """Run the command of that name; InputError with what to install if something that it needs is missing.

    `extra` is what brings it, and `program` what its help says before its arguments, if they differ from the verb.
    """
    found = entry_points(group=GROUP, name=verb)
    if not found:
        raise LimnerError(f"the verb {verb!r} is not part of this installation; install limner again")
    try:
        app = next(iter(found)).load()
        given = list(arguments) or ["--help"]
        code = app(args=given, prog_name=program or f"limner {verb}", standalone_mode=False)
    except ModuleNotFoundError as reason:
        missing = reason.name or str(reason)
        if missing.partition(".")[0] == "limner":
            raise LimnerError(f"the verb {verb!r} is not part of this installation: {reason}") from reason
        hint = f"run `pip install 'limner[{extra or verb}]'`"
        allowed = f"an environment with the extra [{extra or verb}]"
        raise InputError(verb, f"an environment without {missing}", allowed, hint) from reason
    return code if isinstance(code, int) else 0
