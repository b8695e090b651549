"""Report of a synthetic dataset: its quality, and rejected images."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import pytest
from PIL import Image

from syncclip import storage
from syncclip.reports import report
from syncclip.synthesis.prompts.settings import PromptCoverage
from syncclip.synthesis.rejects import SIDE, Reject, rejects_name, write_rejects
from syncclip.synthetic_sets.quality import STATS_NAME, ClassQuality, SetQuality, ShiftNumbers
from tests.studies import fabricated

QUALITY = SetQuality(
    backbone="icons",
    images=72,
    measured=72,
    accuracy=61.4,
    similarity=0.57,
    real_similarity=0.42,
    shift=ShiftNumbers(centroid_distance=0.3, relative_distance=0.73, overlap=42.0, frechet=0.2),
    near_duplicates=5,
    duplicate=0.99,
    pairs=((14, 2),),
    prompts=PromptCoverage(24, 48, 2, {"template": 72}),
    classes=tuple(
        ClassQuality(name=name, images=6, accuracy=float(5 * position), similarity=0.5, shift=None)
        for position, name in enumerate(fabricated.NAMES)
    ),
)


@pytest.fixture
def synthetic(tmp_path: Path) -> Path:
    return fabricated.make_set(tmp_path / "set")


def page_of(folder: Path) -> str:
    return Path(report(str(folder))).read_text()


def test_quality_is_shown_with_the_worst_classes_first(synthetic: Path) -> None:
    storage.write_document(str(synthetic / STATS_NAME), QUALITY)
    page = page_of(synthetic)
    assert 'href="#set"' in page
    for label, number in (
        ("images that the frozen CLIP model assigns to their class", "61"),
        ("similarity between images of a class (real images: 0.42)", "0.57"),
        ("domain shift", "0.73"),
        ("near-duplicates among 72 images", "5"),
        ("distinct prompts", "24"),
    ):
        assert f"<dt>{label}</dt><dd>{number}<" in page
    assert re.findall(r'<td class="words" data-value="([^"]*)">', page) == fabricated.NAMES


def test_rejected_images_are_shown_by_reason_with_their_number(synthetic: Path) -> None:
    for shard, reason in ((0, "clip_score"), (1, "clip_score"), (1, "blank")):
        colour = (200, 30, 30) if reason == "blank" else (30, 30, 200)
        thumbnail = fabricated.jpeg(Image.new("RGB", (SIDE, SIDE), colour))
        write_rejects(str(synthetic), shard, [Reject(reason, 7 + shard, 3, 0, 0.1, thumbnail)] * 9)
    page = page_of(synthetic)
    shown = re.findall(
        r'<b>([^<]*)</b> <span class="quiet">([^<]*) in total</span>.*?src="data:image/webp;base64,([^"]*)"', page, re.S
    )
    assert [(reason, count) for reason, count, _ in shown] == [("clip score", "34"), ("blank", "7")]
    strip = Image.open(io.BytesIO(base64.b64decode(shown[1][2]))).convert("RGB")
    assert strip.size == (9 * SIDE, SIDE)
    red, _, blue = strip.getpixel((SIDE // 2, SIDE // 2))
    assert red > 150 > blue
    assert "Rejected images of dog, dog" in page


def test_damaged_files_are_left_out_with_a_note(synthetic: Path) -> None:
    assert 'href="#set"' not in page_of(synthetic)  # without these files
    (synthetic / STATS_NAME).write_text('{"format": 1')
    (synthetic / rejects_name(0)).write_bytes(b"nonsense")
    page = page_of(synthetic)
    assert "stats.json could not be read" in page
    assert "thumbnails of rejected images could not be read" in page
