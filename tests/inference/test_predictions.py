"""A row for each image, also for those that can't be read; and the files that rows are written into."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pandas as pd
import pytest

from syncclip.core.settings import UserError
from syncclip.inference.model import Model, load
from syncclip.inference.predictions import classify, write_predictions
from tests.inference.conftest import Train
from tests.worlds.dataset import CLASSES


@pytest.fixture
def model(train: Train) -> Model:
    return load(train("training.method=zeroshot").url)


@pytest.fixture
def mixed(images: Path, tmp_path: Path) -> list[str]:
    """Images, and in their middle what is none."""
    (tmp_path / "no.png").write_text("no image")
    files = [str(path) for path in sorted(images.iterdir())]
    return [*files[:5], str(tmp_path / "no.png"), "gone.png", *files[5:]]


@pytest.mark.parametrize("batch", [1, 5, 64])
def test_the_order_is_that_of_the_names_whatever_the_batch(model: Model, mixed: list[str], batch: int) -> None:
    actual = list(classify(model, mixed, top=2, batch=batch))
    assert [answer.image for answer in actual] == mixed
    assert [answer.image for answer in actual if answer.error] == mixed[5:7]
    readable = [answer for answer in actual if not answer.error]
    expected = model.classify([answer.image for answer in readable], top=2)
    for answer, labels in zip(readable, expected, strict=True):
        assert [label.name for label in answer.labels] == [label.name for label in labels]
        assert [label.probability for label in answer.labels] == pytest.approx([label.probability for label in labels])


def test_unreadable_images_are_rows_with_a_reason(model: Model, mixed: list[str]) -> None:
    rows = [answer.row for answer in classify(model, mixed)]
    assert rows[5]["error"].startswith("unreadable image: not a JPEG, PNG, WebP, GIF, BMP or TIFF image")
    assert rows[5]["class"] is None
    assert "not found" in rows[6]["error"] and rows[6]["classes"] == []
    assert rows[0]["class"] == rows[0]["classes"][0] and rows[0]["probability"] == rows[0]["probabilities"][0]


def test_files_that_others_open(model: Model, mixed: list[str], tmp_path: Path) -> None:
    for kind in ("jsonl", "csv", "parquet"):
        write_predictions(classify(model, mixed, top=3), str(tmp_path / f"out.{kind}"))
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    table, text = pd.read_parquet(tmp_path / "out.parquet"), pd.read_csv(tmp_path / "out.csv")
    assert [line["image"] for line in lines] == table["image"].tolist() == text["image"].tolist() == mixed
    assert [line["class"] for line in lines if line["class"]] == table["class"].dropna().tolist()
    assert set(table["class"].dropna()) <= set(CLASSES)
    assert json.loads(text["classes"][0]) == lines[0]["classes"] == list(table["classes"][0])
    assert text["error"].notna().tolist() == table["error"].notna().tolist()


def test_a_file_of_another_kind_is_refused(model: Model, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"out\.xlsx: unknown extension; use one of \.jsonl"):
        write_predictions([], str(tmp_path / "out.xlsx"))


def test_a_name_of_any_bytes_is_written_as_text(model: Model, images: Path, tmp_path: Path) -> None:
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png")
    Path(odd).write_bytes((images / "00.png").read_bytes())
    write_predictions(classify(model, [str(tmp_path)]), str(tmp_path / "out.jsonl"))
    row = json.loads((tmp_path / "out.jsonl").read_text(encoding="utf-8"))
    assert row["image"].endswith("caf\\xe9.png") and row["class"] in CLASSES
