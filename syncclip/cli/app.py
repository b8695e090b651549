"""The `syncclip` command: its subcommands, global options and one-line errors.

Each command imports heavy modules only when it runs, to keep help and errors fast. A user error is printed as one line,
and the exit status is 2; `--debug` adds the traceback.
"""

from __future__ import annotations

import errno
import os
import re
import threading
from typing import Annotated

import typer
from typer.main import get_command

from syncclip.cli import assess, classify, datasets, jobs, plan, prompts, recipe, results, serve, shards, status, verify
from syncclip.cli.arguments import IGNORED
from syncclip.core.custom_code import TRACEBACK, custom_code_error
from syncclip.core.secrets import remember_arguments
from syncclip.core.session import current
from syncclip.core.settings import UserError
from syncclip.core.text import LONGEST, cut, nearest
from syncclip.core.trust import names_in, trust
from syncclip.runtime.progress import print_message
from syncclip.runtime.ray_session import EXIT_STATUS, LostRayError, debugging, unwrapped
from syncclip.runtime.shutdown import GRACE, INTERRUPTED_MESSAGE, listening

UNWRITABLE = errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS
"""Values of `errno` for a full or read-only disk."""

QUESTION = "How much does synthetic data help CLIP recognise classes without real images?"

COMMANDS = (
    *(
        jobs.demo,
        jobs.init,
        assess.assess,
        plan.plan,
        jobs.captions,
        jobs.submit,
        status.status,
        jobs.synth,
        jobs.train,
    ),
    *(jobs.evaluate, classify.classify, classify.teacher, classify.export, classify.push, serve.serve, jobs.study),
    *(jobs.reproduce, jobs.tune, jobs.report, results.compare, results.recommend, verify.verify, verify.recompute),
)
GROUPS = {"recipe": recipe.app, "datasets": datasets.app, "shards": shards.app, "prompts": prompts.app}

app = typer.Typer(
    name="syncclip", help=QUESTION, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)
for command in COMMANDS:
    app.command()(command)
for name, group in GROUPS.items():
    app.add_typer(group, name=name)


