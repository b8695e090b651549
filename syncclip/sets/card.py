"""The card of a synthetic set on the Hugging Face hub: what it shows, what drew it, and how it is read."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import yaml

from syncclip.core.settings import with_present_names
from syncclip.core.text import counted
from syncclip.sets.imported import ImportedSet
from syncclip.shards.layout import ShardStats
from syncclip.synthesis.plan import Plan

CARD = "README.md"
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"), (10**7, "1M<n<10M"))
SHARED = ("name", "dataset", "backbone", "synthesis")
"""Sections of a recipe that a card shows; others may hold credentials, and decide no image."""


def dataset_card(
    known: Plan | ImportedSet, shards: Sequence[ShardStats], provenance: pa.DataType, licence: str, recipe: str = ""
) -> str:
    """Markdown below a head in YAML, from which `datasets.load_dataset(FOLDER)` takes files, columns and class names.

    Args:
        known: the set's plan, or what stands in for one.
        shards: markers of all its shards.
        provenance: arrow type of the `.json` members, of all shards; null where there are none.
        licence: of the images, as the hub abbreviates it.
        recipe: what the set was drawn by, in YAML; "" where it isn't known.
    """
    counts: Counter[int] = Counter()
    for stats in shards:
        counts.update(stats.per_class)
    images, of_each = sum(counts.values()), [counts[label] for label in range(known.classes)]
    fewest, most = min(of_each), max(of_each)
    facts = {
        "images": f"{images:,}",
        "classes": f"{known.classes:,}, those of {known.dataset}",
        "images of a class": f"{fewest:,}" if fewest == most else f"{fewest:,} to {most:,}",
        **_origin(known),
        "licence": licence,
    }
    sections = [
        f"---\n{yaml.safe_dump(_head(known, shards, provenance, licence), sort_keys=False, allow_unicode=True)}---",
        f"# Synthetic images of {known.dataset}",
        "Images that a generator drew, for learning only: they show what it believes of a class, not the world.",
        "\n".join(["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in facts.items())]),
        "Each sample has an image (`jpg`), the number of its class (`cls`), its prompt or caption (`txt`) and where "
        "it came from (`json`). Any first part of the shards shows the classes evenly, as far as there are images.",
        '## Use\n\n```python\nfrom datasets import load_dataset\n\nimages = load_dataset("FOLDER", split="train")\n'
        'print(images.features["cls"].names)\n```',
        *([f"## Recipe\n\n```yaml\n{shared(recipe)}```"] if recipe else []),
        "Made with syncclip.",
    ]
    return "\n\n".join(sections) + "\n"


def provenance_type(column: pa.ChunkedArray, known: pa.DataType) -> pa.DataType:
    """The arrow type of the provenance of a shard and of those before it, whose type is `known`.

    Args:
        column: JSON texts, `{}` where a sample has no provenance.
    """
    told = [value for value in map(json.loads, column.to_pylist()) if value]
    if not told:
        return known
    types = [pa.schema([("json", kind)]) for kind in (known, pa.array(told).type)]
    return pa.unify_schemas(types, promote_options="permissive").field("json").type


def shared(recipe: str) -> str:
    """The sections of a recipe that decide a set, without the folders of the machine that drew it."""
    values = {key: value for key, value in with_present_names(yaml.safe_load(recipe)).items() if key in SHARED}
    if isinstance(values.get("dataset"), dict):
        values["dataset"].pop("root", None)
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def _origin(known: Plan | ImportedSet) -> dict[str, str]:
    if isinstance(known, ImportedSet):
        return {"made of": known.source}
    generator = known.generator
    return {
        "generator": f"{generator.pipeline}, {counted(generator.steps, 'step')}, guidance {generator.guidance}",
        "weights": known.weights or "not known",
        "filters": ", ".join(one.name for one in known.filters) or "none",
        "seed": str(known.seed),
    }


def _head(
    known: Plan | ImportedSet, shards: Sequence[ShardStats], provenance: pa.DataType, licence: str
) -> dict[str, Any]:
    images, size = sum(stats.count for stats in shards), sum(stats.bytes for stats in shards)
    names = {str(label): name for label, name in enumerate(known.classnames)}
    features: list[dict[str, Any]] = [
        {"name": "cls", "dtype": {"class_label": {"names": names}}},
        {"name": "jpg", "dtype": "image"},
        *([] if pa.types.is_null(provenance) else [_feature("json", provenance)]),
        *({"name": name, "dtype": "string"} for name in ("txt", "__key__", "__url__")),
    ]
    return {
        "license": licence,
        "task_categories": ["image-classification", "zero-shot-image-classification"],
        "tags": ["synthetic", "webdataset", "syncclip"],
        "size_categories": [next((name for limit, name in SIZES if images < limit), "n>10M")],
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*.tar"}]}],
        "dataset_info": {
            "config_name": "default",
            "features": features,
            "splits": [{"name": "train", "num_bytes": size, "num_examples": images}],
            "download_size": size,
            "dataset_size": size,
        },
    }


def _feature(name: str, kind: pa.DataType) -> dict[str, Any]:
    """A column as the head of a card describes it."""
    if pa.types.is_struct(kind):
        return {"name": name, "struct": [_feature(field.name, field.type) for field in kind]}
    if pa.types.is_list(kind):
        return {"name": name, "list": _feature("", kind.value_type).get("dtype", "string")}
    return {"name": name, "dtype": {"double": "float64"}.get(str(kind), str(kind))}
