"""Did synthetic data help? The answer in plain words, with its interval, from the paired comparisons of a study."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from syncclip.core.text import coverage, signed
from syncclip.evaluation.metrics import METRICS, mean_and_error
from syncclip.reports.arms import ArmLook, Points
from syncclip.studies.outputs import Comparison

Kind = Literal["gain", "loss", "unsure", "plain"]

_CARDS = (("ivlp", "real"), ("syncclip", "real"), ("ivlp", "both"), ("zeroshot", "none"), ("ivlp", "synthetic"))
"""The order of the arms that the focus is compared with."""


@dataclass(frozen=True)
class Difference:
    """One arm minus another in points, paired, with its interval; `n`, `against_n`: synthetic images per class."""

    arm: ArmLook
    against: ArmLook
    metric: str
    difference: float
    low: float
    high: float
    n: int | None = None
    against_n: int | None = None
    level: float = 0.95

    @property
    def kind(self) -> Kind:
        """Whether the interval excludes zero, and on which side it lies."""
        return "gain" if self.low > 0 else "loss" if self.high < 0 else "unsure"

    @property
    def text(self) -> str:
        """`+1.2 points (+0.3 to +2.0)`."""
        return f"{signed(self.difference)} points ({signed(self.low)} to {signed(self.high)})"

    @property
    def place(self) -> tuple[bool, int]:
        """Where it stands among others: an arm against itself comes last."""
        against = (self.against.method, self.against.data)
        return self.arm == self.against, _CARDS.index(against) if against in _CARDS else len(_CARDS)


@dataclass(frozen=True)
class Card:
    """A card under the headline; `micro` holds places of a small interval in per cent of its width."""

    what: str
    number: str
    unit: str
    range: str
    kind: Kind
    micro: dict[str, float]


@dataclass(frozen=True)
class Verdict:
    """What stands at the top of the page."""

    headline: str
    interval: str = ""
    sentences: list[str] = field(default_factory=list)
    cards: list[Card] = field(default_factory=list)


def focus_of(arms: Sequence[ArmLook], named: str | None) -> ArmLook | None:
    """The arm in question: the one named, else SYNC-CLIP on both, else the last that uses synthetic data."""
    using = [arm for arm in arms if arm.data in ("synthetic", "both")]
    wanted = [arm for arm in using if arm.id == named] or [
        arm for arm in using if (arm.method, arm.data) == ("syncclip", "both")
    ]
    return wanted[0] if wanted else using[-1] if using else None


def differences(
    stored: Sequence[Comparison], points: Points, arms: Sequence[ArmLook], focus: ArmLook | None
) -> list[Difference]:
    """The study's own comparisons at the largest amount; where it has none, the focus arm against every other, by seed.

    An arm may be compared with itself at another amount: then the widest step counts.
    """
    by_id = {arm.id: arm for arm in arms}
    largest: dict[tuple[str, str, str], tuple[tuple[int, int], Difference]] = {}
    for one in stored:
        arm, against = by_id.get(one.arm), by_id.get(one.against)
        numbers = (one.estimate, one.low, one.high)
        if arm is None or against is None or one.metric not in METRICS or not all(map(math.isfinite, numbers)):
            continue
        n, other = one.images_per_class, one.against_images_per_class
        rank = (n or 0, -(other or 0) if arm == against else other or 0)
        key = (one.arm, one.against, one.metric)
        if key not in largest or rank >= largest[key][0]:
            largest[key] = rank, Difference(arm, against, one.metric, *numbers, n, other, one.level)
    if largest:
        return sorted((found for _, found in largest.values()), key=lambda found: found.place)
    if focus is None:
        return []
    paired = (_by_seed(focus, other, metric, points) for metric in METRICS for other in arms if other != focus)
    return [one for one in paired if one is not None]


def _by_seed(arm: ArmLook, against: ArmLook, metric: str, points: Points) -> Difference | None:
    """Student's interval of the seeds' differences at the largest amounts; None without two seeds."""
    mine, theirs = (points.get(one.id, {}).get(metric) for one in (arm, against))
    if not mine or not theirs:
        return None
    ours = mine[-1].seeds
    other = theirs[-1].seeds or [theirs[-1].mean] * len(ours)
    if len(ours) < 2 or len(ours) != len(other):
        return None
    from scipy import stats  # slow to import, and only studies without comparisons need it

    mean, error = mean_and_error([a - b for a, b in zip(ours, other, strict=True)])
    assert error is not None, "two seeds or more"
    reach = float(stats.t.ppf(0.975, len(ours) - 1)) * error
    return Difference(arm, against, metric, mean, mean - reach, mean + reach, n=mine[-1].n or None)


def judge(found: Sequence[Difference], points: Points, focus: ArmLook | None) -> Verdict:
    """The headline of a study."""
    if focus is None:
        return Verdict(
            "No arm of this study learns from synthetic images.", sentences=["So it cannot show whether they help."]
        )
    mine = [one for one in found if one.arm == focus and one.against != focus]
    real = [one for one in mine if one.against.data == "real"]
    real = [one for one in real if one.against.method == focus.method] or real
    first = {one.metric: one for one in reversed(real)}
    counts = [first[metric] for metric in ("hm", "open_hm") if metric in first]
    if not counts:
        reason = "This study has no run on real images alone against which synthetic images could be compared."
        return Verdict(f"{focus.short} in numbers.", sentences=[reason], cards=_cards(mine))
    lead, headline = _headline(counts)
    size = f"{signed(lead.difference)} points"
    sure = f"{coverage(lead.level)} interval {signed(lead.low)} to {signed(lead.high)}"
    return Verdict(
        f"{headline}." if lead.kind == "unsure" else f"{headline}: {size}.",
        f"{size}, {sure}" if lead.kind == "unsure" else sure,
        _sentences(lead, counts, mine, points),
        _cards(mine),
    )


def _headline(counts: Sequence[Difference]) -> tuple[Difference, str]:
    """The difference that the headline is about, and what it states, from one or two harmonic means."""
    kinds = [one.kind for one in counts]
    if "gain" in kinds and "loss" in kinds:
        return counts[0], "Synthetic images helped on one measure and hurt on the other"
    if "loss" in kinds:
        return counts[kinds.index("loss")], "Synthetic images hurt"
    if "gain" in kinds:
        partly = " on one of two measures" if "unsure" in kinds else ""
        return counts[kinds.index("gain")], f"Synthetic images helped{partly}"
    return counts[0], "Synthetic images made no clear difference"


def _sentences(lead: Difference, counts: Sequence[Difference], mine: Sequence[Difference], points: Points) -> list[str]:
    """What the headline stands on, and what the other harmonic mean and zero-shot CLIP say about it."""
    series = points.get(lead.arm.id, {}).get(lead.metric, [])
    level = f" reaches {series[-1].mean:.1f}\u00a0% and" if series else ""
    amount = lead.n or (series[-1].n if series else 0)
    given = f"Given {amount} generated image{'' if amount == 1 else 's'} per class, " if amount else ""
    where = {"hm": "each half among its own classes", "open_hm": "all classes as candidates"}
    verb = {"gain": "beats", "loss": "falls behind"}.get(lead.kind, "is indistinguishable from")
    other = f"{lead.against.label} alone" if lead.against.data == "real" else lead.against.label
    first = (
        f"{given}{lead.arm.short}{level} {verb} {other}. "
        f"The score is the harmonic mean of base and novel accuracy, {where[lead.metric]}."
    )
    rest = []
    for one in counts:
        if one != lead:
            place = (
                "With all classes as candidates" if one.metric == "open_hm" else "With each half among its own classes"
            )
            rest.append(f"{place}, the difference is {one.text}.")
    zero = next((one for one in mine if one.metric == lead.metric and one.against.method == "zeroshot"), None)
    if zero is not None:
        verb = {"gain": "is above", "loss": "stays below", "unsure": "is indistinguishable from"}[zero.kind]
        rest.append(f"It {verb} zero‑shot CLIP, which learns nothing: {zero.text}.")
    return [first, " ".join(rest)] if rest else [first]


def _cards(mine: Sequence[Difference]) -> list[Card]:
    shown = [one for one in mine if one.metric == "hm"] or [one for one in mine if one.metric == "open_hm"]
    chosen = sorted(shown, key=lambda one: one.place)[:4]
    low = min([0.0, *(one.low for one in chosen)])  # one scale for all cards, so that they can be compared at a glance
    high = max([0.0, *(one.high for one in chosen)])
    air = 0.06 * (high - low or 1)
    cards = []
    for one in chosen:
        zero, left, right, at = (
            round(100 * (value - low + air) / (high - low + 2 * air), 2)
            for value in (0.0, one.low, one.high, one.difference)
        )
        cards.append(
            Card(
                f"{one.arm.short} over {one.against.label}, harmonic mean",
                signed(one.difference),
                "points",
                f"{coverage(one.level)} interval {signed(one.low)} to {signed(one.high)}",
                one.kind,
                {"zero": zero, "low": left, "width": round(right - left, 2), "at": at},
            )
        )
    return cards
