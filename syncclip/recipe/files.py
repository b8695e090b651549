"""Recipe files: find them, let one extend others, and read plain values from their YAML."""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from syncclip import storage
from syncclip.core.formats import DEEPEST, MOST_NODES, parse_yaml, readable
from syncclip.core.settings import RENAMED, UserError, with_present_names
from syncclip.core.text import cut, did_you_mean, first_line
from syncclip.core.trust import mark_around, names_in, suspect, texts_in, trust
from syncclip.runtime.progress import say

_NAME = re.compile(r"[\w.\[\]-]+")

MOST_LAYERS = 100
"""Files that a recipe may extend, those that they extend in turn counted each time."""

SHIPPED = Path(__file__).parent / "shipped"
"""Recipes that come with the package; each is called by its path in this folder without `.yaml`."""


@functools.cache
def shipped() -> tuple[str, ...]:
    """Names of the recipes that come with the package."""
    return tuple(sorted(path.relative_to(SHIPPED).with_suffix("").as_posix() for path in SHIPPED.rglob("*.yaml")))


def read(source: str, base: str | None, own: bool = True) -> tuple[dict[str, Any], str, bool]:
    """(plain values, label for messages, whether it is the user's own) of a recipe, over those that it extends.

    Code that the user's own recipes name is trusted from here on.

    Args:
        source, base, own: see `Recipe.load`.

    Raises:
        UserError: no such file, no YAML, recipes that extend each other in a ring, or an interpolation of nothing; or
            one that is not the user's own reads the environment.
    """
    url, label = _find(source)
    own = own and _is_own(url)
    label = label if own else url
    try:
        layers = [*(_layers(*_find(base), own, []) if base is not None else []), *_layers(url, label, own, [])]
        merged = OmegaConf.merge(*(layer.config for layer in layers), {"name": layers[-1].name})
        _check_growth(OmegaConf.to_container(merged), label)
        values = OmegaConf.to_container(merged, resolve=True)
    except OmegaConfBaseException as error:
        raise UserError(f"{label}: {first_line(error)}") from error
    # Of own recipes alone, so that what a name is made of may be looked up; beside others', only as it is written.
    trust(*names_in(values if all(one.own for one in layers) else [_written(one) for one in layers if one.own]))
    for layer in layers:
        if layer.mark is not None:
            suspect(names_in(_written(layer)), layer.mark)
    return plain(values, label), label, own


def _is_own(url: str) -> bool:
    """Whether a recipe is the user's own: on this machine, and in no folder that may have come from elsewhere."""
    return storage.is_local(url) and _mark_of(url) is None


def _mark_of(url: str) -> Path | None:
    """The file that makes a recipe on this machine a stranger's, see `trust.MARKS`; None of the user's own."""
    if not storage.is_local(url) or url.startswith(f"{SHIPPED}/"):
        return None
    path = storage.local_path(url)
    places = Path(os.path.normpath(path.absolute())), path.resolve()  # of a link, where it is and where it leads
    return next(filter(None, (mark_around(place.parent) for place in places)), None)


def _check_growth(values: Any, source: str) -> None:
    """Refuse interpolations that refer to each other until they are larger than a memory.

    What might be a reference counts as one: a name that is a key of these values, anywhere behind a `${`.

    Raises:
        UserError: written out, the values are too large, or refer to each other too deeply.
    """
    sizes: dict[tuple[str, ...], int] = {}

    def size(value: Any, place: tuple[str, ...], depth: int) -> int:
        if depth > DEEPEST:
            raise UserError(
                f"{source}: interpolations in {'.'.join(place)} refer to each other too deeply; shorten them"
            )
        if isinstance(value, dict | list):
            items = value.items() if isinstance(value, dict) else enumerate(value)
            return 1 + sum(size(inner, (*place, str(key)), depth + 1) for key, inner in items)
        if not isinstance(value, str) or "${" not in value:
            return 1
        return len(value) + sum(referred(name, place, depth) for name in _NAME.findall(value.partition("${")[2]))

    def referred(name: str, place: tuple[str, ...], depth: int) -> int:
        dots = len(name) - len(name.lstrip("."))
        steps = filter(None, re.split(r"[.\[\]]+", name))
        at = (*(place[: len(place) - dots] if dots else ()), *steps)
        if at not in sizes:
            found = values
            for step in at:
                if isinstance(found, list) and step.isdecimal() and int(step) < len(found):
                    found = found[int(step)]
                else:
                    found = found.get(step) if isinstance(found, dict) else None
            sizes[at] = 1 if found is None else size(found, at, depth + 1)
        return sizes[at]

    if size(values, (), 0) > MOST_NODES:
        raise UserError(f"{source}: interpolations grow by referring to each other; shorten them")


def plain(values: Any, source: str) -> Any:
    """Values made of JSON's types, whose whole numbers have 64 bits."""
    with readable(source):
        return json.loads(json.dumps(values, default=str), parse_int=_whole)


def _whole(digits: str) -> int:
    if len(digits) > 19:
        raise ValueError(f"{cut(digits, 40)} has more digits than a number may have")
    return int(digits)


