"""Arguments and options that several commands take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from syncclip.recipe.recipe import Recipe


def several(metavar: str, text: str, option: str = "") -> Any:
    """An argument, or an option of this name, that is given any number of times; the command gets a list."""
    kind: Any = typer.Option if option else typer.Argument
    return kind(*[option] * bool(option), default_factory=list, show_default=False, metavar=metavar, help=text)


RecipeName = Annotated[str, typer.Argument(metavar="RECIPE", help="A shipped recipe (icons, demo) or a YAML file.")]
Overrides = Annotated[list[str], several("[SECTION.KEY=VALUE]...", "Recipe values that replace the file's.")]
Out = Annotated[str | None, typer.Option("--out", metavar="DIR", help="Where results go: a folder or a URL.")]
OutFile = Annotated[str | None, typer.Option("--out", metavar="FILE", help="The file to write: a path or a URL.")]
OutSet = Annotated[str, typer.Option("--out", metavar="DIR", help="Where the set goes: a folder or a URL.")]
Root = Annotated[
    str | None, typer.Option("--root", metavar="DIR", help="The folder of all datasets, organised as for CoOp.")
]
Datasets = Annotated[list[str], several("NAME", "Only this dataset; may be repeated.", "--dataset")]
Methods = Annotated[list[str], several("NAME", "Only this method; may be repeated.", "--method")]
Synthetic = Annotated[
    str | None, typer.Option("--synthetic", metavar="DIR", help="A folder of synthetic sets, named like the datasets.")
]
Folder = Annotated[str, typer.Argument(metavar="DIR", help="A folder or a URL.")]


def load(recipe: str, overrides: list[str]) -> Recipe:
    """The recipe that a command was given; see `Recipe.load`. It takes seconds to import, help and refusals don't."""
    from syncclip.recipe.recipe import Recipe

    return Recipe.load(recipe, overrides)


def configure_storage(overrides: list[str]) -> None:
    """Apply the `storage.options` among the overrides of a command that takes no recipe; without any, change nothing.

    Raises:
        UserError: an unknown key or a wrong value.
    """
    if overrides:
        from syncclip import storage
        from syncclip.recipe.recipe import Recipe

        storage.configure(Recipe.of_defaults(overrides).storage.options)
