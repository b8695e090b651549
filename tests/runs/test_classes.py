"""Size limits of documents from others, which small files could otherwise exceed in memory."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from syncclip import storage
from syncclip.core.settings import LONGEST_TEXT, MOST_CLASSES, UserError
from syncclip.datasets import Dataset
from syncclip.datasets.packed import PackedDataset
from syncclip.recipe.recipe import Recipe
from syncclip.runs.classes import RunClasses
from syncclip.storage.documents import MOST_HEADER, parse_tensors
from syncclip.synthetic_sets.imported import ImportedSet

RUN = {"dataset": "d", "classnames": ["a", "b"], "template": "a {}", "base_count": 1, "clip": "c"}
SET = {"source": "s", "dataset": "d", "classnames": ["a"], "counts": [1], "shard_size": 1}
PACKED = {"name": "d", "classnames": ["a", "b"]}


def error_of(folder: Path, document: type[BaseModel], values: dict[str, Any]) -> str:
    storage.write_with_checksum(str(folder / "file.json"), json.dumps(values).encode())
    with pytest.raises(UserError) as error:
        storage.read_document(str(folder / "file.json"), document, "create it again")
    return str(error.value)


@pytest.mark.parametrize(
    ("document", "values", "key"),
    [
        (RunClasses, RUN | {"classnames": ["a"] * (MOST_CLASSES + 1)}, "classnames"),
        (RunClasses, RUN | {"classnames": ["a" * (LONGEST_TEXT + 1)]}, "classnames.0"),
        (RunClasses, RUN | {"only": [0] * (MOST_CLASSES + 1)}, "only"),
        (RunClasses, RUN | {"template": "{}" + "a" * LONGEST_TEXT}, "template"),
        (ImportedSet, SET | {"classnames": ["a"] * (MOST_CLASSES + 1)}, "classnames"),
        (ImportedSet, SET | {"counts": [0] * (MOST_CLASSES + 1)}, "counts"),
        (PackedDataset, PACKED | {"classnames": ["a"] * (MOST_CLASSES + 1)}, "classnames"),
    ],
)
def test_number_and_length_of_names_are_limited(
    tmp_path: Path, document: type[BaseModel], values: dict[str, Any], key: str
) -> None:
    message = error_of(tmp_path, document, values)
    assert f"({key}: " in message and message.endswith("create it again") and "\n" not in message


def test_many_errors_in_a_list_take_little_memory(tmp_path: Path) -> None:
    tracemalloc.start()
    try:
        assert "counts.0" in error_of(tmp_path, ImportedSet, SET | {"counts": [-1] * 400_000})
        assert tracemalloc.get_traced_memory()[1] < 2e7
    finally:
        tracemalloc.stop()


def test_size_of_a_document_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("syncclip.storage.documents.MOST_JSON", 100)
    assert "exceed the maximum of 100" in error_of(tmp_path, RunClasses, RUN | {"dataset": "d" * 100})


def test_classes_of_datasets_and_recipes_are_limited() -> None:
    names = ["a"] * (MOST_CLASSES + 1)
    with pytest.raises(UserError, match=r"has 50,001 classes, more than"):
        Dataset("large", names, "a {}", {})
    with pytest.raises(UserError, match=r"dataset\.classnames: too long; at most 50,000"):
        Recipe().with_values({"dataset.classnames": names})
    with pytest.raises(UserError, match=r"dataset\.template: too long; at most 1,000"):
        Recipe().with_values({"dataset.template": "{}" + "a" * LONGEST_TEXT})


@pytest.mark.nightly
def test_recipe_with_the_classes_of_imagenet_21k(tmp_path: Path) -> None:
    names = [f"class {number}" for number in range(21_841)]
    (tmp_path / "recipe.yaml").write_text(json.dumps({"dataset": {"classnames": names}}))
    assert Recipe.load(str(tmp_path / "recipe.yaml")).dataset.classnames == names


@pytest.mark.parametrize(
    ("method", "key"),
    [("coop", "text_tokens"), ("vpt", "visual_tokens"), ("mma", "width"), ("tip", "cache_size"), ("mmrl", "dim")],
)
def test_sizes_of_learned_parameters_are_limited(method: str, key: str) -> None:
    with pytest.raises(UserError, match=rf"methods\.{method}\.{key}: 100000000 is not allowed"):
        Recipe().with_values({f"methods.{method}.{key}": 100_000_000})


def test_header_of_tensors_is_limited() -> None:
    header = json.dumps({f"{n}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for n in range(90_000)})
    assert len(header) > MOST_HEADER
    with pytest.raises(UserError, match=r"^file is not a safetensors file \([\d,]+ bytes exceed the maximum"):
        parse_tensors(len(header).to_bytes(8, "little") + header.encode(), "file", "train again")


def test_number_of_extended_recipes_is_limited(tmp_path: Path) -> None:
    """Twenty small files that would be read a million times."""
    (tmp_path / "0.yaml").write_text("name: a\n")
    for number in range(1, 21):
        (tmp_path / f"{number}.yaml").write_text(f"extends: [{number - 1}.yaml, {number - 1}.yaml]\n")
    with pytest.raises(UserError, match="extends more than 100 recipes"):
        Recipe.load(str(tmp_path / "20.yaml"))
    assert Recipe.load(str(tmp_path / "5.yaml")).name == "5"
