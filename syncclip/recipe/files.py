"""Recipe files: lookup, inheritance (`extends`) and parsing of YAML into plain values."""

from __future__ import annotations

import functools
import json
import os
import re
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from syncclip import storage
from syncclip.core.formats import DEEPEST, MOST_NODES, parse_yaml, readable
from syncclip.core.settings import UserError
from syncclip.core.text import cut, first_line
from syncclip.core.trust import mark_around, mark_untrusted, names_in, texts_in, trust

_NAME = re.compile(r"[\w.\[\]-]+")

MOST_LAYERS = 100
"""Maximum number of recipes that a recipe may extend, directly or indirectly."""

SHIPPED = Path(__file__).parent / "shipped"
"""Folder of the shipped recipes; a recipe's name is its path relative to this folder, without `.yaml`."""


@functools.cache
def shipped() -> tuple[str, ...]:
    """Return the names of the shipped recipes."""
    return tuple(sorted(path.relative_to(SHIPPED).with_suffix("").as_posix() for path in SHIPPED.rglob("*.yaml")))


def read(source: str, base: str | None, own: bool = True) -> tuple[dict[str, Any], str, bool]:
    """Read a recipe merged with the recipes that it extends; return (plain values, label for messages, trusted?).

    Code named in trusted recipes is registered as trusted. See `Recipe.load` for the arguments.
    """
    url, label = _find(source)
    own = own and storage.is_local(url) and _mark_of(url) is None
    label = label if own else url
    try:
        layers = [*(_layers(*_find(base), own, []) if base is not None else []), *_layers(url, label, own, [])]
        merged = OmegaConf.merge(*(layer.config for layer in layers), {"name": layers[-1].name})
        _check_growth(OmegaConf.to_container(merged), label)
        values = OmegaConf.to_container(merged, resolve=True)
    except OmegaConfBaseException as error:
        raise UserError(f"{label}: {first_line(error)}") from error
    # Interpolated names are trusted only if all layers are trusted.
    trust(*names_in(values if all(layer.own for layer in layers) else [layer.values for layer in layers if layer.own]))
    for layer in layers:
        if layer.mark is not None:
            mark_untrusted(names_in(layer.values), layer.mark)
    return plain(values, label), label, own


def _mark_of(url: str) -> Path | None:
    """Return the file that marks a local recipe's folder as a results folder (see `trust.MARKS`), or None."""
    if not storage.is_local(url) or url.startswith(f"{SHIPPED}/"):
        return None
    path = storage.local_path(url)
    paths = Path(os.path.normpath(path.absolute())), path.resolve()  # a link and its target
    return next(filter(None, (mark_around(path.parent) for path in paths)), None)


def _check_growth(values: Any, source: str) -> None:
    """Raise a `UserError` if the expanded interpolations are too large or nested too deeply."""
    sizes: dict[tuple[str, ...], int] = {}

    def size(value: Any, path: tuple[str, ...], depth: int) -> int:
        if depth > DEEPEST:
            raise UserError(f"{source}: interpolations in {'.'.join(path)} are nested too deeply; use fewer levels")
        if isinstance(value, dict | list):
            items = value.items() if isinstance(value, dict) else enumerate(value)
            return 1 + sum(size(inner, (*path, str(key)), depth + 1) for key, inner in items)
        if not isinstance(value, str) or "${" not in value:
            return 1
        return len(value) + sum(reference_size(name, path, depth) for name in _NAME.findall(value.partition("${")[2]))

    def reference_size(name: str, path: tuple[str, ...], depth: int) -> int:
        dots = len(name) - len(name.lstrip("."))
        steps = filter(None, re.split(r"[.\[\]]+", name))
        target = (*(path[: len(path) - dots] if dots else ()), *steps)
        if target not in sizes:
            value = values
            for step in target:
                if isinstance(value, list) and step.isdecimal() and int(step) < len(value):
                    value = value[int(step)]
                else:
                    value = value.get(step) if isinstance(value, dict) else None
            sizes[target] = 1 if value is None else size(value, target, depth + 1)
        return sizes[target]

    if size(values, (), 0) > MOST_NODES:
        raise UserError(f"{source}: the expanded interpolations are too large; shorten them")


def plain(values: Any, source: str) -> Any:
    """Convert values to JSON types with 64-bit integers."""
    with readable(source):
        return json.loads(json.dumps(values, default=str), parse_int=_integer)


def _integer(digits: str) -> int:
    if len(digits) > 19:
        raise ValueError(f"{cut(digits, 40)} has too many digits")
    return int(digits)


