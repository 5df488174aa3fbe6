"""The verbs of `limner`."""

from typing import Annotated

import typer

from limner.runtime.cli import commands, demo, editing, faces, inspecting, looking, sampling, serving, study
from limner.runtime.cli import methods as declared
from limner.runtime.cli.edit_command import EditCommand

__all__ = ["app"]

PASS_THROUGH = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}

app = typer.Typer(
    help="Edit images by words.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
) -> None:
    if version:
        from limner.runtime.versions import package_version

        typer.echo(f"limner {package_version('limner')}")
        raise typer.Exit()
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


app.command("edit", cls=EditCommand)(editing.edit)
app.command("invert")(editing.invert)
app.command("align")(faces.align)
app.command("sample")(sampling.sample)
app.command("replay")(editing.replay)
app.command("demo")(demo.demo)
models = typer.Typer(invoke_without_command=True, rich_markup_mode=None, pretty_exceptions_enable=False)
models.callback()(inspecting.models)
app.add_typer(models, name="models")
methods = typer.Typer(invoke_without_command=True, rich_markup_mode=None, pretty_exceptions_enable=False)
methods.callback()(declared.methods)
methods.command("show")(declared.show)
app.add_typer(methods, name="methods")
app.add_typer(study.app, name="study")
app.command("check")(inspecting.check)
app.command("inspect")(looking.inspect)
app.command("serve")(serving.serve)
app.command("ui")(serving.ui)
app.add_typer(serving.keys, name="keys")


@app.command("export", context_settings=PASS_THROUGH)
def export(context: typer.Context) -> int:
    """Write a bundle of ONNX graphs: limner[export]."""
    return commands.run_command("export", context.args)


@models.command("import", context_settings=PASS_THROUGH)
def import_weights(context: typer.Context) -> int:
    """Make a checkpoint of published weights: limner[train]."""
    return commands.run_command("import", context.args, extra="train", program="limner models import")


@app.command("train", context_settings=PASS_THROUGH)
def train(context: typer.Context) -> int:
    """Train a model: limner[train]."""
    return commands.run_command("train", context.args)
