"""Arguments and options that several commands take."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer

import syncclip
from syncclip.core.settings import UserError

# Of what may be given any number of times; the command gets a list.
SEVERAL: dict[str, Any] = {"default_factory": list, "show_default": False}


def with_storage(context: typer.Context, overrides: list[str]) -> list[str]:
    """A command's overrides, and those of `--storage`.

    Raises:
        UserError: an override that names code is also a file's name, which a shell pattern may have produced.
    """
    for override in overrides:
        if ":" in override and "=" in override and os.path.lexists(override):
            raise UserError(f"{override!r} is an override and the name of a file here; rename the file")
    return [*overrides, *(context.obj or ())]


RecipeName = Annotated[str, typer.Argument(metavar="RECIPE", help="A shipped recipe (travel, icons) or a YAML file.")]
Overrides = Annotated[
    list[str],
    typer.Argument(
        **SEVERAL,
        metavar="SECTION.KEY=VALUE",
        callback=with_storage,
        help="Recipe values that replace the file's.",
    ),
]
Out = Annotated[str | None, typer.Option("--out", metavar="DIR", help="Where results go: a folder or a URL.")]
OutFile = Annotated[str | None, typer.Option("--out", metavar="FILE", help="The file to write: a path or a URL.")]
OutSet = Annotated[str, typer.Option("--out", metavar="DIR", help="Where it goes: a folder or a URL.")]
Root = Annotated[
    str | None, typer.Option("--root", metavar="DIR", help="The folder of all datasets, organised as for CoOp.")
]
Datasets = Annotated[
    list[str], typer.Option("--dataset", **SEVERAL, metavar="NAME", help="Only this dataset; may be repeated.")
]
Methods = Annotated[
    list[str], typer.Option("--method", **SEVERAL, metavar="NAME", help="Only this method; may be repeated.")
]
Synthetic = Annotated[
    str | None, typer.Option("--synthetic", metavar="DIR", help="A folder of synthetic sets, named like the datasets.")
]
Folder = Annotated[str, typer.Argument(metavar="DIR", help="A folder or a URL.")]
Run = Annotated[
    str, typer.Argument(metavar="RUN", help="A folder, a URL, or hf://owner/name[@revision] on the Hugging Face hub.")
]


def configure_storage(overrides: list[str]) -> None:
    """Apply the `storage.options` among the overrides of a command that takes no recipe; without any, change nothing.

    Raises:
        UserError: an unknown key or a wrong value.
    """
    if overrides:
        from syncclip import storage

        storage.configure(syncclip.Recipe.of_defaults(overrides).storage.options)
