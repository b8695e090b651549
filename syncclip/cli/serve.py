"""`syncclip serve`: serve a trained run over HTTP."""

from __future__ import annotations

import time
from typing import Annotated

import typer
import yaml

from syncclip.cli.arguments import Backbone, Folder, Labels, Pretrained, label_selector
from syncclip.core import text
from syncclip.core.settings import UserError
from syncclip.runtime import shutdown
from syncclip.runtime.hosts import is_loopback

POLL_SECONDS = 0.2


def serve(
    run: Folder,
    labels: Labels,
    host: Annotated[
        str, typer.Option("--host", help="Address to listen on; 0.0.0.0 for all interfaces.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", min=1, max=65535, help="Port for the service and the demo page.")
    ] = 8000,
    token: Annotated[
        str | None,
        typer.Option(
            "--token",
            envvar="SYNCCLIP_SERVE_TOKEN",
            help="Bearer token that clients must send; required unless --host is a loopback address.",
        ),
    ] = None,
    top: Annotated[int, typer.Option("--top", min=1, help="Number of most probable classes to return per image.")] = 5,
    neighbours: Annotated[
        bool | None,
        typer.Option(
            "--neighbours/--no-neighbours",
            help="Show the nearest training images; default: for local runs served on a loopback address.",
        ),
    ] = None,
    replicas: Annotated[
        int, typer.Option("--replicas", min=1, help="Number of replicas, each with its own model.")
    ] = 1,
    num_cpus: Annotated[
        float | None,
        typer.Option(
            "--num-cpus",
            min=0.1,
            help="CPUs per replica; default: an equal share of this machine's CPUs, or 1 on a cluster.",
        ),
    ] = None,
    num_gpus: Annotated[
        float, typer.Option("--num-gpus", min=0, help="GPUs per replica; with 0.5, two replicas share a GPU.")
    ] = 0,
    autoscaling_config: Annotated[
        str | None,
        typer.Option(
            "--autoscaling-config",
            metavar="YAML",
            help="Ray Serve's autoscaling_config instead of --replicas, such as '{min_replicas: 1, max_replicas: 8}'.",
        ),
    ] = None,
    backbone: Backbone = None,
    pretrained: Pretrained = None,
) -> None:
    """Serve a run over HTTP, with a drag-and-drop demo page."""
    if not token and not is_loopback(host):
        raise UserError(
            f"--host {host} is reachable from other machines; set a token with SYNCCLIP_SERVE_TOKEN or --token"
        )
    from syncclip.runtime.ray_session import cluster_address, local_cpus
    from syncclip.serving import service
    from syncclip.storage.hub import PREFIX

    if num_cpus is None:
        num_cpus = 1 if cluster_address() else max(1, local_cpus() // replicas)
    settings = service.service_settings(
        {
            "run": run,
            "backbone": backbone,
            "pretrained": pretrained,
            "top": top,
            "neighbours": is_loopback(host) and not run.startswith(PREFIX) if neighbours is None else neighbours,
            "replicas": replicas,
            "num_cpus": num_cpus,
            "num_gpus": num_gpus,
            "label_selector": label_selector(labels) or {},
            "autoscaling_config": None if autoscaling_config is None else yaml.safe_load(autoscaling_config),
        }
    )
    with service.serving(settings, host, port, token or None) as url, shutdown.postponed():
        text.show(url)
        while not shutdown.requested():
            time.sleep(POLL_SECONDS)
