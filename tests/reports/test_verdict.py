"""The headline of a study."""

from __future__ import annotations

import pytest

from syncclip.reports.arms import Difference, describe_arms
from syncclip.reports.verdict import judge


@pytest.mark.parametrize(
    ("own", "opened", "said"),
    [
        ((1.0, 0.2, 1.8), (0.8, 0.1, 1.5), "Synthetic images helped: +1.0 points."),
        ((1.0, 0.2, 1.8), (0.3, -0.4, 1.0), "Synthetic images helped on one of two measures: +1.0 points."),
        ((0.4, -0.2, 1.0), (0.9, 0.1, 1.7), "Synthetic images helped on one of two measures: +0.9 points."),
        ((0.1, -0.6, 0.8), (0.0, -0.7, 0.7), "Synthetic images made a difference of +0.1 points, which may be chance."),
        ((-1.2, -2.0, -0.4), (0.0, -0.7, 0.7), "Synthetic images hurt: −1.2 points."),
        (
            (1.0, 0.2, 1.8),
            (-1.0, -1.8, -0.2),
            "Synthetic images helped on one measure and hurt on the other: +1.0 points.",
        ),
    ],
)
def test_the_headline_says_no_more_than_the_intervals(
    own: tuple[float, ...], opened: tuple[float, ...], said: str
) -> None:
    real, both = describe_arms([("ivlp-real", "ivlp", "real"), ("syncclip-both", "syncclip", "both")])
    found = [Difference(both, real, metric, *numbers) for metric, numbers in (("hm", own), ("open_hm", opened))]
    assert judge(found, {}, both).headline == said
