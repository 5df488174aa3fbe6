"""The command line `limner`: parse, call one function, print.

Reading order: `app` (the verbs), `options` (what they share), `editing`, `faces`, `inspecting`, `demo`, `commands`
(verbs that other packages bring), `console` (what goes to stdout and to stderr).

Nothing heavy is imported before a verb runs, so `limner --help` is quick.
"""

import contextlib
import errno
import io
import os
import signal
import sys
from collections.abc import Sequence

__all__ = ["main"]

USAGE_ERROR = 2
# What a path that was given may be; others (a full disk) are no fault of the call.
OF_A_PATH = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP,
             errno.EINVAL, errno.EROFS)  # fmt: skip
DEBUG = "LIMNER_DEBUG"  # set to anything: unexpected errors show their traceback


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line on `arguments` (sys.argv without the program if None) and return the exit code.

    0 is success, 2 a value that is not allowed, 1 anything else that went wrong; the reason goes to
    stderr in one sentence. A run that was asked to end gives 130 (SIGINT) or 143 (SIGTERM), and one word.
    """
    from limner.runtime.errors import LimnerError
    from limner.runtime.storage.stopping import WORDS, Stopped, end_children, stop_asked, stoppable

    given = list(sys.argv[1:] if arguments is None else arguments)
    _open_streams()
    try:
        with stoppable():
            try:
                from limner.runtime.cli.app import app

                code = app(args=given or ["--help"], prog_name="limner", standalone_mode=False)
                sys.stdout.flush()
            except Exception:
                request = stop_asked()
                if request is not None:  # it came where other code made another error of it, as imports do
                    raise request from None
                raise
    except LimnerError as error:
        return _fail(str(error), error.exit_code)
    except Stopped as request:
        end_children()
        print(request.word, file=sys.stderr)
        return int(request.code or 0)
    except KeyboardInterrupt:  # from outside the main thread, where signals are not ours
        print(WORDS[signal.SIGINT], file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:  # the reader of stdout left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if DEBUG in os.environ:
            raise
        if error.filename is None:
            return _fail(f"{error.strerror or error}", 1)
        path = str(error.filename)
        shown = path if len(path) < 120 else f"{path[:100]}... of {len(path)} characters"
        return _fail(f"{shown!r}: {error.strerror or error}", USAGE_ERROR if error.errno in OF_A_PATH else 1)
    except Exception as error:
        if type(error).__name__ == "Abort":  # typer's word for the same
            print(WORDS[signal.SIGINT], file=sys.stderr)
            return 128 + signal.SIGINT
        # Usage errors come from click, or from the copy of it inside newer versions of typer.
        explain = getattr(error, "format_message", None)
        if callable(explain):
            return _fail(f"{explain()} See `limner --help`.", USAGE_ERROR)
        if DEBUG in os.environ:
            raise
        kind = type(error).__name__
        return _fail(f"unexpected {kind}: {error}; set {DEBUG}=1 to see where, and report it", 1)
    return code if isinstance(code, int) else 0


def _open_streams() -> None:
    """Stand in for streams that the caller closed, so that no file is opened in their place; write any name."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            descriptor = os.open(os.devnull, os.O_RDWR)
            if descriptor != number:
                os.dup2(descriptor, number)
                os.close(descriptor)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "r" if name == "stdin" else "w", closefd=False))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _fail(sentence: str, code: int) -> int:
    with contextlib.suppress(OSError):  # stderr may be full or closed as well
        sys.stdout.flush()
    with contextlib.suppress(OSError):
        print("error: " + " ".join(sentence.split()), file=sys.stderr, flush=True)
    return code
