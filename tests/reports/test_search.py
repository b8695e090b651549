"""Report of a hyperparameter search."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from syncclip import storage
from syncclip.reports import write_report
from syncclip.reports.search import figure_values
from syncclip.studies import outputs

TRIED = [(0.01, 5, 40.0), (0.01, 10, 44.254), (0.001, 5, 41.5), (0.001, 10, 39.0)]
RATE, EPOCHS = "methods.ivlp.learning_rate", "training.epochs"
ENTRIES = [{"values": {RATE: rate, EPOCHS: epochs}, "all_classes_hm": score} for rate, epochs, score in TRIED]
RECORD: dict[str, Any] = {
    "split": "val",
    "metric": "all_classes_hm",
    "images_per_class": 16,
    "seeds": [1, 2],
    "configurations": {
        "ivlp-real": {"selected": ENTRIES[1]["values"], "all_classes_hm": 44.254, "search_space": ENTRIES}
    },
}


@pytest.fixture
def folder(tmp_path: Path) -> str:
    outputs.write_json(str(tmp_path / outputs.TUNED), RECORD, storage.identity("search"))
    return str(tmp_path)


def test_each_setting_has_a_panel_with_all_combinations_by_ascending_value() -> None:
    values = figure_values(RECORD)
    assert [metric["label"] for metric in values["metrics"]] == [f"ivlp-real: {RATE}", f"ivlp-real: {EPOCHS}"]
    rate = values["axes"][f"ivlp-real: {RATE}"]
    assert rate["values"] == ["0.001", "0.01"]
    assert [(trial["at"], trial["score"], trial["selected"]) for trial in rate["trials"]] == [
        (1, 40.0, False),
        (1, 44.25, True),
        (0, 41.5, False),
        (0, 39.0, False),
    ]


def test_values_that_are_no_numbers_keep_their_order() -> None:
    entries = [{"values": {"a": value}, "all_classes_hm": 1.0} for value in ("b", None, "a", "b", [1, 2])]
    best = {"selected": entries[0]["values"], "search_space": entries}
    record = {"metric": "all_classes_hm", "configurations": {"ivlp-real": best}}
    assert figure_values(record)["axes"]["ivlp-real: a"]["values"] == ["b", "None", "a", "[1, 2]"]


def test_the_page_shows_the_selected_values_and_belongs_to_the_search(folder: str) -> None:
    report = write_report(folder)
    assert report.url == storage.join(folder, "report.html")
    page = Path(report.url).read_text(encoding="utf-8")
    payload = json.loads(re.search(r'id="payload">(.*?)</script>', page, re.DOTALL)[1])
    assert len(payload["axes"]) == 2
    assert f"ivlp-real: {RATE} = 0.01, {EPOCHS} = 10</p>" in page
    assert storage.read_owner(report.url) == storage.identity("search")
    assert "report.html" in (storage.read_contents(folder) or ())


def test_the_terminal_table_fits_80_columns(folder: str) -> None:
    console = Console(width=80, file=io.StringIO())
    console.print(*write_report(folder).tables)
    shown = console.file.getvalue()
    assert f"{RATE} = 0.01" in shown and f"{EPOCHS} = 10" in shown and "44.3" in shown and "…" not in shown
