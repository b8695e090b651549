"""The headline of a study."""

from __future__ import annotations

from typing import Any

import pytest

from syncclip.core.text import signed
from syncclip.reports.configurations import Difference, ScorePoint, describe_configurations
from syncclip.reports.verdict import NovelClasses, Verdict, conclusion, judge
from syncclip.studies.outputs import DataEfficiency
from syncclip.studies.statistics.bootstrap import Interval
from syncclip.studies.statistics.data_efficiency import GapClosed

TESTED = NovelClasses(14)


def judged(*differences: tuple[str, tuple[float, float, float]], **changes: Any) -> Verdict:
    """Verdict on SYNC-CLIP minus real images only, given estimates and intervals by metric."""
    real, both = describe_configurations([("ivlp-real", "ivlp", "real"), ("syncclip-both", "syncclip", "both")])
    pairs = [Difference(both, real, metric, *numbers, unit="classes", **changes) for metric, numbers in differences]
    points = {both.id: {"novel": [ScorePoint(n, 40.0 + n, None, []) for n in (1, 4, 16)]}}
    return judge(pairs, points, both, TESTED)


@pytest.mark.parametrize(
    ("numbers", "conclusion"),
    [
        ((0.8, 0.1, 1.5), "significant gain"),
        ((-1.2, -2.0, -0.4), "significant loss"),
        ((0.1, -1.6, 1.8), "equivalent within ±2"),
        # t_13 quantiles 2.160 and 0.870: a half-width of 7.35 is a standard error of 3.40, and 3.03 of these are 10.3
        ((3.4, -3.0, 11.7), "inconclusive: with 14 classes only differences above 10 points would show"),
        ((0.1, -2.1, 1.8), "inconclusive: with 14 classes only differences above 3 points would show"),
    ],
)
def test_headline_follows_the_interval(numbers: tuple[float, float, float], conclusion: str) -> None:
    verdict = judged(("hm", (9.0, 8.0, 9.9)), ("all_classes_novel", numbers))
    assert verdict.headline == f"Effect of synthetic images on novel classes – {conclusion}"
    compared = f"novel (all) {signed(numbers[0])} points, SYNC-CLIP vs. IVLP on real images only, "
    assert verdict.interval.startswith(f"{compared}95\u00a0% CI over classes ")
    assert verdict.metric == "all_classes_novel"


def test_few_seeds_are_the_reason_why_a_study_is_inconclusive() -> None:
    assert conclusion(-100.0, 100.0, 0.95, NovelClasses(43, 3, seeds=2)) == (
        "inconclusive with 2 seeds: repeat with at least 4 seeds"
    )
    assert "43 classes" in conclusion(-10.0, 10.0, 0.95, NovelClasses(43, 3, seeds=4))


def test_headline_does_not_select_the_metric_with_a_gain() -> None:
    verdict = judged(("novel", (5.0, 4.0, 6.0)), ("all_classes_novel", (0.0, -1.0, 1.0)))
    assert verdict.headline.endswith("equivalent within ±2")
    assert judged(("novel", (5.0, 4.0, 6.0))).headline.endswith("significant gain")


def test_average_over_the_numbers_of_images_is_named() -> None:
    verdict = judged(("novel", (5.0, 4.0, 6.0)), averaged_over=[1, 4, 16])
    assert verdict.interval.endswith("+4.0 to +6.0, mean over 1 to 16 images per class")
    assert verdict.sentences[0].startswith(
        "Averaged over 1 to 16 synthetic images per class, SYNC-CLIP reaches 47.0\u00a0% on novel classes and beats"
    )
    single = judged(("novel", (5.0, 4.0, 6.0)), n=1)
    assert single.sentences[0].startswith("With 1 synthetic image per class, SYNC-CLIP reaches 41.0")


def test_share_of_the_gap_has_an_interval_unless_the_gap_is_not_significant() -> None:
    real, both = describe_configurations([("ivlp-real", "ivlp", "real"), ("syncclip-both", "syncclip", "both")])

    def sentence(gap: Interval, share: Interval | None) -> str:
        closed = {"novel": GapClosed("ivlp-real", "ivlp-all_real", gap, share)}
        efficiency = DataEfficiency("syncclip-both", 0.95, None, {}, {}, closed)
        return judge([Difference(both, real, "novel", 3.0, 2.0, 4.0)], {}, both, TESTED, efficiency).sentences[-1]

    assert sentence(Interval(6.7, 2.0, 9.0), Interval(0.65, 0.12, 1.04)) == (
        "Synthetic images close 65\u00a0% of the gap to real images of all classes (6.7 points), "
        "95\u00a0% CI 12 to 104\u00a0%."
    )
    assert sentence(Interval(1.0, -2.0, 4.0), None).endswith("is undefined, because the gap is not significant.")


def test_zero_shot_is_the_baseline_without_a_run_on_real_images() -> None:
    zero, both = describe_configurations([("zeroshot", "zeroshot", "none"), ("syncclip-both", "syncclip", "both")])
    verdict = judge([Difference(both, zero, "novel", 4.5, 2.1, 6.0)], {}, both, TESTED)
    assert verdict.headline == "Effect of synthetic images on novel classes – significant gain"
    assert ", SYNC-CLIP vs. zero-shot CLIP, " in verdict.interval
    assert "beats zero-shot CLIP, with only novel classes as candidates" in verdict.sentences[0]


def test_first_sentence_is_the_gain_in_hm_over_zero_shot_by_number_of_images() -> None:
    zero, both = describe_configurations([("zeroshot", "zeroshot", "none"), ("syncclip-both", "syncclip", "both")])
    points = {
        zero.id: {"all_classes_hm": [ScorePoint(0, 30.3, None, [])]},
        both.id: {"all_classes_hm": [ScorePoint(n, 31.3 + n, None, []) for n in (1, 4)]},
    }
    pairs = [Difference(both, zero, "novel", 4.5, 2.1, 6.0)]
    assert judge(pairs, points, both, TESTED).sentences[0] == (
        "HM (all) of SYNC-CLIP minus zero-shot CLIP (30.3\u00a0%), in points (synthetic images per class): +2.0 (1), "
        "+5.0 (4)."
    )


def test_headline_is_the_score_without_a_comparison() -> None:
    (both,) = describe_configurations([("syncclip-both", "syncclip", "both")])
    points = {both.id: {"novel": [ScorePoint(4, 45.4, None, [])]}}
    assert judge([], points, both, TESTED).headline.startswith("SYNC-CLIP: 45.4\u00a0% on novel classes, ")
    assert judge([], {}, both, TESTED).headline == "SYNC-CLIP is not evaluated on novel classes."
