"""The command `syncclip`: its subcommands, and how it ends.

Everything heavy is imported inside the commands, so that help and refusals come at once. A user's mistake is
reported in one sentence with exit status 2; `--debug` shows where it was found.
"""

from __future__ import annotations

import errno
import os
import re
import threading
from contextlib import suppress
from typing import Annotated, Any

import typer
from typer.main import get_command

from syncclip.cli import classify, datasets, jobs, plan, prompts, recipe, serve, shards, status, submit, verify
from syncclip.core.interruption import GRACE, SENTENCE, listening
from syncclip.core.own_code import own_code_error
from syncclip.core.progress import say
from syncclip.core.ray_session import debugging
from syncclip.core.ray_watch import EXIT_STATUS, LostRayError, cause_of
from syncclip.core.secrets import remember_arguments
from syncclip.core.settings import UserError
from syncclip.core.text import LONGEST, cut, nearest
from syncclip.core.trust import NAME, trust

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
        classify.teach,
        classify.export,
        classify.push,
        serve.serve,
        jobs.study,
        jobs.reproduce,
        jobs.choose,
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
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and Ray's own output.")] = False,  # noqa: ARG001
    grace: Annotated[  # noqa: ARG001
        float, typer.Option("--grace", metavar="SECONDS", help="For what is in flight, when interrupted.")
    ] = GRACE,
    trusted: Annotated[  # noqa: ARG001
        list[str] | None,
        typer.Option("--trust", metavar="NAME", help="Run this code, module:Class, though a file of others names it."),
    ] = None,
    storage: Annotated[  # noqa: ARG001
        list[str] | None,
        typer.Option("--storage", metavar="KEY=VALUE", help="An option of the store, as a recipe's `storage.options`."),
    ] = None,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    """Options of every command; `run` looks for all but `--version` itself, as they may stand anywhere."""
    if version:
        from importlib import metadata

        try:
            typer.echo(f"syncclip {metadata.version('syncclip')}")
        except metadata.PackageNotFoundError:  # a working folder, as inside a submitted job
            typer.echo("syncclip (not installed)")
        raise typer.Exit


def run(arguments: list[str]) -> int:
    """Run the command; returns the exit status. Its options may stand anywhere."""
    if "--debug" in arguments:
        arguments = [argument for argument in arguments if argument != "--debug"]
        os.environ["SYNCCLIP_DEBUG"] = "1"
    remember_arguments(arguments)
    command = get_command(app)
    try:
        grace, arguments = _grace(arguments)
        arguments = _with_storage(command, _with_trust(arguments))
        with listening(grace) as listener:
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


def _grace(arguments: list[str]) -> tuple[float, list[str]]:
    """The seconds of the last `--grace`, and the other arguments."""
    given, others = _taken(arguments, "--grace")
    grace = given[-1] if given else str(GRACE)
    with suppress(ValueError):
        if 0 <= float(grace) <= threading.TIMEOUT_MAX:
            return float(grace), others
    raise UserError(f"--grace: {grace!r} is no number of seconds; give one, such as --grace 20")


def _with_trust(arguments: list[str]) -> list[str]:
    """The arguments without `--trust`, after each of which code is named that is trusted from here on."""
    names, others = _taken(arguments, "--trust")
    for name in names:
        if not NAME.fullmatch(name):
            raise UserError(f"--trust: {name!r} names no code; give what a refusal names, package.module:Class")
        trust(name, anywhere=True)
    return others


def _with_storage(command: Any, arguments: list[str]) -> list[str]:
    """The arguments without `--storage`: as overrides of a command that takes some, for others as this process's."""
    given, others = _taken(arguments, "--storage")
    if not given:
        return arguments
    for word in others:
        command = getattr(command, "commands", {}).get(word, command)
    overrides = [f"storage.options.{pair}" for pair in given]
    if any(parameter.name == "overrides" for parameter in command.params):
        return [*others, *overrides]
    from syncclip import storage
    from syncclip.recipe.recipe import Recipe

    storage.give(Recipe.of_defaults(overrides).storage.options)
    return others


def _taken(arguments: list[str], option: str) -> tuple[list[str], list[str]]:
    """The values of an option that may stand anywhere, and the other arguments."""
    values, others = [], []
    following = iter(arguments)
    for argument in following:
        if argument == option:
            values.append(next(following, ""))
        elif argument.startswith(f"{option}="):
            values.append(argument.removeprefix(f"{option}="))
        else:
            others.append(argument)
    return values, others


def sentence(error: BaseException) -> str | None:
    """A user's mistake as one sentence; None for a defect, whose traceback is worth more than any sentence."""
    if hasattr(error, "format_message"):  # typer's own: an unknown command, a missing argument
        text = str(error.format_message()).rstrip(".")
        if text.startswith("No such command"):
            group = getattr(getattr(error, "ctx", None), "info_name", None)
            return _no_such_command(re.split(r"[\"']", text)[1], group)
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
