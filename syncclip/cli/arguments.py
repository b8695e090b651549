"""Arguments and options shared by several commands."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer

import syncclip
from syncclip.core.settings import UserError
from syncclip.runtime.progress import print_message

IGNORED = {
    "captions": ("methods", "training", "evaluation", "study"),
    "synth": ("methods", "training", "study"),
    "train": ("synthesis", "study"),
}
"""Command -> recipe sections that do not affect it; the other commands use all sections."""

# Keyword arguments for repeatable parameters; the command receives a list.
REPEATED: dict[str, Any] = {"default_factory": list, "show_default": False}


def with_storage(context: typer.Context, overrides: list[str]) -> list[str]:
    """Return a command's overrides, followed by the overrides from `--storage`; warn about overrides without effect.

    Raises:
        UserError: an override that names code is also a file name, so it may come from an expanded shell pattern.
    """
    for override in overrides:
        if ":" in override and "=" in override and os.path.lexists(override):
            raise UserError(f"{override!r} is both an override and a file in the working directory; rename the file")
    command = str(getattr(context.params.get("job"), "value", context.info_name))  # `submit` runs another command
    keys = [override.partition("=")[0] for override in overrides if "=" in override]
    if ignored := [key for key in keys if key.partition(".")[0] in IGNORED.get(command, ())]:
        print_message(f"warning: `{command}` ignores {', '.join(ignored)}")
    return [*overrides, *(context.obj or ())]


RecipeName = Annotated[str, typer.Argument(metavar="RECIPE", help="Built-in recipe (travel, icons) or YAML file.")]
Overrides = Annotated[
    list[str],
    typer.Argument(
        **REPEATED,
        metavar="SECTION.KEY=VALUE",
        callback=with_storage,
        help="Overrides of recipe values.",
    ),
]
Out = Annotated[str | None, typer.Option("--out", metavar="DIR", help="Output folder: a path or a URL.")]
OutFile = Annotated[str | None, typer.Option("--out", metavar="FILE", help="Output file: a path or a URL.")]
OutFolder = Annotated[str, typer.Option("--out", metavar="DIR", help="Output folder: a path or a URL.")]
Root = Annotated[str | None, typer.Option("--root", metavar="DIR", help="Folder with all datasets, in CoOp's layout.")]
Datasets = Annotated[
    list[str], typer.Option("--dataset", **REPEATED, metavar="NAME", help="Run only this dataset; may be repeated.")
]
Methods = Annotated[
    list[str], typer.Option("--method", **REPEATED, metavar="NAME", help="Run only this method; may be repeated.")
]
Synthetic = Annotated[
    str | None,
    typer.Option("--synthetic", metavar="DIR", help="Folder of synthetic datasets, each named after its real dataset."),
]
Actors = Annotated[
    int, typer.Option("--actors", min=1, metavar="N", help="Number of Ray actors; 1: this process, without Ray.")
]
Folder = Annotated[str, typer.Argument(metavar="DIR", help="A folder or a URL.")]
Run = Annotated[
    str, typer.Argument(metavar="RUN", help="A folder, a URL, or hf://owner/name[@revision] on the Hugging Face Hub.")
]
Backbone = Annotated[
    str | None,
    typer.Option("--backbone", metavar="NAME", help="Name or path of the run's CLIP model, if changed since training."),
]
Pretrained = Annotated[
    str | None,
    typer.Option(
        "--pretrained", metavar="TAG", help="Tag or path of the run's CLIP weights, if changed since training."
    ),
]
Batch = Annotated[int, typer.Option("--batch", min=1, help="Number of images per forward pass.")]
ActorGpus = Annotated[float, typer.Option("--num-gpus", min=0, help="GPUs per actor.")]
Labels = Annotated[
    list[str],
    typer.Option(
        "--label",
        **REPEATED,
        metavar="NAME=VALUE",
        help="Ray label required of nodes, or NAME=!VALUE to exclude a value; may be repeated.",
    ),
]


def label_selector(labels: list[str]) -> dict[str, str] | None:
    """Return the label selector of `--label` options; None without options."""
    for label in labels:
        if not all(label.partition("=")):
            raise UserError(f"--label {label}: specify NAME=VALUE, such as ray.io/market-type=spot")
    return {name: value for name, _, value in (label.partition("=") for label in labels)} or None


def configure_storage(overrides: list[str]) -> None:
    """Apply overrides of `storage.options` for a command that takes no recipe.

    Raises:
        UserError: an unknown key or an invalid value.
    """
    if overrides:
        from syncclip import storage

        storage.configure(syncclip.Recipe.of_defaults(overrides).storage.options)
