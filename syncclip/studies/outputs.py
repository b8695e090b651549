"""What a study writes, and how it is written.

study.parquet
    One row a finished cell: cell, arm, method, data, images_per_class (null where the arm learns from no synthetic
    image), seed (null for zero-shot), split, every metric of `bootstrap.METRICS`, ece, ece_base, ece_novel (all per
    cent), seconds (of the whole cell), hash.
study.json
    name, dataset, classnames, base (number of base classes), split, synthetic (URL of the set, or null), focus (an
    arm), arms [{name, method, data}], images_per_class, dropped (amounts beyond what the set holds), seeds,
    cells [{cell, arm, images_per_class, seed, status (done, failed or waiting), error}].
progress.json
    How far it is, for `--status`; see `status.StudyStatus`.
recipe.yaml
    The resolved recipe.
cells/<cell>/
    A run folder for each cell.
fit.json
    level, draws, split, curves {arm: {metric: `fit.Curve`}}; errors are 100 - accuracy.
    models {arm: {metric: [`models.HeldOut`]}}, the best first, for arms with four amounts or more.
worth.json
    Of the focus arm: arm, level, images_per_hour (of one generator, or null), marginal {metric: [`worth.Marginal`]},
    exchange {metric: [`worth.Exchange`]}; {} where it can't be told.
comparisons.json
    A list of {arm, images_per_class, against, against_images_per_class, metric, estimate, low, high, level, seeds
    (a number), images}: points of accuracy, `arm` minus `against`.
shift.json, features.parquet
    See `shift.Shift`; features: model (frozen or trained), domain (real or synthetic), label, row (of the split, or of
    the synthetic set), x, y.
cost.json
    synthesis {images, rejects, hours, images_per_second, wall_hours, busy_share},
    training {cells, hours, wall_hours, workers, busy_share}; null where it was not measured.
tables.md
    The tables as Markdown.

Numbers that are not finite (an amount that is never reached) are null in JSON.
"""

from __future__ import annotations

import dataclasses
import io
import json
import math
from typing import Any

import pandas as pd

from syncclip import storage
from syncclip.storage import documents

TABLE, STATE, RECIPE, CELLS = "study.parquet", "study.json", "recipe.yaml", "cells"
FIT, WORTH, COMPARISONS = "fit.json", "worth.json", "comparisons.json"
SHIFT, FEATURES = "shift.json", "features.parquet"
COST, TABLES, CHOICES = "cost.json", "tables.md", "choices.json"


def write_json(url: str, value: Any) -> None:
    """Write dataclasses, mappings, sequences and numbers as JSON; what is not finite becomes null. Whole or not at
    all."""
    text = json.dumps(_plain(value), indent=1, ensure_ascii=False, allow_nan=False)
    storage.write_bytes(url, f"{text}\n".encode())


def read_json(url: str) -> Any:
    """Read what `write_json` wrote."""
    return json.loads(storage.read_bytes(url))


def write_table(url: str, table: pd.DataFrame) -> None:
    """Write a table as parquet, whole or not at all."""
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False)
    storage.write_bytes(url, buffer.getvalue())


def read_table(url: str) -> pd.DataFrame:
    """Read what `write_table` wrote."""
    table: pd.DataFrame = documents.read(storage.read_bytes(url)).to_pandas()
    return table


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
