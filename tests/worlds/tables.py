"""Images listed in a table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from tests.worlds.dataset import CLASSES, encoded, make_image

PER_CLASS = 10
Record = dict[str, Any]


def write_images(folder: Path, below: str = "images") -> list[Record]:
    """Write ten images of each class into one folder; returns the rows of a table."""
    (folder / below).mkdir(parents=True, exist_ok=True)
    rows = []
    for i in range(PER_CLASS):
        for label, name in enumerate(CLASSES):
            path = f"{below}/{label}_{i}.png"
            (folder / path).write_bytes(encoded(make_image(label, i), "PNG"))
            rows.append({"path": path, "label": name.replace(" ", "_")})
    return rows


def write_table(file: Path, rows: list[Record]) -> Path:
    """Write a table in the format of the file's extension."""
    if file.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), file)
    elif file.suffix == ".jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pd.DataFrame(rows).to_csv(file, index=False)
    return file
