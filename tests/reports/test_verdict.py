"""The headline of a study."""

from __future__ import annotations

import pytest

from syncclip.reports.configurations import Difference, ScorePoint, describe_configurations
from syncclip.reports.verdict import judge


@pytest.mark.parametrize(
    ("own", "opened", "said"),
    [
        ((1.0, 0.2, 1.8), (0.8, 0.1, 1.5), "helped novel classes: +0.8 points."),
        ((1.0, 0.2, 1.8), (0.3, -0.4, 1.0), "helped novel classes on one of two measures: +1.0 points."),
        ((0.4, -0.2, 1.0), (0.9, 0.1, 1.7), "helped novel classes on one of two measures: +0.9 points."),
        (
            (0.0, -0.7, 0.7),
            (0.1, -0.6, 0.8),
            "made a difference of +0.1 points on novel classes, which may be chance.",
        ),
        ((-1.2, -2.0, -0.4), (0.0, -0.7, 0.7), "hurt novel classes: −1.2 points."),
        (
            (1.0, 0.2, 1.8),
            (-1.0, -1.8, -0.2),
            "helped novel classes on one measure and hurt on the other: −1.0 points.",
        ),
    ],
)
def test_the_headline_says_no_more_than_the_intervals_of_novel_classes(
    own: tuple[float, ...], opened: tuple[float, ...], said: str
) -> None:
    real, both = describe_configurations([("ivlp-real", "ivlp", "real"), ("syncclip-both", "syncclip", "both")])
    found = [
        Difference(both, real, metric, *numbers)
        for metric, numbers in (("hm", (9.0, 8.0, 9.9)), ("novel", own), ("all_classes_novel", opened))
    ]
    assert judge(found, {}, both).headline == f"Synthetic images {said}"


def test_without_a_run_on_real_images_zero_shot_is_what_counts() -> None:
    zero, both = describe_configurations([("zeroshot", "zeroshot", "none"), ("syncclip-both", "syncclip", "both")])
    verdict = judge([Difference(both, zero, "novel", 4.5, 2.1, 6.0)], {}, both)
    assert verdict.headline == "Synthetic images helped novel classes: +4.5 points."
    assert "beats Zero-shot CLIP, with the novel classes alone as candidates" in verdict.sentences[0]


def test_without_any_comparison_the_headline_says_what_was_reached() -> None:
    (both,) = describe_configurations([("syncclip-both", "syncclip", "both")])
    points = {both.id: {"novel": [ScorePoint(4, 45.4, None, [])]}}
    assert judge([], points, both).headline == (
        "SYNC-CLIP: 45.4\u00a0% on novel classes, the novel classes alone as candidates."
    )
    assert judge([], {}, both).headline == "SYNC-CLIP is not evaluated on novel classes."