class _Layer(NamedTuple):
    """Parsed recipe file; read-only because the parser caches it."""

    extends: list[str]
    name: Any
    config: DictConfig
    """Sections of the recipe, without `extends` and `name`."""
    values: dict[str, Any]
    """Plain values of `config`, with unresolved interpolations."""
    own: bool = True
    """Whether code named in the file is trusted."""
    mark: Path | None = None
    """File that marks the folder as a results folder; see `_mark_of`."""

    @property
    def reason(self) -> str:
        """Reason why the file is not trusted, as a suffix for error messages; empty if `mark` is None."""
        return "" if self.mark is None else f" ({self.mark} marks its folder as a results folder)"


def _layers(url: str, label: str, own: bool, within: list[str]) -> list[_Layer]:
    """Return a recipe's base recipes, then the recipe itself; the base recipes of an untrusted recipe are untrusted.

    Args:
        within: URLs of the recipes that extend this one.
    """
    text, mark = storage.read_bytes(url).decode(errors="replace"), _mark_of(url)
    if mark is not None and not text.strip():
        raise UserError(f"{url} is empty, although its folder contains {mark.name}; restore the recipe")
    parsed = _parse(text, label)
    last = parsed._replace(own=own and storage.is_local(url) and mark is None, mark=mark)
    layers: list[_Layer] = []
    folder, bases = url.rpartition("/")[0], last.extends
    raw_texts = texts_in([bases, last.name, last.values])
    if not last.own and any(re.search(r"\$\{.*:", text, re.DOTALL) for text in raw_texts):
        raise UserError(f"{url}: resolvers (${{...:...}}) are only allowed in your own recipes{last.reason}")
    if "${" in str(bases):
        bases = list(OmegaConf.merge(last.config, {"extends": bases}).extends)
    if not last.own and any(".." in base or base.startswith(("/", "~")) or "://" in base for base in bases):
        raise UserError(
            f"{url}: extends {bases[0]!r}; only your own recipes may extend files outside their folder{last.reason}"
        )
    for base in bases:
        absolute = base in shipped() or base.startswith("/") or "://" in base or not folder
        base_url, base_label = _find(base if absolute else storage.join(folder, base))
        if base_url in [*within, url]:
            raise UserError(f"{label}: extends: {base!r} also extends this recipe; remove one of the two `extends`")
        layers += _layers(base_url, base_label, last.own, [*within, url])
        if len(layers) > MOST_LAYERS or len(within) > MOST_LAYERS:
            raise UserError(f"{label}: the recipe extends more than {MOST_LAYERS} recipes; merge some of them")
    return [*layers, last]


def _find(source: str) -> tuple[str, str]:
    """Return (path or URL, label for messages) of a recipe."""
    names, name = shipped(), source.removeprefix("recipes/").removesuffix(".yaml")
    exists = source not in names and storage.exists(source)
    if name in names and not exists:
        return str(SHIPPED / f"{name}.yaml"), f"{name}.yaml"
    near = get_close_matches(name, names, 2, 0.5)
    hint = f"did you mean {' or '.join(map(repr, near))}? Otherwise " if near else ""
    remedy = f"{hint}use a YAML file, or a recipe that `syncclip recipe ls` lists"
    if not exists:
        problem = f"unknown recipe {source!r}" if re.fullmatch(r"[\w-]+", source) else f"{source}: no such file"
        raise UserError(f"{problem}; {remedy}")
    if storage.is_local(source) and storage.local_path(source).is_dir():
        raise storage.wrong_folder(source, "a recipe", f"the path is a folder; {remedy}")
    return source, source.rstrip("/").rpartition("/")[2]


@functools.cache
def _parse(text: str, label: str) -> _Layer:
    """Parse a recipe file; cached because OmegaConf is slow and studies load the same files for each run."""
    with readable(label):
        parsed = parse_yaml(text, label)
        if not isinstance(parsed, dict | None):
            content = "a list" if isinstance(parsed, list) else "a single value"
            raise UserError(f"{label}: the file contains {content}, but a recipe contains sections such as 'training:'")
        try:
            config = OmegaConf.create(parsed or {})
        except OmegaConfBaseException as error:
            raise UserError(f"{label}: {first_line(error)}") from error
    # YAML parses a section whose keys are all commented out as None; it must not replace an extended recipe's section.
    values = {str(key): value for key, value in OmegaConf.to_container(config).items() if value is not None}
    named, name = values.pop("extends", None) or [], values.pop("name", Path(label).stem)
    extends = [named] if isinstance(named, str) else named
    if not isinstance(extends, list) or not all(isinstance(base, str) for base in extends):
        raise UserError(
            f"{label}: extends: {cut(repr(named))} is not a recipe; set `extends` to a recipe or a list of recipes"
        )
    return _Layer(extends, name, DictConfig(values), values)
