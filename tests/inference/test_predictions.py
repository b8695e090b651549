"""Predictions with one row per image, including unreadable ones, and the files that contain them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from syncclip.core.settings import UserError
from syncclip.inference.model import Model, load
from syncclip.inference.predictions import classify, write_predictions
from syncclip.shards.images import decode_image
from tests.inference.conftest import Train
from tests.worlds.dataset import CLASSES


@pytest.fixture
def model(train: Train) -> Model:
    return load(train("training.method=zeroshot").url)


@pytest.fixture
def mixed(images: Path, tmp_path: Path) -> list[str]:
    """Image files with a text file and a missing file at positions 5 and 6."""
    (tmp_path / "no.png").write_text("no image")
    files = [str(path) for path in sorted(images.iterdir())]
    return [*files[:5], str(tmp_path / "no.png"), "gone.png", *files[5:]]


@pytest.mark.parametrize("batch", [1, 5, 64])
def test_predictions_keep_the_order_of_the_images_for_any_batch_size(
    model: Model, mixed: list[str], batch: int
) -> None:
    predictions = list(classify(model, mixed, top=2, batch=batch))
    assert [prediction.image for prediction in predictions] == mixed
    assert [prediction.image for prediction in predictions if prediction.error] == mixed[5:7]
    readable = [prediction for prediction in predictions if not prediction.error]
    expected = model.classify([prediction.image for prediction in readable], top=2)
    for prediction, labels in zip(readable, expected, strict=True):
        assert [name for name, _ in prediction.labels] == [name for name, _ in labels]
        assert [p for _, p in prediction.labels] == pytest.approx([p for _, p in labels])


def test_an_unreadable_image_has_a_row_with_an_error(model: Model, mixed: list[str]) -> None:
    rows = [prediction.row for prediction in classify(model, mixed)]
    assert rows[5]["error"].startswith("unreadable image: not a JPEG") and rows[5]["class"] is None
    assert "not found" in rows[6]["error"] and rows[6]["classes"] == []
    assert rows[0]["class"] == rows[0]["classes"][0] and rows[0]["probability"] == rows[0]["probabilities"][0]


def test_json_lines_csv_and_parquet_have_the_same_content(model: Model, mixed: list[str], tmp_path: Path) -> None:
    for kind in ("jsonl", "csv", "parquet"):
        write_predictions(classify(model, mixed, top=3), str(tmp_path / f"out.{kind}"))
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    table, text = pd.read_parquet(tmp_path / "out.parquet"), pd.read_csv(tmp_path / "out.csv")
    assert [line["image"] for line in lines] == table["image"].tolist() == text["image"].tolist() == mixed
    assert [line["class"] for line in lines if line["class"]] == table["class"].dropna().tolist()
    assert set(table["class"].dropna()) <= set(CLASSES)
    assert json.loads(text["classes"][0]) == lines[0]["classes"] == list(table["classes"][0])
    assert text["error"].notna().tolist() == table["error"].notna().tolist()


def test_other_extensions_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"out\.xlsx: unknown extension"):
        write_predictions([], str(tmp_path / "out.xlsx"))


def test_a_file_name_that_is_not_utf_8_is_escaped(model: Model, images: Path, tmp_path: Path) -> None:
    file = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png")
    Path(file).write_bytes((images / "00.png").read_bytes())
    write_predictions(classify(model, [file]), str(tmp_path / "out.jsonl"))
    row = json.loads((tmp_path / "out.jsonl").read_text(encoding="utf-8"))
    assert row["image"].endswith("caf\\xe9.png") and row["class"] in CLASSES


@pytest.mark.parametrize("orientation", range(2, 9))
def test_an_image_with_an_orientation_is_classified_as_its_upright_copy(
    model: Model, images: Path, tmp_path: Path, orientation: int
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored, upright = tmp_path / "stored.png", tmp_path / "upright.png"
    with Image.open(images / "00.png") as image:
        image.save(stored, exif=exif)
    decode_image(stored.read_bytes(), "x").save(upright, exif=b"")
    first, second = classify(model, [str(stored), str(upright)])
    assert dict(first.labels) == pytest.approx(dict(second.labels))