@app.callback(help=QUESTION, invoke_without_command=True)
def options(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and Ray's own output.")] = False,
    grace: Annotated[
        float,
        typer.Option("--grace", metavar="SECONDS", help="Grace period for in-flight work on interruption."),
    ] = GRACE,
    trusted: Annotated[
        list[str] | None,
        typer.Option(
            "--trust", metavar="NAME", help="Trust custom code (module:Class) referenced by an untrusted file."
        ),
    ] = None,
    stores: Annotated[
        list[str] | None,
        typer.Option("--storage", metavar="KEY=VALUE", help="Storage option, added to the recipe's `storage.options`."),
    ] = None,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    """Apply the global options; they must precede the command, so that an expanded shell pattern cannot add any."""
    if debug:
        os.environ["SYNCCLIP_DEBUG"] = "1"
    if version:
        from importlib import metadata

        try:
            typer.echo(f"syncclip {metadata.version('syncclip')}")
        except metadata.PackageNotFoundError:  # run from source, as in a submitted job
            typer.echo("syncclip (not installed)")
        raise typer.Exit
    if not 0 <= grace <= threading.TIMEOUT_MAX:
        raise UserError(f"--grace: {grace} is not a valid number of seconds; use e.g. --grace 20")
    context.with_resource(listening(grace))
    for name in trusted or ():
        if names_in(name) != [name]:
            raise UserError(
                f"--trust: {name!r} is not of the form package.module:Class; copy the name from the error message"
            )
        trust(name, anywhere=True)
    if stores:
        from syncclip.recipe.recipe import Recipe

        context.obj = [f"storage.options.{pair}" for pair in stores]  # for `with_storage`
        current().default_options.update(Recipe.of_defaults(context.obj).storage.options)


def run(arguments: list[str]) -> int:
    """Run the command in its own session, and return the exit status."""
    with current().copy():
        remember_arguments(arguments)
        command = get_command(app)
        try:
            # A shell pattern such as `*` may have inserted a file name that is also an option.
            for argument in arguments[: arguments.index("--")] if "--" in arguments else arguments:
                if len(argument) > 1 and argument.startswith("-") and os.path.lexists(argument):
                    raise UserError(
                        f"{argument!r} is both an option and a file in the working directory; write ./{argument} for "
                        "the file, or put -- before all file names"
                    )
            with listening() as listener:
                try:
                    # `app()` would exit silently on an interrupt.
                    with command.make_context("syncclip", arguments) as context:
                        return command.invoke(context) or 0
                except (KeyboardInterrupt, typer.Abort):
                    print_message(INTERRUPTED_MESSAGE)
                    return listener.status or 130
        except typer.Exit as end:
            return end.exit_code
        except BrokenPipeError:  # the reader of the pipe, such as `head`, has exited
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            return 1
        except Exception as error:
            message = sentence(error)
            if message is None or debugging():
                raise
            if isinstance(error, LostRayError):  # already reported
                return EXIT_STATUS
            message, mark, trace = message.partition(TRACEBACK)
            for line in f"{mark}{trace}".splitlines()[1:]:
                print_message(line)
            print_message(f"syncclip: {message}")
            return 2


def sentence(error: BaseException) -> str | None:
    """Return the message of a user error; None for an unexpected error, which is shown with its traceback.

    The message is one line, followed by the traceback of custom code, if any (see `TRACEBACK`).
    """
    if hasattr(error, "format_message"):  # Typer's own: an unknown command, a missing argument
        text = str(error.format_message()).rstrip(".")
        if text.startswith("No such command"):
            group = getattr(getattr(error, "ctx", None), "info_name", None)
            return _no_such_command(re.split(r"[\"']", text)[1], group)
        option = getattr(error, "option_name", None)
        if option in {name for parameter in get_command(app).params for name in parameter.opts}:
            return f"{option} must precede the command: syncclip {option} ..."
        if text.endswith("requires an argument"):
            commands = getattr(get_command(app), "commands", {}).values()
            options = [each for command in commands for each in command.params if option in each.opts]
            values = dict.fromkeys(each.metavar for each in options if each.metavar)
            text += f": {option} {' or '.join(values)}" if values else ""
        context = getattr(error, "ctx", None)
        usage = f"see `{context.command_path if context else 'syncclip'} --help`"
        if option and context and any(parameter.name == "recipe" for parameter in context.command.params):
            usage = f"{_as_override(option, context.info_name)}{usage}"
        return f"{text[:1].lower()}{text[1:]}; {usage}" if text else f"missing command; {usage}"
    error = unwrapped(error)
    error = custom_code_error(error) or error
    if isinstance(error, UnicodeEncodeError):
        name = cut(" ".join(str(error.object).split()))
        return f"{name!a}: the name is not valid UTF-8; rename the file or folder"
    if isinstance(error, ValueError | FileNotFoundError | PermissionError | NotADirectoryError | IsADirectoryError):
        message, mark, trace = str(error).partition(TRACEBACK)
        return cut(" ".join(message.split()) + mark + trace, LONGEST)
    if isinstance(error, OSError) and error.errno in UNWRITABLE:
        target = error.filename or "standard output or a temporary file"
        return f"{target} can't be written: {error.strerror}; free some space, or choose another disk"
    for cause in (error, error.__context__):  # pathlib replaces it with another error
        if isinstance(cause, OSError) and cause.errno == errno.ELOOP:
            return f"{cause.filename}: symbolic links form a loop; remove the link, or use another path"
    return None


def _as_override(option: str, command: str) -> str:
    """Suggest a recipe setting used by the command for an unknown option, such as --epochs; "" if none is similar."""
    from syncclip.core.validation_errors import keys_of
    from syncclip.recipe.recipe import Recipe
    from syncclip.recipe.suggestions import suggestions

    used = [key for key in keys_of(Recipe) if key.partition(".")[0] not in IGNORED.get(command, ())]
    keys = suggestions(option.lstrip("-").replace("-", "_"), used, Recipe().training.method)
    return f"to change a recipe setting, use {keys[0]}=VALUE; " if keys else ""


def _no_such_command(name: str, group: str | None = None) -> str:
    """Return the error message for an unknown command; suggest the most similar command, if any, of `group`."""
    commands = [command.__name__ for command in COMMANDS]
    for prefix, typer_ in GROUPS.items():
        commands += [prefix, *(f"{prefix} {command.name}" for command in typer_.registered_commands)]
    if group in GROUPS:
        commands = [command for command in commands if command.startswith(f"{group} ")]
    words: dict[str, str] = {}
    for command in commands:
        words.setdefault(command.rpartition(" ")[2], command)
    near = nearest(name, words)
    hint = f"did you mean {words[near]!r}?" if near else f"use one of {', '.join(sorted(commands))}"
    return f"unknown command {name!r}; {hint}"
