"""The command `syncclip`: its subcommands, and how it ends.

Everything heavy is imported inside the commands, so that help and refusals come at once. A user's mistake is
reported in one sentence with exit status 2; `--debug` shows where it was found.
"""

from __future__ import annotations

import errno
import os
import re
import threading
from typing import Annotated

import typer
from typer.main import get_command

from syncclip.cli import classify, datasets, jobs, plan, prompts, recipe, serve, shards, status, submit, verify
from syncclip.core.custom_code import own_code_error
from syncclip.core.secrets import remember_arguments
from syncclip.core.session import current
from syncclip.core.settings import UserError
from syncclip.core.text import LONGEST, cut, nearest
from syncclip.core.trust import names_in, trust
from syncclip.runtime.progress import say
from syncclip.runtime.ray_session import EXIT_STATUS, LostRayError, cause_of, debugging
from syncclip.runtime.shutdown import GRACE, SENTENCE, listening

FULL = errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS
"""Errors of a disk that takes nothing."""

QUESTION = "How much does synthetic data help CLIP recognise classes without real images?"

app = typer.Typer(
    name="syncclip", help=QUESTION, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)
for command in (
    *(jobs.demo, jobs.init, plan.plan, jobs.captions, submit.submit, status.status, jobs.synth, jobs.train),
    *(
        jobs.evaluate,
        classify.classify,
        classify.teacher,
        classify.export,
        classify.push,
        serve.serve,
        jobs.study,
        jobs.reproduce,
        jobs.tune,
        jobs.report,
        verify.verify,
        verify.recompute,
    ),
):
    app.command()(command)
GROUPS = {"recipe": recipe.app, "datasets": datasets.app, "shards": shards.app, "prompts": prompts.app}
for name, group in GROUPS.items():
    app.add_typer(group, name=name)
app.add_typer(datasets.app, name="benchmarks", hidden=True)  # its name in earlier versions


@app.callback(help=QUESTION, invoke_without_command=True)
def options(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and Ray's own output.")] = False,
    grace: Annotated[
        float, typer.Option("--grace", metavar="SECONDS", help="For what is in flight, when interrupted.")
    ] = GRACE,
    trusted: Annotated[
        list[str] | None,
        typer.Option("--trust", metavar="NAME", help="Run this code, module:Class, though a file of others names it."),
    ] = None,
    stores: Annotated[
        list[str] | None,
        typer.Option("--storage", metavar="KEY=VALUE", help="An option of the store, as a recipe's `storage.options`."),
    ] = None,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    """Apply the options that precede the command, where no pattern of file names can add one."""
    if debug:
        os.environ["SYNCCLIP_DEBUG"] = "1"
    if version:
        from importlib import metadata

        try:
            typer.echo(f"syncclip {metadata.version('syncclip')}")
        except metadata.PackageNotFoundError:  # a working folder, as inside a submitted job
            typer.echo("syncclip (not installed)")
        raise typer.Exit
    if not 0 <= grace <= threading.TIMEOUT_MAX:
        raise UserError(f"--grace: {grace} is no number of seconds; give one, such as --grace 20")
    context.with_resource(listening(grace))
    for name in trusted or ():
        if names_in(name) != [name]:
            raise UserError(f"--trust: {name!r} names no code; give what a refusal names, package.module:Class")
        trust(name, anywhere=True)
    if stores:
        from syncclip.recipe.recipe import Recipe

        context.obj = [f"storage.options.{pair}" for pair in stores]  # for `with_storage`
        current().default_options.update(Recipe.of_defaults(context.obj).storage.options)


def run(arguments: list[str]) -> int:
    """Run the command in a session of its own; returns the exit status."""
    with current().copy():
        return _run(arguments)


def _run(arguments: list[str]) -> int:
    remember_arguments(arguments)
    command = get_command(app)
    try:
        _refuse_file_names(arguments)
        with listening() as listener:
            try:
                # Not by calling `app`: typer would end quietly at an interrupt.
                with command.make_context("syncclip", arguments) as context:
                    return command.invoke(context) or 0
            except (KeyboardInterrupt, typer.Abort):
                say(SENTENCE)
                return listener.status or 130
    except typer.Exit as end:
        return end.exit_code
    except BrokenPipeError:  # who reads the output has seen enough, as `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except Exception as error:
        mistake = sentence(error)
        if mistake is None or debugging():
            raise
        if isinstance(error, LostRayError):  # which has been said
            return EXIT_STATUS
        say(f"syncclip: {mistake}")
        return 2


def _refuse_file_names(arguments: list[str]) -> None:
    """Refuse an argument that is an option and also a file's name: a shell pattern such as `*` may have produced it."""
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    for argument in options:
        if len(argument) > 1 and argument.startswith("-") and os.path.lexists(argument):
            raise UserError(
                f"{argument!r} is an option and the name of a file here; write ./{argument} for the file, or put -- "
                "before all file names"
            )


def sentence(error: BaseException) -> str | None:
    """A user's mistake as one sentence; None for a defect, whose traceback is worth more than any sentence."""
    if hasattr(error, "format_message"):  # typer's own: an unknown command, a missing argument
        text = str(error.format_message()).rstrip(".")
        if text.startswith("No such command"):
            group = getattr(getattr(error, "ctx", None), "info_name", None)
            return _no_such_command(re.split(r"[\"']", text)[1], group)
        option = getattr(error, "option_name", None)
        if option in {name for one in get_command(app).params for name in one.opts}:
            return f"{option} goes before the command: syncclip {option} ..."
        return f"{text[:1].lower()}{text[1:]}; see `syncclip --help`" if text else "give a command, such as `demo`"
    error = cause_of(error)
    error = own_code_error(error) or error
    if isinstance(error, UnicodeEncodeError):
        name = cut(" ".join(str(error.object).split()))
        return f"{name!a}: not valid UTF-8, so it can't be the name of a file or folder here; rename it"
    if isinstance(error, ValueError | FileNotFoundError | PermissionError | NotADirectoryError | IsADirectoryError):
        return cut(" ".join(str(error).split()), LONGEST)
    if isinstance(error, OSError) and error.errno in FULL:
        place = error.filename or "standard output or a temporary file"
        return f"{place} can't be written to: {error.strerror}; free some space, or choose another disk"
    for loop in (error, error.__context__):  # pathlib raises an error of its own after it
        if isinstance(loop, OSError) and loop.errno == errno.ELOOP:
            return f"{loop.filename}: links lead from there back to it; remove the link, or name another place"
    return None


def _no_such_command(name: str, among: str | None = None) -> str:
    """The nearest command; of those with the same name, the one of the group `among`."""
    commands = [command.name or getattr(command.callback, "__name__", "") for command in app.registered_commands]
    for group, members in GROUPS.items():
        commands += [group, *(f"{group} {command.name}" for command in members.registered_commands)]
    words: dict[str, str] = {}
    for command in sorted(commands, key=lambda command: not command.startswith(f"{among} ")):
        words.setdefault(command.rpartition(" ")[2], command)
    near = nearest(name, words)
    hint = f"did you mean {words[near]!r}?" if near else f"there are {', '.join(sorted(commands))}"
    return f"there is no command {name!r}; {hint}"
