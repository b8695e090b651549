"""The command that answers over HTTP."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from syncclip.cli.arguments import Folder
from syncclip.cli.classify import Backbone, Pretrained
from syncclip.core import text
from syncclip.core.settings import UserError
from syncclip.runtime import shutdown
from syncclip.runtime.hosts import is_loopback

LOOK_SECONDS = 0.2


def serve(
    run: Folder,
    host: Annotated[str, typer.Option("--host", help="Where to listen; 0.0.0.0 is every network.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Of the service and its page.")] = 8000,
    token: Annotated[
        str | None,
        typer.Option(
            "--token", envvar="SYNCCLIP_SERVE_TOKEN", help="What requests must bring, where others reach the host."
        ),
    ] = None,
    top: Annotated[int, typer.Option("--top", min=1, help="Classes of an answer, the likeliest first.")] = 5,
    replicas: Annotated[int, typer.Option("--replicas", min=1, help="Processes that answer, each with a model.")] = 1,
    num_cpus: Annotated[
        float | None, typer.Option("--num-cpus", min=0.1, help="CPUs of each; by default its share of this machine's.")
    ] = None,
    num_gpus: Annotated[float, typer.Option("--num-gpus", min=0, help="GPUs of each; 0.5: two share one.")] = 0,
    backbone: Backbone = None,
    pretrained: Pretrained = None,
) -> None:
    """Answer over HTTP what images show, with a page to drop one on, until Ctrl-C."""
    if not token and not is_loopback(host):
        raise UserError(f"--host {host}: others reach it; set SYNCCLIP_SERVE_TOKEN, or --token, to what they must know")
    from syncclip.runtime.ray_session import cluster_address, local_cpus
    from syncclip.serving import service

    if num_cpus is None:
        num_cpus = 1 if cluster_address() else max(1, local_cpus() // replicas)
    settings = service.ServiceSettings(
        run=run,
        backbone=backbone,
        pretrained=pretrained,
        top=top,
        replicas=replicas,
        num_cpus=num_cpus,
        num_gpus=num_gpus,
    )
    with service.serving(settings, host, port, token or None) as address, shutdown.postponed():
        text.show(address)
        while not shutdown.requested():
            time.sleep(LOOK_SECONDS)
