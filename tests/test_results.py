"""The figures in the README are those of docs/results, computed again from the answers that are published there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from syncclip.evaluation.metrics import METRICS
from syncclip.studies.answers import Recomputed, recompute

ROOT = Path(__file__).parents[1]
TEXTS = {name: (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/results/README.md")}
ARMS = {
    "zero-shot CLIP": "zeroshot",
    "IVLP, real only": "ivlp-real",
    "IVLP, real images of all classes": "ivlp-oracle",
    "IVLP, naive mix": "ivlp-both",
    "SYNC-CLIP": "syncclip-both",
    "SYNC-CLIP, prompts shared": "syncclip-shared",
}
COLUMNS = {
    "base": "base", "novel": "novel", "HM": "hm", "open base": "open_base", "open novel": "open_novel",
    "open HM": "open_hm", "OpenworldAUC": "openworld_auc",
}  # fmt: skip


@pytest.fixture(scope="module")
def found() -> Recomputed:
    return recompute(str(ROOT / "docs" / "results"))


def rows(text: str, heading: str) -> dict[str, dict[str, str]]:
    """Of the tables whose first heading matches, each row's name -> column -> what the cell says."""
    read: dict[str, dict[str, str]] = {}
    for table in re.findall(rf"^\| *{heading} *\|.*\n(?:\|.*\n)+", text, re.MULTILINE):
        first, _, *others = [
            [cell.strip() for cell in line.strip().strip("|").split("|")] for line in table.splitlines()
        ]
        read |= {name: dict(zip(first[1:], cells, strict=True)) for name, *cells in others}
    return read


def point(name: str) -> tuple[str, int | None]:
    """The arm that a row is named after, and its images per class."""
    arm, amount = re.fullmatch(r"(.*?)(?: with (\d+))?", name).groups()  # type: ignore[union-attr]
    return ARMS[arm], int(amount) if amount else None


def test_every_number_that_is_published_follows_from_the_answers(found: Recomputed) -> None:
    assert found.differ == [] and found.numbers > 1000


@pytest.mark.parametrize("name", TEXTS)
def test_a_table_of_means_holds_what_is_computed_again(name: str, found: Recomputed) -> None:
    means = found.means.astype({"images_per_class": object}).where(found.means.notna(), None)
    computed = {(row["arm"], row["images_per_class"]): row for row in means.to_dict("records")}
    shown = rows(TEXTS[name], "arm")
    assert len(shown) >= 8
    for arm, cells in shown.items():
        for column, cell in cells.items():
            assert COLUMNS[column] in METRICS
            assert cell == f"{computed[point(arm)][COLUMNS[column]]:.1f}", (arm, column)


@pytest.mark.parametrize("name", TEXTS)
def test_a_table_of_differences_holds_what_is_computed_again(name: str, found: Recomputed) -> None:
    computed = {
        ((pair.arm, pair.images_per_class), (pair.against, pair.against_images_per_class), pair.metric): pair
        for pair in found.comparisons
        if pair.unit == "classes"
    }
    shown = rows(TEXTS[name], "SYNC-CLIP with 64 over")
    assert len(shown) >= 5
    for other, cells in shown.items():
        for column, cell in cells.items():
            pair = computed[("syncclip-both", 64), point(other), COLUMNS[column]]
            text = f"{pair.estimate:+.1f} ({pair.low:+.1f} to {pair.high:+.1f})".replace("-", "−")
            assert cell == text, (other, column)
