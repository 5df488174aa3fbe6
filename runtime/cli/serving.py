"""`limner serve`: edits over HTTP; `limner keys`: who may ask for them."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from limner.runtime.cli.console import note, print_json
from limner.runtime.cli.options import JsonOption, ProviderOption, lacking
from limner.runtime.errors import InputError

if TYPE_CHECKING:
    from fastapi import FastAPI

__all__ = ["keys", "serve", "ui"]

EngineName = Literal["threads", "ray"]
LOOPBACK = ("127.0.0.1", "::1", "localhost")
BundlesOption = Annotated[
    list[str] | None,
    typer.Option("--bundle", help="FOLDER or NAME=FOLDER; may be repeated; both shipped ones if not given."),
]
KeyFileOption = Annotated[Path, typer.Option("--key-file", envvar="LIMNER_KEY_FILE", help="File of the keys' hashes.")]
keys = typer.Typer(
    help="The keys of a server: each is shown once, the file keeps hashes.",
    no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False,
)  # fmt: skip


def serve(
    bundle: BundlesOption = None,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes a free one.")] = 8080,
    key_file: Annotated[
        Path | None, typer.Option("--key-file", envvar="LIMNER_KEY_FILE", help="Keys, as `limner keys add` makes them.")
    ] = None,
    open_to_all: Annotated[
        bool, typer.Option("--no-keys", help="Whoever reaches another address than this machine's may use it.")
    ] = False,
    work: Annotated[
        Path | None, typer.Option("--work", envvar="LIMNER_WORK", help="Folder of uploads, jobs and results.")
    ] = None,
    provider: ProviderOption = "cpu",
    lanes: Annotated[
        int | None, typer.Option("--lanes", min=1, max=64, help="Graph calls at one time; the cores, on a CPU.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, max=256, help="CPU threads of each lane; 1.")
    ] = None,
    join: Annotated[
        bool | None,
        typer.Option("--join/--no-join", help="Calls of different edits together; where it pays, if not said."),
    ] = None,
    limit: Annotated[
        list[str] | None, typer.Option("--limit", help="NAME=VALUE, as in steps=100; `--limits` lists them.")
    ] = None,
    limits: Annotated[bool, typer.Option("--limits", help="List what can be limited, and leave.")] = False,
    database: Annotated[
        str,
        typer.Option("--database", envvar="LIMNER_DATABASE", help="SQLAlchemy's URL of the jobs; a file in --work."),
    ] = "",
    engine: Annotated[
        EngineName, typer.Option("--engine", help="threads of this process, or replicas on a Ray cluster: limner[ray].")
    ] = "threads",
    ray: Annotated[
        list[str] | None,
        typer.Option("--ray", help="NAME=VALUE of the cluster, as in replicas_most=8; `--limits`."),
    ] = None,
    ui: Annotated[bool, typer.Option("--ui", help="The page as well, at /ui: limner[ui].")] = False,
) -> None:
    """Serve edits over HTTP: limner[cpu,serve]."""
    if limits:
        print_limits()
        return
    if host not in LOOPBACK and key_file is None and not open_to_all:
        raise InputError("key_file", f"nothing with --host {host}", "a file of keys", "or say --no-keys")
    try:
        from limner.runtime.server.serving import run_server
    except ModuleNotFoundError as reason:
        raise lacking("serve", "serve", reason) from reason
    from limner.runtime.server.given import named_bundle, pairs, settings_from_texts, shipped_bundles, usual_work
    from limner.runtime.server.settings import Cluster, Limits, ServerSettings

    if ray and engine != "ray":
        raise InputError("ray", ray[0], "nothing without --engine ray")
    if ui and engine == "ray":
        raise InputError("ui", "--ui with --engine ray", "--engine threads", "the page changes strengths without a run")
    cluster = settings_from_texts(Cluster, pairs(ray or (), "ray")) if engine == "ray" else None
    settings = ServerSettings(
        bundles=tuple(named_bundle(one) for one in bundle or ()) or shipped_bundles(),
        work=usual_work() if work is None else work,
        provider=provider,
        lanes=lanes,
        threads=threads,
        join=join,
        keys=key_file,
        database=database,
        limits=settings_from_texts(Limits, pairs(limit or (), "limit")),
    )
    try:
        run_server(settings, host, port, note, cluster, dressed=page_at(opens=False) if ui else None)
    except ModuleNotFoundError as reason:
        raise lacking("engine", "ray", reason) from reason


def ui(
    bundle: BundlesOption = None,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes a free one.")] = 7860,
    opens: Annotated[bool, typer.Option("--open/--no-open", help="Open it in a browser.")] = True,
    work: Annotated[
        Path | None, typer.Option("--work", envvar="LIMNER_WORK", help="Folder of what the page keeps.")
    ] = None,
    provider: ProviderOption = "cpu",
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, max=256, help="CPU threads of an edit; all cores if not given.")
    ] = None,
) -> None:
    """Edit in a browser, on this machine: limner[cpu,ui]. For others: `limner serve --ui`."""
    dressed = page_at(opens)
    from limner.runtime.graphs.threads import usable_cores
    from limner.runtime.server.given import named_bundle, shipped_bundles, usual_work
    from limner.runtime.server.serving import run_server
    from limner.runtime.server.settings import ServerSettings

    on_cpu = provider == "cpu"
    settings = ServerSettings(
        bundles=tuple(named_bundle(one) for one in bundle or ()) or shipped_bundles(),
        work=usual_work() if work is None else work,
        provider=provider,
        lanes=1,  # one person: an edit has the whole machine
        threads=threads or (usable_cores() if on_cpu else None),
        join=False,
    )
    run_server(settings, LOOPBACK[0], port, note, dressed=dressed, access=False)


def page_at(opens: bool) -> "Callable[[FastAPI, str], FastAPI]":
    """What adds the page to a server, and opens it in a browser."""
    try:
        from limner.runtime.page.mounting import PATH, with_page
    except ModuleNotFoundError as reason:
        raise lacking("ui", "ui", reason) from reason

    def dressed(app: "FastAPI", address: str) -> "FastAPI":
        app = with_page(app)
        note(f"limner: the page is at {address}{PATH}/")
        if opens:
            import webbrowser

            webbrowser.open(f"{address}{PATH}/")
        return app

    return dressed


def print_limits() -> None:
    """Names, ranges and defaults."""
    from limner.runtime.declarations import setting_rows
    from limner.runtime.server.settings import Cluster, Limits

    for option, cls in (("--limit", Limits), ("--ray", Cluster)):
        print(f"{option} NAME=VALUE")
        for row in setting_rows(cls):
            print(f"  {row.name:<20} {row.default:>8}  {row.help}  [{row.allowed}]")


@keys.command("add")
def add(
    name: Annotated[str, typer.Argument(help="Whose key it is.")],
    key_file: KeyFileOption,
    right: Annotated[
        list[str] | None, typer.Option("--right", help="edit, jobs or metrics; may be repeated; all if not given.")
    ] = None,
) -> None:
    """Make a key and print it, this once."""
    from limner.runtime.server.keys import EVERY_RIGHT, add_key

    for one in right or ():
        if one not in EVERY_RIGHT:
            raise InputError("right", repr(one), ", ".join(EVERY_RIGHT))
    print(add_key(key_file, name, tuple(right or EVERY_RIGHT)))  # type: ignore[arg-type]


@keys.command("remove")
def remove(name: Annotated[str, typer.Argument(help="Whose key goes.")], key_file: KeyFileOption) -> None:
    """Take a key out; a running server lets it in no more."""
    from limner.runtime.server.keys import remove_key

    remove_key(key_file, name)


@keys.command("list")
def listed(key_file: KeyFileOption, as_json: JsonOption = False) -> None:
    """Names and rights."""
    from limner.runtime.server.keys import read_keys

    found = [{"name": key.name, "rights": list(key.rights)} for key in read_keys(key_file)]
    if as_json:
        print_json(found)
        return
    for one in found:
        print(f"{one['name']}  {', '.join(one['rights'])}")
