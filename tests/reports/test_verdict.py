"""The headline of a study."""

from __future__ import annotations

import pytest

from syncclip.reports.configurations import Difference, ScorePoint, describe_configurations
from syncclip.reports.verdict import judge

GAIN, LOSS, ZERO = (1.0, 0.2, 1.8), (-1.2, -2.0, -0.4), (0.1, -0.6, 0.8)


@pytest.mark.parametrize(
    ("within_split", "all_classes", "headline", "points"),
    [
        (GAIN, (0.8, 0.1, 1.5), "Synthetic images improve accuracy on novel classes", "+0.8"),
        (GAIN, ZERO, "Synthetic images improve accuracy on novel classes on one of two metrics", "+1.0"),
        (ZERO, GAIN, "Synthetic images improve accuracy on novel classes on one of two metrics", "+1.0"),
        (ZERO, ZERO, "No significant effect of synthetic images on novel classes", "+0.1"),
        (LOSS, ZERO, "Synthetic images reduce accuracy on novel classes", "−1.2"),
        (GAIN, LOSS, "Mixed effect of synthetic images on novel classes", "−1.2"),
    ],
)
def test_headline_follows_the_intervals_on_novel_classes(
    within_split: tuple[float, ...], all_classes: tuple[float, ...], headline: str, points: str
) -> None:
    real, both = describe_configurations([("ivlp-real", "ivlp", "real"), ("syncclip-both", "syncclip", "both")])
    metrics = (("hm", (9.0, 8.0, 9.9)), ("novel", within_split), ("all_classes_novel", all_classes))
    verdict = judge([Difference(both, real, metric, *numbers) for metric, numbers in metrics], {}, both)
    assert verdict.headline.partition(":")[0] == headline
    assert verdict.interval.startswith(f"{points} points, 95\u00a0% CI ")


def test_zero_shot_is_the_baseline_without_a_run_on_real_images() -> None:
    zero, both = describe_configurations([("zeroshot", "zeroshot", "none"), ("syncclip-both", "syncclip", "both")])
    verdict = judge([Difference(both, zero, "novel", 4.5, 2.1, 6.0)], {}, both)
    assert verdict.headline == "Synthetic images improve accuracy on novel classes"
    assert "beats Zero-shot CLIP, with only novel classes as candidates" in verdict.sentences[0]


def test_headline_is_the_score_without_a_comparison() -> None:
    (both,) = describe_configurations([("syncclip-both", "syncclip", "both")])
    points = {both.id: {"novel": [ScorePoint(4, 45.4, None, [])]}}
    assert judge([], points, both).headline.startswith("SYNC-CLIP: 45.4\u00a0% on novel classes, ")
    assert judge([], {}, both).headline == "SYNC-CLIP is not evaluated on novel classes."
