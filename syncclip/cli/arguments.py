"""Arguments and options that several commands take."""

from __future__ import annotations

from typing import Annotated

import typer

RecipeName = Annotated[str, typer.Argument(metavar="RECIPE", help="A shipped recipe (icons, demo) or a YAML file.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[SECTION.KEY=VALUE]...", help="Recipe values that win over the file's.")
]
Out = Annotated[str | None, typer.Option("--out", metavar="DIR", help="Where results go: a folder or a URL.")]
Root = Annotated[
    str | None, typer.Option("--root", metavar="DIR", help="The folder of all datasets, as CoOp lays them out.")
]
Datasets = Annotated[list[str] | None, typer.Option("--dataset", metavar="NAME", help="Only this one; again for more.")]
Methods = Annotated[list[str] | None, typer.Option("--method", metavar="NAME", help="Only this one; again for more.")]
Synthetic = Annotated[
    str | None, typer.Option("--synthetic", metavar="DIR", help="Synthetic sets, called like the datasets.")
]
Folder = Annotated[str, typer.Argument(metavar="DIR", help="A folder or a URL.")]


def reach(overrides: list[str] | None) -> None:
    """Use the `storage.options` among a command's overrides, where it takes no recipe; without any, what is set stays.

    Raises:
        UserError: an unknown key or a wrong value.
    """
    if overrides:
        from syncclip import storage
        from syncclip.recipe.recipe import Recipe

        storage.configure(Recipe.of_defaults(overrides).storage.options)
