"""Random input for all parsers of files and arguments: recipes, overrides, tars, documents, tables.

Each feed passes random input to the code that parses it, which must return or raise a `UserError` within `LIMIT`
seconds of CPU time.
"""

from __future__ import annotations

import io
import json
import shutil
import signal
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from hypothesis import strategies as st
from pydantic import BaseModel

from syncclip.cli import app
from syncclip.core.settings import UserError
from syncclip.datasets import DatasetSettings, load_dataset
from syncclip.recipe.recipe import Recipe
from syncclip.synthesis.prompts.files import read_captions, read_descriptions
from tests.shards.sets import jpeg, write_set

LIMIT = 5.0

Feed = Callable[[Any, Path], object]

NUMBERS = [0, -1, 1, 2**31, 2**63, -(2**63), 10**30, 1e308, -1e308, 1e-308, float("inf"), float("nan"), 0.5]
TEXTS = ["", " ", "\x1b[2J", "\u202e", "a\0b", "../..", "/", "~unknown-user/x", "x" * 300, "{}", "{} {}", "${a}"]
TEXTS += ["${oc.env:HOME}", "nan", "1e999", "9" * 5000, "s3://", "://", "é", "e\u0301", "[link=x]y[/]", "|", "<script>"]
values = st.recursive(
    st.none() | st.booleans() | st.sampled_from(NUMBERS) | st.sampled_from(TEXTS) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(TEXTS) | st.text(), inner, max_size=4),
    max_leaves=8,
)
deep = st.integers(50, 3000).map(lambda n: "[" * n + "]" * n) | st.integers(50, 3000).map(lambda n: '{"a":' * n)
PIECES = ["{", "}", "[", "]", ":", "- ", ", ", "&a ", "*a", "!!int ", "!!bool ", "!!binary ", "<<: ", "\n", "  ", "? "]
PIECES += ["training", "synthesis", "study", "dataset", "epochs", "extends: ", "'", '"', "|\n", "%", "#", "\\", "\0"]
texts = st.lists(st.sampled_from(PIECES) | st.sampled_from(TEXTS), max_size=12).map("".join) | deep


def keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Dotted keys of all settings of a recipe."""
    for name, field in model.model_fields.items():
        yield f"{prefix}{name}"
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from keys(field.annotation, f"{prefix}{name}.")


KEYS = sorted(keys(Recipe))


@contextmanager
def limited() -> Iterator[None]:
    """Fail after `LIMIT` seconds of CPU time."""

    def stop(*_: object) -> None:
        raise AssertionError(f"more than {LIMIT} s")

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, LIMIT)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def check(call: Callable[[], object]) -> None:
    """Require that a call returns or raises a short `UserError`."""
    with limited():
        try:
            call()
        except UserError as error:
            assert 0 < len(str(error)) <= 2000


def command(*arguments: str) -> None:
    """Run a command, which must exit with a documented status and without a traceback."""
    with limited():
        assert app.run(list(arguments)) in (0, 1, 2)


def _use(recipe: Recipe, folder: Path) -> None:
    """Use a recipe as every command does."""
    (folder / "copy.yaml").write_text(recipe.to_yaml())
    copy, options = Recipe.load(str(folder / "copy.yaml")), {"storage": {"options"}}  # may contain secrets
    assert copy.model_dump(exclude=options) == recipe.model_dump(exclude=options)
    assert recipe.hash


def recipe_text(text: str, folder: Path) -> None:
    """A recipe file with any text."""
    (folder / "mine.yaml").write_bytes(text.encode(errors="surrogatepass"))
    check(lambda: Recipe.load(str(folder / "mine.yaml")))


def recipe_values(changes: dict[str, Any], folder: Path) -> None:
    """A recipe with valid keys and any values."""
    nested: dict[str, Any] = {}
    for key, value in changes.items():
        node = nested
        *path, last = key.split(".")
        for step in path:
            inner = node.setdefault(step, {})
            node = inner if isinstance(inner, dict) else {}
        node[last] = value
    (folder / "mine.yaml").write_text(yaml.safe_dump(nested), errors="replace")
    check(lambda: _use(Recipe.load(str(folder / "mine.yaml")), folder))


def overrides(arguments: list[str], folder: Path) -> None:
    """Any arguments after a recipe's name."""
    check(lambda: Recipe.load("icons", arguments))


def plans(arguments: list[str], folder: Path) -> None:
    """Any numbers for the forecast of `syncclip plan`."""
    command("plan", "icons", *arguments)


def tar_bytes(change: tuple[bool, list[tuple[int, int]]], folder: Path) -> None:
    """A tar with changed bytes, optionally with valid header checksums."""
    checksummed, changes = change
    data = bytearray(_tar([("a", {"jpg": jpeg(1), "cls": b"1"}), ("b", {"jpg": jpeg(2), "json": b'{"label": 0}'})]))
    for position, value in changes:
        block = position // 512 % (len(data) // 512) * 512
        data[block + position % 512] = value
        if checksummed:
            data[block + 148 : block + 156] = b" " * 8
            data[block + 148 : block + 156] = f"{sum(data[block : block + 512]):06o}\0 ".encode()
    _as_dataset(bytes(data), folder)


def tar_members(samples: list[tuple[str, dict[str, bytes]]], folder: Path) -> None:
    """A tar whose members have any names and contents."""
    _as_dataset(_tar(samples), folder)


def _as_dataset(data: bytes, folder: Path) -> None:
    (folder / "mine").mkdir(exist_ok=True)
    (folder / "mine" / "0.tar").write_bytes(data)
    check(lambda: load_dataset(DatasetSettings(name=str(folder / "mine"))))


