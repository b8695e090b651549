"""Documents of others whose size is limited before it becomes many times as much memory."""

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


def refusal(folder: Path, kind: type[BaseModel], values: dict[str, Any]) -> str:
    storage.write_with_checksum(str(folder / "file.json"), json.dumps(values).encode())
    with pytest.raises(UserError) as refused:
        storage.read_document(str(folder / "file.json"), kind, "make it again")
    return str(refused.value)


@pytest.mark.parametrize(
    ("kind", "values", "key"),
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
def test_too_many_or_too_long_names_are_refused(
    tmp_path: Path, kind: type[BaseModel], values: dict[str, Any], key: str
) -> None:
    assert storage.read_document(str(tmp_path / "none.json"), kind, "") is None
    sentence = refusal(tmp_path, kind, values)
    assert f"({key}: " in sentence and sentence.endswith("make it again") and "\n" not in sentence


def test_a_list_of_mistakes_costs_no_complaint_about_each(tmp_path: Path) -> None:
    values = SET | {"counts": [-1] * 400_000}
    tracemalloc.start()
    try:
        assert "counts.0" in refusal(tmp_path, ImportedSet, values)
        assert tracemalloc.get_traced_memory()[1] < 2e7
    finally:
        tracemalloc.stop()


def test_a_document_that_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("syncclip.storage.documents.MOST_JSON", 100)
    assert "the maximum is 100" in refusal(tmp_path, RunClasses, RUN | {"dataset": "d" * 100})


def test_the_classes_of_a_dataset_and_of_a_recipe_are_limited() -> None:
    names = ["a"] * (MOST_CLASSES + 1)
    with pytest.raises(UserError, match=r"has 50,001 classes, more than"):
        Dataset("large", names, "a {}", {})
    with pytest.raises(UserError, match=r"dataset\.classnames: too long; at most 50,000 are allowed"):
        Recipe().with_values({"dataset.classnames": names})
    with pytest.raises(UserError, match=r"dataset\.template: too long; at most 1,000 are allowed"):
        Recipe().with_values({"dataset.template": "{}" + "a" * LONGEST_TEXT})


def test_as_many_classes_as_imagenet_21k_has_are_read(tmp_path: Path) -> None:
    names = [f"class {number}" for number in range(21_841)]
    (tmp_path / "recipe.yaml").write_text(json.dumps({"dataset": {"classnames": names}}))
    assert Recipe.load(str(tmp_path / "recipe.yaml")).dataset.classnames == names


@pytest.mark.parametrize("name", ["text_tokens", "visual_tokens", "width", "cache_size", "dim"])
def test_sizes_of_learned_parameters_are_limited(name: str) -> None:
    method = {"text_tokens": "coop", "visual_tokens": "vpt", "width": "mma", "cache_size": "tip", "dim": "mmrl"}[name]
    with pytest.raises(UserError, match=rf"methods\.{method}\.{name}: 100000000 is not allowed; it must be at most"):
        Recipe().with_values({f"methods.{method}.{name}": 100_000_000})


def test_a_header_of_tensors_is_limited() -> None:
    header = json.dumps({f"{n}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for n in range(90_000)})
    assert len(header) > MOST_HEADER
    with pytest.raises(UserError, match=r"^here is not a safetensors file \([\d,]+ bytes, the maximum"):
        parse_tensors(len(header).to_bytes(8, "little") + header.encode(), "here", "train again")


def test_recipes_that_extend_each_other_without_end_are_refused(tmp_path: Path) -> None:
    """Twenty files of 30 bytes, which would be read a million times."""
    (tmp_path / "0.yaml").write_text("name: a\n")
    for number in range(1, 21):
        (tmp_path / f"{number}.yaml").write_text(f"extends: [{number - 1}.yaml, {number - 1}.yaml]\n")
    with pytest.raises(UserError, match="extends more than 100 recipes"):
        Recipe.load(str(tmp_path / "20.yaml"))
    assert Recipe.load(str(tmp_path / "5.yaml")).name == "5"
