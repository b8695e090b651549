"""A command as a job of a Ray cluster: its name, what it runs, and what is uploaded for it.

The resolved recipe, the package itself and the user's own methods are uploaded; the cluster needs only what these
import. A job's name is a hash of all that decides it, so that a command submitted twice is joined or resumed.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import syncclip
from syncclip import storage
from syncclip.clip.backbone import EMBEDDED
from syncclip.core.secrets import harmless, shareable
from syncclip.core.settings import UserError
from syncclip.core.trust import require_trust
from syncclip.recipe.overrides import as_override
from syncclip.recipe.recipe import Recipe, digest
from syncclip.runs.resolve import readable_run, with_absolute_paths
from syncclip.storage.urls import absolute

if TYPE_CHECKING:
    from syncclip.protocols.run import Request

PATHS = re.compile(r"[^=]*(root|file|url|teacher|synthetic(\.\d+)?)=|[^=]+=(/|~|\.\.?/|file://)")
"""`key=text` of a path: by its key, which never holds another name, or by how the text begins."""

PRIVATE = ("*.pem", "*.key", "*.p12", "id_*", "credentials*")
"""Files that hold keys, should any lie in the folder of the package."""

SHOWN = "which a job would show to everyone who reaches the cluster"


@dataclass(frozen=True)
class Submission:
    """A job as it will be submitted."""

    name: str
    """`syncclip-<command>-<recipe or protocol>-<hash of all that decides the job>`."""
    arguments: tuple[str, ...]
    """Of `syncclip`, in the uploaded folder."""
    recipe: Recipe
    """It decides what is uploaded; a reproduction has one for each dataset, alike in this."""

    @property
    def entrypoint(self) -> str:
        """The shell command that the head runs in the uploaded folder."""
        return shlex.join(["python", "-m", "syncclip", *self.arguments])

    def write_upload(self, folder: Path) -> None:
        """Write the recipe, the package and the user's own methods, which the job needs, into an empty folder."""
        (folder / f"{self.recipe.name}.yaml").write_text(self.recipe.to_yaml(), encoding="utf-8")
        embedded = f'"{EMBEDDED}"' in self.recipe.model_dump_json(exclude={"name"})
        unused = shutil.ignore_patterns(".*", "__pycache__", *PRIVATE, *([] if embedded else [EMBEDDED]))

        def left_out(place: str, names: list[str]) -> set[str]:
            return {*unused(place, names), *(name for name in names if Path(place, name).is_symlink())}

        shutil.copytree(Path(syncclip.__file__).parent, folder / "syncclip", ignore=left_out)
        for file in own_python(self.recipe):
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, folder / file)


def own_python(recipe: Recipe) -> list[Path]:
    """The Python files of the user's own methods, relative to the working folder; those elsewhere the nodes must have.

    They are what was imported here, and what lies in the same packages; neither links nor files of another kind.
    """
    methods = (recipe.training.method, *(configuration.method for configuration in recipe.study.configurations))
    here, found = Path.cwd(), set[Path]()
    for name in {method.partition(":")[0] for method in methods if ":" in method}:
        place = here / name.partition(".")[0]
        file = Path(getattr(sys.modules.get(name), "__file__", None) or place.root)
        if place.is_symlink() or not (file.is_relative_to(place) or file == place.with_suffix(".py")):
            continue
        alone = [(str(here), list[str](), [file.name])]
        for folder, folders, names in os.walk(place) if file.is_relative_to(place) else alone:
            folders[:] = [one for one in folders if one.isidentifier() and one != "__pycache__"]
            files = (Path(folder, one) for one in names if one.endswith(".py") and one[:-3].isidentifier())
            found |= {one.relative_to(here) for one in files if not one.is_symlink()}
    return sorted(found)


def submission(command: str, recipe: Recipe, out: str | None, *, shared: bool) -> Submission:
    """The job that runs `syncclip <command> <recipe> --out <out>` on a cluster.

    Args:
        shared: whether every node sees this machine's paths under the same names.

    Raises:
        UserError: the recipe names paths that the cluster doesn't have, or holds secrets; or a study's configuration
        is refused.
    """
    if command == "study":
        from syncclip.studies.cells import (
            check_configurations,
        )  # imports all that a cell runs, which other commands don't need

        check_configurations(recipe)
    for key, name in recipe.code.items():  # on the cluster, the uploaded recipe counts as the user's own
        require_trust(name, f"recipe {recipe.name!r}: {key}: ")
    paths = _absolute_paths(recipe, {"--out": out}, shared)
    out = paths.pop("--out", out)
    recipe = recipe.with_values(paths)
    name = f"syncclip-{command}-{recipe.name}-{digest([command, recipe.to_yaml(), out])[:8]}"
    return Submission(name, (command, f"{recipe.name}.yaml", *(["--out", out] if out else [])), recipe)