def _tar(samples: list[tuple[str, dict[str, bytes]]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT, errors="surrogateescape") as archive:
        for key, sample in samples:
            for kind, data in sample.items():
                info = tarfile.TarInfo(f"{key}.{kind}".replace("\0", ""))
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def sentences(text: str, folder: Path) -> None:
    """Files of captions and descriptions."""
    for name in ("a.json", "a.yaml"):
        (folder / name).write_bytes(text.encode(errors="surrogatepass"))
        check(lambda name=name: read_descriptions(str(folder / name)))  # type: ignore[misc]
        check(lambda name=name: read_captions(str(folder / name)))  # type: ignore[misc]


DOCUMENTS = {
    "plan.json": ["shards", "verify"],
    "imported.json": ["shards", "quality"],
    "00000_stats.json": ["shards", "ls"],
    "synthesis.yaml": ["shards", "verify"],
    "recipe.yaml": ["evaluate"],
    "run.json": ["evaluate"],
    "results.json": ["report"],
    "study.json": ["report"],
    "progress.json": ["status"],
    "metrics.jsonl": ["report"],
    "dataset.json": ["datasets", "check"],
    "cells/a/results.json": ["report"],
    "cost.json": ["report"],
    "checkpoints/step-00000002.json": ["status"],
}
"""File name -> a command that reads it."""


def documents(document: tuple[str, str | dict[str, Any]], folder: Path) -> None:
    """A document with any content in a folder with an intact shard."""
    name, content = document
    url = _new_set(folder)
    text = content if isinstance(content, str) else json.dumps(_valid(name) | content, default=str)
    (url / name).parent.mkdir(parents=True, exist_ok=True)
    (url / name).write_bytes(text.encode(errors="surrogatepass"))
    command(*DOCUMENTS[name], str(url))


def _new_set(folder: Path) -> Path:
    shutil.rmtree(folder / "set", ignore_errors=True)
    write_set(str(folder / "set"), 2, 1)
    return folder / "set"


def _valid(name: str) -> dict[str, Any]:
    """Valid keys of a document, so that some input passes the first check."""
    if name == "imported.json":
        values = {"source": "x", "dataset": "icons", "classnames": ["a", "b"], "counts": [1, 1], "shard_size": 2}
        return values | {"content": "x"}
    if name in ("run.json", "progress.json", "study.json"):
        return {"name": "x", "state": "running", "began": 1.0, "seen": 1.0}
    if name == "results.json":
        return {"split": "test", "base": 1.0, "counts": {"all": 1}}
    return {}


def tables(change: tuple[bytes, list[tuple[int, int]]], folder: Path) -> None:
    """The table of a shard without checksums, with any bytes as text, or with changed bytes."""
    text, changes = change
    url = _new_set(folder)
    marker = url / "00000_stats.json"
    unchecked = {
        key: value for key, value in json.loads(marker.read_bytes()).items() if key not in ("checksum", "table_sha256")
    }
    marker.write_text(json.dumps(unchecked))
    file = url / "00000.parquet"
    table = pq.read_table(file)
    if text:
        false = pa.Array.from_buffers(pa.string(), 2, pa.array([text, text], pa.binary()).buffers())
        for name in ("text", "provenance"):
            table = table.set_column(table.schema.get_field_index(name), name, false)
        pq.write_table(table, file)
    data = bytearray(file.read_bytes())
    for position, value in changes:
        data[position % len(data)] = value
    file.write_bytes(bytes(data))
    command("shards", "show", str(url), "1")
    command("shards", "verify", str(url))
    command("shards", "export", str(url), "--to", "folder", "--out", str(folder / "out"))


flips = st.lists(st.tuples(st.integers(0, 1 << 14), st.integers(0, 255)), max_size=4)
labels = st.sampled_from([b"", b"0", b"1", b"-1", b"9" * 5000, b"\xff", b"[" * 2000, b'{"label": {}}', b'{"label": 1}'])
names = st.sampled_from(["a", "b", "a/b", "../x", "/", ".", "..", "", " ", "\x1b", "\u202e", "x" * 300]) | st.text()
kinds = st.sampled_from(["jpg", "cls", "json", "txt", "JPG", "png", "", "."])
of_costs = st.sampled_from([key for key in KEYS if key.startswith("synthesis.")] + ["--throughput"])
assignments = st.tuples(st.sampled_from(KEYS), values.map(lambda v: json.dumps(v, default=str)) | texts).map("=".join)

FEEDS: dict[str, tuple[Feed, st.SearchStrategy[Any]]] = {
    "recipe text": (recipe_text, texts | st.text()),
    "recipe values": (recipe_values, st.dictionaries(st.sampled_from(KEYS), values, max_size=3)),
    "overrides": (overrides, st.lists(assignments | texts, max_size=2)),
    "plans": (plans, st.lists(st.tuples(of_costs, st.sampled_from(NUMBERS).map(str)).map("=".join), max_size=2)),
    "tar bytes": (tar_bytes, st.tuples(st.booleans(), flips)),
    "tar members": (tar_members, st.lists(st.tuples(names, st.dictionaries(kinds, labels, max_size=4)), max_size=4)),
    "sentences": (sentences, texts | values.map(lambda value: json.dumps(value, default=str))),
    "documents": (
        documents,
        st.tuples(
            st.sampled_from(sorted(DOCUMENTS)),
            texts
            | values.map(lambda value: json.dumps(value, default=str))
            | st.dictionaries(st.sampled_from(["name", "state", "split", "base", "counts", "classnames"]), values),
        ),
    ),
    "tables": (tables, st.tuples(st.sampled_from([b"", b"\xff\xfe", b"a", b"\xed\xa0\x80", b"[" * 500]), flips)),
}
