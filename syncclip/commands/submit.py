"""`syncclip submit`: a command as a job of a Ray cluster, by Ray's own job client."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Annotated

import typer

from syncclip.commands.arguments import Out, Overrides, RecipeName

if TYPE_CHECKING:
    from syncclip.recipe import Recipe
    from syncclip.submission import Job


class JobName(str, Enum):
    """The commands that go to a cluster."""

    synth = "synth"
    train = "train"
    study = "study"


def submit(
    job: Annotated[JobName, typer.Argument(metavar="synth|train|study", help="The command to run there.")],
    recipe: RecipeName,
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
) -> None:
    """Run a command on a Ray cluster; submitted twice, it is joined or resumed, never doubled."""
    from syncclip.recipe import Recipe

    loaded = Recipe.load(recipe, overrides or [])
    status = run(job.value, loaded, out, address, wait=wait, shared=shared, any_version=any_version)
    if status:
        raise typer.Exit(status)


def run(job: Job, recipe: Recipe, out: str | None, address: str, *, wait: bool, shared: bool, any_version: bool) -> int:
    """Submit, follow and tell; returns the exit status of the job, 0 where it isn't waited for."""
    from syncclip import following, submission
    from syncclip.training.runs import say

    client = submission.connect(address, any_version=any_version)
    one = submission.submission(job, recipe, out, here=submission.runs_here(client), shared=shared)
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
