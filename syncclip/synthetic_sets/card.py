"""Hugging Face dataset card for a synthetic dataset: content, origin and usage."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import yaml

from syncclip.core.formats import parse_yaml
from syncclip.core.text import counted, markdown_text
from syncclip.shards.markers import ShardStats
from syncclip.synthesis.plan import Plan
from syncclip.synthetic_sets.imported import ImportedSet

CARD = "README.md"
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"), (10**7, "1M<n<10M"))
SHARED = ("name", "dataset", "backbone", "synthesis")
"""Recipe sections in a dataset card; other sections do not affect the images and may contain credentials."""


def dataset_card(
    plan: Plan | ImportedSet, shards: Sequence[ShardStats], provenance: pa.DataType, licence: str, recipe: str = ""
) -> str:
    """Return Markdown with the YAML metadata (files, columns, class names) that `datasets.load_dataset(FOLDER)` reads.

    Args:
        plan: plan or import description of the dataset.
        shards: markers of all shards.
        provenance: Arrow type of the `.json` members in all shards; null if there are no such members.
        licence: Hub identifier of the images' licence.
        recipe: recipe as YAML; "" if unknown.
    """
    counts: Counter[int] = Counter()
    for stats in shards:
        counts.update(stats.per_class)
    images, per_class = sum(counts.values()), [counts[label] for label in range(plan.classes)]
    fewest, most = min(per_class), max(per_class)
    facts = {
        "images": f"{images:,}",
        "classes": f"{plan.classes:,}, from {plan.dataset}",
        "images per class": f"{fewest:,}" if fewest == most else f"{fewest:,} to {most:,}",
        **_origin(plan),
        "licence": licence,
    }
    sections = [
        f"---\n{yaml.safe_dump(_metadata(plan, shards, provenance, licence), sort_keys=False, allow_unicode=True)}---",
        f"# Synthetic images of {markdown_text(plan.dataset)}",
        "Generated images for training. The images show objects as imagined by a generator, not real objects.",
        "\n".join(["| | |", "|---|---|", *(f"| {key} | {markdown_text(value)} |" for key, value in facts.items())]),
        "Each sample has an image (`jpg`), a class id (`cls`), a prompt or caption (`txt`) and provenance (`json`). "
        "Every prefix of the shards is as class-balanced as the number of images permits.",
        '## Usage\n\n```python\nfrom datasets import load_dataset\n\nimages = load_dataset("FOLDER", split="train")\n'
        'print(images.features["cls"].names)\n```',
        *([f"## Recipe\n\n```yaml\n{shared(recipe)}```"] if recipe else []),
        "Created with syncclip.",
    ]
    return "\n\n".join(sections) + "\n"


def provenance_type(column: pa.ChunkedArray, previous: pa.DataType) -> pa.DataType:
    """Merge the Arrow type of a shard's provenance `column` (JSON strings) into that of the previous shards."""
    values = [value for value in map(json.loads, column.to_pylist()) if value]
    if not values:
        return previous
    types = [pa.schema([("json", dtype)]) for dtype in (previous, pa.array(values).type)]
    return pa.unify_schemas(types, promote_options="permissive").field("json").type


def shared(recipe: str) -> str:
    """Return the recipe sections that determine a synthetic dataset, as YAML without local paths."""
    values = {key: value for key, value in parse_yaml(recipe, "the dataset's recipe").items() if key in SHARED}
    if isinstance(values.get("dataset"), dict):
        values["dataset"].pop("root", None)
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def _origin(plan: Plan | ImportedSet) -> dict[str, str]:
    if isinstance(plan, ImportedSet):
        return {"source": plan.source}
    generator = plan.generator
    endpoint = f" with {generator.model} (not deterministic)" * generator.endpoint
    steps = counted(generator.steps, "step")
    return {
        "generator": f"{generator.pipeline}{endpoint}, {steps}, guidance {generator.guidance}",
        "weights": plan.weights or "unknown",
        "licence of the weights": plan.licence,
        "provenance mark": plan.mark,
        "filters": ", ".join(settings.name for settings in plan.filters) or "none",
        "seed": str(plan.seed),
    }


def _metadata(
    plan: Plan | ImportedSet, shards: Sequence[ShardStats], provenance: pa.DataType, licence: str
) -> dict[str, Any]:
    images, size = sum(stats.count for stats in shards), sum(stats.bytes for stats in shards)
    names = {str(label): name for label, name in enumerate(plan.classnames)}
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


def _feature(name: str, dtype: pa.DataType) -> dict[str, Any]:
    """Return the metadata of a column."""
    if pa.types.is_struct(dtype):
        return {"name": name, "struct": [_feature(field.name, field.type) for field in dtype]}
    if pa.types.is_list(dtype):
        return {"name": name, "list": _feature("", dtype.value_type).get("dtype", "string")}
    return {"name": name, "dtype": {"double": "float64"}.get(str(dtype), str(dtype))}
