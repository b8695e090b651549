"""`syncclip submit`: a command as a job of a Ray cluster, by Ray's own job client."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from syncclip.cli.arguments import Datasets, Methods, Out, Overrides, Root, Synthetic

if TYPE_CHECKING:
    from syncclip.cli.submission import Submission


class JobName(str, Enum):
    """The commands that go to a cluster."""

    synth = "synth"
    train = "train"
    study = "study"
    reproduce = "reproduce"


def submit(
    job: Annotated[JobName, typer.Argument(metavar="synth|train|study|reproduce", help="The command to run there.")],
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="A shipped recipe or a YAML file; of `reproduce`, the protocol.")
    ],
    overrides: Overrides = None,
    out: Out = None,
    address: Annotated[
        str,
        typer.Option(
            "--address",
            envvar="RAY_API_SERVER_ADDRESS",
            metavar="URL",
            help="The cluster's dashboard, http://HEAD:8265.",
        ),
    ] = "http://127.0.0.1:8265",
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Follow the log until the job ends.")] = True,
    shared: Annotated[
        bool, typer.Option("--shared", help="Every node sees the paths of this machine under the same names.")
    ] = False,
    any_version: Annotated[
        bool, typer.Option("--any-version", help="Submit also to a cluster of another Ray version.")
    ] = False,
    root: Root = None,
    dataset: Datasets = None,
    method: Methods = None,
    synthetic: Synthetic = None,
) -> None:
    """Run a command on a Ray cluster; submitted twice, it is joined or resumed, never doubled."""
    from syncclip.cli import submission
    from syncclip.core.settings import UserError
    from syncclip.recipe.recipe import Recipe

    build: Callable[..., Submission]
    if job is JobName.reproduce:
        if root is None:
            raise UserError(
                "missing option '--root': reproduce needs the folder of all datasets; see `syncclip --help`"
            )
        given = recipe, root, dataset or [], method or [], out, synthetic, overrides or []
        build = partial(submission.reproduction, *given)
    elif root or dataset or method or synthetic:
        raise UserError(
            f"--root, --dataset, --method and --synthetic are reproduce's; {job.value} has a recipe for that"
        )
    else:
        build = partial(submission.submission, job.value, Recipe.load(recipe, overrides or []), out)
    status = run(partial(build, shared=shared), address, wait=wait, any_version=any_version)
    if status:
        raise typer.Exit(status)


def run(build: Callable[..., Submission], address: str, *, wait: bool, any_version: bool) -> int:
    """Submit, follow and tell; returns the exit status of the job, 0 where it isn't waited for.

    Args:
        build: makes the job, once it is known whether the cluster is `here`.
    """
    from syncclip.cli import following, submission
    from syncclip.core.progress import say

    client = submission.connect(address, any_version=any_version)
    one = build(here=submission.runs_here(client))
    name, joined = submission.submit(client, one)
    say(f"job {name} {'is at it already' if joined else 'is submitted'} at {address}")
    stop = f"`ray job stop {name} --address {address}` stops it"
    if not wait:
        say(f"it goes on by itself; {stop}")
        return 0
    try:
        done = following.follow(client, name, lambda piece: typer.echo(piece, nl=False))
    except KeyboardInterrupt:
        say(f"the job goes on by itself; {stop}, and the same command follows it again")
        return following.STOPPED
    if done.status:
        say(f"job {name} failed with exit status {done.status}: {done.reason}")
    return done.status