class _Layer(NamedTuple):
    """A recipe's file. It is read more than once: nothing may change it."""

    extends: list[str]
    name: Any
    config: DictConfig
    """Its sections, without the two above."""
    renamed: list[str]
    """Names of an earlier version that it uses."""
    own: bool = True
    """Whether it is the user's own, and so may name code."""
    mark: Path | None = None
    """See `_mark_of`."""

    @property
    def why(self) -> str:
        """In a refusal: what makes it a stranger's."""
        return "" if self.mark is None else f" (its folder holds results or a download, as {self.mark} shows)"


def _layers(url: str, label: str, own: bool, within: list[str]) -> list[_Layer]:
    """The recipes that a recipe extends, and itself as the last; `within` are those that extend it.

    What a recipe extends is the user's `own` only if it itself is.
    """
    text, mark = storage.read_bytes(url).decode(errors="replace"), _mark_of(url)
    if mark is not None and not text.strip():
        raise UserError(f"{url} is empty, though beside {mark.name}; restore it")
    parsed = _parse(text, label)
    last = parsed._replace(own=own and storage.is_local(url) and mark is None, mark=mark)
    for old in last.renamed:
        report_renamed(label, old)
    found: list[_Layer] = []
    folder, bases = url.rpartition("/")[0], last.extends
    if not last.own and any(
        re.search(r"\$\{.*:", text, re.DOTALL) for text in texts_in([bases, last.name, _written(last)])
    ):
        raise UserError(
            f"{url}: reads the environment or computes by ${{...:...}}, which only your own recipe may{last.why}"
        )
    if "${" in str(bases):
        bases = list(OmegaConf.merge(last.config, {"extends": bases}).extends)
    if not last.own and any(".." in base or base.startswith(("/", "~")) or "://" in base for base in bases):
        raise UserError(f"{url}: extends {bases[0]!r}; only your own recipe may extend what lies elsewhere{last.why}")
    for base in bases:
        as_given = base in shipped() or base.startswith("/") or "://" in base or not folder
        place, below = _find(base if as_given else storage.join(folder, base))
        if place in [*within, url]:
            raise UserError(f"{label}: extends: {base!r} extends it in turn; let one of them extend nothing")
        found += _layers(place, below, last.own, [*within, url])
        if len(found) > MOST_LAYERS or len(within) > MOST_LAYERS:
            raise UserError(f"{label}: extends more than {MOST_LAYERS} recipes in turn; put some together")
    return [*found, last]


def _written(layer: _Layer) -> Any:
    """The values of a layer as they are written."""
    return OmegaConf.to_container(layer.config)


def _find(source: str) -> tuple[str, str]:
    """(path or URL, label for messages) of a recipe."""
    known, name = shipped(), source.removeprefix("recipes/").removesuffix(".yaml")
    there = source not in known and storage.exists(source)
    if name in known and not there:
        return str(SHIPPED / f"{name}.yaml"), f"{name}.yaml"
    if not there:
        if re.fullmatch(r"[\w-]+", source):
            raise UserError(
                f"there is no recipe {source!r}; {did_you_mean(source, known)} Shipped are {', '.join(known)}; "
                "or give the path of a YAML file"
            )
        raise UserError(f"{source}: no such file; give a YAML file or a shipped recipe ({', '.join(known)})")
    if storage.is_local(source) and storage.local_path(source).is_dir():
        raise UserError(f"{source}: this is a folder; give a YAML file or a shipped recipe ({', '.join(known)})")
    return source, source.rstrip("/").rpartition("/")[2]


@functools.cache
def _parse(text: str, label: str) -> _Layer:
    """A recipe's file by its text. OmegaConf takes long, and a study or protocol loads the same ones for each run."""
    for old, new in RENAMED.items():
        text = text.replace(f"${{{old}.", f"${{{new}.")
    with readable(label):
        parsed = parse_yaml(text, label)
        if not isinstance(parsed, dict | None):
            held = "a list" if isinstance(parsed, list) else "a single value"
            raise UserError(f"{label}: holds {held}; a recipe holds sections such as 'training:'")
        try:
            config = OmegaConf.create(parsed or {})
        except OmegaConfBaseException as error:
            raise UserError(f"{label}: {first_line(error)}") from error
    # A section whose keys are all commented out is None to YAML and means "nothing changed" to its author: it must not
    # replace that of a recipe that this one extends.
    values = {str(key): value for key, value in OmegaConf.to_container(config).items() if value is not None}
    named, name = values.pop("extends", None) or [], values.pop("name", Path(label).stem)
    extends = [named] if isinstance(named, str) else named
    if not isinstance(extends, list) or not all(isinstance(base, str) for base in extends):
        raise UserError(f"{label}: extends: {cut(repr(named))} names no recipe; give one, or a list of them")
    return _Layer(extends, name, DictConfig(with_present_names(values)), [old for old in RENAMED if old in values])


@functools.cache
def report_renamed(origin: str, old: str) -> None:
    """Report, once a process, that a recipe uses an earlier version's name of a section."""
    say(f"{origin}: the section {old!r} is called {RENAMED[old]!r} now; the old name is still read")


def with_present_keys(values: Mapping[str, Any], origin: str) -> dict[str, Any]:
    """Values by dotted keys whose sections may have an earlier version's name, under the keys of today."""
    found = {}
    for key, value in values.items():
        section, dot, rest = key.partition(".")
        if section in RENAMED:
            report_renamed(origin, section)
        found[RENAMED.get(section, section) + dot + rest] = value
    return found