def reproduction(request: Request, *, shared: bool) -> Submission:
    """The job that runs `syncclip reproduce` on a cluster.

    Raises:
        UserError: what `reproduce` refuses before it reads data; or see `submission`.
    """
    recipes = request.recipes()
    recipe = next(iter(recipes.values()))
    options = {"--root": request.root, "--synthetic": request.synthetic, "--out": request.out}
    paths = _absolute_paths(recipe, options, shared)
    places = {option: paths.pop(option, place) for option, place in options.items()}
    arguments = (
        *("reproduce", request.protocol),
        *(word for option, place in places.items() if place for word in (option, place)),
        *(word for name in request.datasets for word in ("--dataset", name)),
        *(word for name in request.methods for word in ("--method", name)),
        *request.overrides,
        *(as_override(key, path, Recipe) for key, path in paths.items() if not key.startswith("dataset.")),
    )
    hashed = digest([arguments, [one.to_yaml() for one in recipes.values()]])[:8]
    return Submission(f"syncclip-reproduce-{request.protocol}-{hashed}", arguments, recipe)


def classification(run: str, shards: str, out: str | None, actors: int, num_gpus: float, *, shared: bool) -> Submission:
    """The job that runs `syncclip classify` over a folder of shards on a cluster; of the run's recipe, only the CLIP.

    Raises:
        UserError: there is no finished run; or see `submission`.
    """
    recipe, _, run = readable_run(run)
    _check_options(recipe)
    for key, name in recipe.code.items():
        require_trust(name, f"{run}: {key}: ")
    options = {"RUN": run, "SHARDS": shards, **({"--out": out} if out else {})}
    own = dict(_texts({"backbone": with_absolute_paths(recipe).backbone.model_dump(mode="json")}))
    options |= _absolute({**options, **own}, options, shared)
    arguments = [word for name in recipe.code.values() for word in ("--trust", name)]
    arguments += ["classify", options["RUN"], options["SHARDS"], "--actors", str(actors)]
    arguments += ["--num-gpus", f"{num_gpus:g}"] if num_gpus else []
    arguments += ["--out", options["--out"]] if out else []
    return Submission(f"syncclip-classify-{recipe.name}-{digest(arguments)[:8]}", tuple(arguments), recipe)


def _absolute_paths(recipe: Recipe, options: Mapping[str, str | None], shared: bool) -> dict[str, str]:
    """Option or key -> absolute path of all files and folders of this machine that a command names.

    Raises:
        UserError: see `submission`.
    """
    _check_options(recipe)
    texts = {option: place for option, place in options.items() if place}
    texts |= dict(_texts(with_absolute_paths(recipe).model_dump(mode="json")))
    if options["--out"]:
        del texts["storage.root"]
    return _absolute(texts, options, shared)


def _check_options(recipe: Recipe) -> None:
    """Refuse options of the store that are secrets."""
    if secret := [name for name, value in recipe.storage.options.items() if harmless({name: value}) != {name: value}]:
        raise UserError(
            f"storage.options.{secret[0]}: the option holds a key or a password, or may, {SHOWN}; give its machines a "
            "role, or set the variables of their environment"
        )


def _absolute(texts: Mapping[str, str], options: Mapping[str, str | None], shared: bool) -> dict[str, str]:
    """Of texts by their option or key, those that are paths of this machine, made absolute."""
    named = {key: {key.rpartition(".")[2]: text} for key, text in texts.items()}
    if url := next((key for key, value in named.items() if shareable(value) != value), None):
        raise UserError(f"{url}: the URL holds a password, a signature or a token, {SHOWN}; leave it out of the URL")
    paths = {
        key: absolute(text)
        for key, text in texts.items()
        if storage.is_local(text) and (key in options or PATHS.match(f"{key}={text}"))
    }
    if paths and not shared:
        key = next(iter(paths))
        raise UserError(
            f"{key}: {texts[key]} is a path of this machine, and the cluster runs on others; use a URL, or give "
            "--shared if every node sees it under this name"
        )
    return paths


def _texts(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every text among nested values, with its dotted key."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, Mapping | list):
        for name, inner in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from _texts(inner, f"{key}.{name}" if key else str(name))
