"""`limner edit` asks the method for its options: `--steps 40` is `--set steps=40`, and --help shows its own alone."""

from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import typer.core

if TYPE_CHECKING:
    from limner.runtime.methods.registry import Method

__all__ = ["EditCommand"]

METHOD, WORDS = "limner.method", "limner.words"  # of the context's notes: the method, and the words as given
FLAGS = {"method": ("--method", "-m"), "mapper": ("--mapper",), "concept": ("--concept",), "prompt": ("--prompt",)}
OF_FAMILY = {"source_prompt": "diffusion", "refine": "stylegan2", "truncation": "stylegan2"}
OF_OPTION = {"word": "weights", "neutral": "neutral", "beta": "beta", "blend": "blend", "subtract": "subtract",
             "kind": "kind", "mask_add": "mask_add", "mask_remove": "mask_remove", "seed": "seed",
             "maps": "maps"}  # fmt: skip
OF_TEXTS = {"mapper": "mapper", "concept": "concept"}


class EditCommand(typer.core.TyperCommand):
    """The command with the options that its method declares."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        method = self.named_method(args)
        ctx.meta[METHOD] = method
        ctx.meta[WORDS] = tuple(args)
        if method is not None:
            args = with_settings(args, method, self.own_flags(ctx))
        found: list[str] = super().parse_args(ctx, args)
        return found

    def own_flags(self, ctx: Any) -> set[str]:
        """The options that every method has."""
        return {flag for one in self.get_params(ctx) for flag in (*one.opts, *one.secondary_opts)}

    def named_method(self, args: Sequence[str]) -> "Method | None":
        """The method that the words name or imply; None where they do not say, or name none that there is."""
        given = {name: _values(args, flags) for name, flags in FLAGS.items()}
        if not any(given.values()) and {"-h", "--help"} & set(args):
            return None
        from limner.runtime.cli.choice import choose_method
        from limner.runtime.errors import LimnerError
        from limner.runtime.methods.registry import find_method

        try:
            name = next(reversed(given["method"]), None)
            return find_method(choose_method(name, given["mapper"], given["concept"], given["prompt"]))
        except LimnerError:
            return None

    def format_options(self, ctx: Any, formatter: Any) -> None:
        method: Method | None = ctx.meta.get(METHOD)
        asked = method is not None and any(_values(ctx.meta.get(WORDS, ()), FLAGS[name]) for name in FLAGS)
        shown = method if asked else None
        records = [one.get_help_record(ctx) for one in self.get_params(ctx) if shown is None or applies(one, shown)]
        with formatter.section("Options"):
            formatter.write_dl([record for record in records if record is not None])
        if shown is None:
            formatter.write("\n  `limner edit --method NAME --help` shows the settings of a method, `limner methods` "
                            "lists them.\n")  # fmt: skip
        else:
            write_declared(formatter, shown, self.own_flags(ctx))


def applies(option: Any, method: "Method") -> bool:
    """Whether a method has use for one of the options that are there for all."""
    if option.name in OF_FAMILY:
        return method.family == OF_FAMILY[option.name]
    if option.name in OF_TEXTS:
        return method.texts == OF_TEXTS[option.name]
    return option.name not in OF_OPTION or method.has(OF_OPTION[option.name])


def with_settings(args: Sequence[str], method: "Method", own: set[str]) -> list[str]:
    """The words with a method's declared settings as --set NAME=VALUE; those that are options of all stay."""
    declared = {f"--{one.name.replace('_', '-')}": one.name for one in fields(method.parameters)}
    declared = {flag: name for flag, name in declared.items() if flag not in own}
    found: list[str] = []
    words = iter(args)
    for word in words:
        flag, sign, value = word.partition("=")
        if word == "--":
            return [*found, word, *words]
        if flag not in declared:
            refuse_of_others(flag, method, own)
            found.append(word)
            continue
        if not sign:
            value = next(words, "")
        found += ["--set", f"{declared[flag]}={value}"]
    return found


def refuse_of_others(flag: str, method: "Method", own: set[str]) -> None:
    """InputError for a setting of other methods, naming them."""
    from limner.runtime.errors import InputError
    from limner.runtime.methods.registry import find_method, method_names
    from limner.runtime.settings import options_of

    name = flag[2:].replace("-", "_")
    if not flag.startswith("--") or flag in own:
        return
    others = [other for other in method_names() if name in options_of(find_method(other).parameters)]
    if others:
        raise InputError(flag[2:], f"{flag} with the method {method.name!r}", f"{flag} with {', '.join(others)}")


def write_declared(formatter: Any, method: "Method", own: set[str]) -> None:
    """The method's own settings: options of their own, or --set where the name is taken."""
    from limner.runtime.declarations import setting_rows

    def flag(name: str) -> str:
        dashed = f"--{name.replace('_', '-')}"
        return f"--set {name}=" if dashed in own else dashed

    titled = [
        (f"Settings of {method.name}", method.parameters, flag),
        ("Options of a text", method.options, lambda name: name),
        ("Inversion of a picture", method.inversion, lambda name: f"--inversion {name}="),
    ]
    for title, declared, name_of in titled:
        rows = [(name_of(row.name), _described(row)) for row in setting_rows(declared)]
        if rows:
            with formatter.section(title):
                formatter.write_dl(rows)


def _described(row: Any) -> str:
    about = "; ".join(part for part in (row.allowed, row.default and f"default {row.default}") if part)
    return f"{row.help}  [{about}]" if about else row.help


def _values(args: Sequence[str], flags: Sequence[str]) -> list[str]:
    """The values of an option among the words of a command line, up to a lone `--`."""
    found = []
    words = list(args)[: list(args).index("--")] if "--" in args else list(args)
    for place, word in enumerate(words):
        flag, sign, value = word.partition("=")
        if flag in flags:
            found += [value] if sign else words[place + 1 : place + 2]
    return found
