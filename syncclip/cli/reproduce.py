"""`syncclip reproduce`: a protocol of the literature on all its datasets, beside published figures."""

from __future__ import annotations

from typing import Annotated

import typer

from syncclip.cli.arguments import Datasets, Methods, Out, Overrides, Synthetic


def reproduce(
    protocol: Annotated[
        str,
        typer.Argument(
            metavar="PROTOCOL",
            help="base-to-novel, open-vocabulary, few-shot, cross-dataset, domain-generalisation, losses, data-use or "
            "growing.",
        ),
    ],
    root: Annotated[str, typer.Option("--root", metavar="DIR", help="The folder of all datasets, as CoOp has it.")],
    overrides: Overrides = None,
    dataset: Datasets = None,
    method: Methods = None,
    synthetic: Synthetic = None,
    out: Out = None,
) -> None:
    """Run a protocol of the literature on all its datasets, and set published figures beside it."""
    from syncclip.core import tables
    from syncclip.protocols.run import reproduce

    done = reproduce(protocol, root, dataset or [], method or [], out, synthetic, overrides or [])
    tables.show(f"report: {done.page}")
