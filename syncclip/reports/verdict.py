"""Did synthetic data help? The answer in plain words, with its interval, from the paired comparisons of a study."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from scipy import stats

from syncclip.reports.arms import METRICS, ArmLook

Points = Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]
Kind = Literal["gain", "loss", "unsure", "plain"]


@dataclass(frozen=True)
class Difference:
    """One arm minus another in points, paired, with its interval; `n`, `against_n`: synthetic images a class."""

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
        """Whether it is beyond doubt."""
        return "gain" if self.low > 0 else "loss" if self.high < 0 else "unsure"


@dataclass(frozen=True)
class Answer:
    """A card under the headline; `micro` holds places of a small interval in per cent of its width."""

    what: str
    number: str
    unit: str = ""
    range: str = ""
    kind: Kind = "plain"
    micro: dict[str, float] | None = None


@dataclass(frozen=True)
class Verdict:
    """What stands at the top of the page."""

    headline: str
    interval: str = ""
    sentences: list[str] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)


def focus_of(arms: Sequence[ArmLook], named: str | None) -> ArmLook | None:
    """The arm in question: the one named, else SYNC-CLIP on both, else the last that uses synthetic data."""
    using = [arm for arm in arms if arm.synthetic]
    wanted = [arm for arm in using if arm.id == named] or [
        arm for arm in using if (arm.method, arm.data) == ("syncclip", "both")
    ]
    return wanted[0] if wanted else using[-1] if using else None


def differences(
    stored: Sequence[Mapping[str, Any]], points: Points, arms: Sequence[ArmLook], focus: ArmLook | None
) -> list[Difference]:
    """The study's own comparisons at the largest amount; where it has none, the focus arm against every other, by seed.

    Args:
        stored: rows of comparisons.json. An arm may be compared with itself at another amount.
    """
    by_id = {arm.id: arm for arm in arms}
    largest: dict[tuple[str, str, str], Difference] = {}
    for row in stored:
        arm, against = by_id.get(str(row.get("arm"))), by_id.get(str(row.get("against")))
        numbers = [row.get(key) for key in ("estimate", "low", "high")]
        if arm is None or against is None or row.get("metric") not in METRICS or not all(map(_finite, numbers)):
            continue
        n, against_n = (
            int(row[key]) if _finite(row.get(key)) else None for key in ("images_per_class", "against_images_per_class")
        )
        estimate, low, high = (float(row[key]) for key in ("estimate", "low", "high"))
        one = Difference(
            arm, against, str(row["metric"]), estimate, low, high, n, against_n, float(row.get("level") or 0.95)
        )
        key = (arm.id, against.id, one.metric)
        # Of an arm against itself the widest step counts, else the largest amount.
        if key not in largest or _rank(one) >= _rank(largest[key]):
            largest[key] = one
    if largest:
        return sorted(
            largest.values(),
            key=lambda one: _CARD_ORDER.get((one.against.method, one.against.data), 4) + 9 * (one.arm == one.against),
        )
    if focus is None:
        return []
    paired = (_by_seed(focus, other, metric, points) for metric in METRICS for other in arms if other != focus)
    return [one for one in paired if one is not None]


def _rank(one: Difference) -> tuple[int, int]:
    return one.n or 0, -(one.against_n or 0) if one.arm == one.against else one.against_n or 0


def _by_seed(arm: ArmLook, against: ArmLook, metric: str, points: Points) -> Difference | None:
    """Student's interval of the seeds' differences at the largest amounts; None without two seeds."""
    rows = [list(points.get(one.id, {}).get(metric, [])) for one in (arm, against)]
    if not all(rows):
        return None
    mine, theirs = (row[-1] for row in rows)
    ours, other = list(mine["seeds"]), list(theirs["seeds"]) or [theirs["mean"]] * len(mine["seeds"])
    if len(ours) < 2 or len(ours) != len(other):
        return None
    changes = [a - b for a, b in zip(ours, other, strict=True)]
    mean = math.fsum(changes) / len(changes)
    error = math.sqrt(math.fsum((change - mean) ** 2 for change in changes) / (len(changes) - 1) / len(changes))
    reach = float(stats.t.ppf(0.975, len(changes) - 1)) * error
    return Difference(arm, against, metric, mean, mean - reach, mean + reach, n=int(mine["n"]) or None)


def judge(found: Sequence[Difference], points: Points, focus: ArmLook | None) -> Verdict:
    """The headline of a study."""
    if focus is None:
        return Verdict(
            "No arm of this study learns from synthetic images.", sentences=["So it cannot tell whether they help."]
        )
    mine = [one for one in found if one.arm == focus and one.against != focus]
    real = [one for one in mine if one.against.data == "real"]
    real = [one for one in real if one.against.method == focus.method] or real
    own, opened = (next((one for one in real if one.metric == metric), None) for metric in ("hm", "open_hm"))
    lead = own or opened
    if lead is None:
        return Verdict(
            f"{focus.short} in numbers.",
            sentences=[
                "This study has no run on real images alone with which the use of synthetic ones could be compared."
            ],
            answers=_cards(mine),
        )
    counts = [one for one in (own, opened) if one is not None]
    kinds = {one.kind for one in counts}
    if kinds == {"gain"}:
        headline = "Synthetic images helped"
    elif kinds == {"gain", "unsure"}:
        lead = next(one for one in counts if one.kind == "gain")
        headline = "Synthetic images helped on one count of two"
    elif kinds == {"loss"} or kinds == {"loss", "unsure"}:
        lead = next(one for one in counts if one.kind == "loss")
        headline = "Synthetic images did harm"
    elif "gain" in kinds and "loss" in kinds:
        headline = "Synthetic images helped and harmed"
    else:
        headline = "Synthetic images made no sure difference"
    size = f"{signed(lead.difference)} points"
    sure = f"{per_cent(lead.level)} interval {signed(lead.low)} to {signed(lead.high)}"
    return Verdict(
        f"{headline}." if lead.kind == "unsure" else f"{headline}: {size}.",
        f"{size}, {sure}" if lead.kind == "unsure" else sure,
        [_first_sentence(lead, points), *_rest(lead, counts, mine)],
        _cards(mine),
    )


def _first_sentence(lead: Difference, points: Points) -> str:
    series = points.get(lead.arm.id, {}).get(lead.metric, [])
    level = f" reaches {series[-1]['mean']:.1f}\u00a0% and" if series else ""
    amount = lead.n or (int(series[-1]["n"]) if series else 0)
    given = f"Given {amount} generated image{'' if amount == 1 else 's'} per class, " if amount else ""
    where = "all classes as candidates" if lead.metric.startswith("open_") else "each half among its own classes"
    verb = {"gain": "beats", "loss": "falls behind"}.get(lead.kind, "cannot be told from")
    return (
        f"{given}{lead.arm.short}{level} {verb} {_in_text(lead.against)}. "
        f"The score is the harmonic mean of base and novel accuracy, {where}."
    )


def _rest(lead: Difference, counts: Sequence[Difference], mine: Sequence[Difference]) -> list[str]:
    parts = []
    for one in counts:
        if one != lead:
            where = (
                "With all classes as candidates"
                if one.metric.startswith("open_")
                else "Each half among its own classes"
            )
            parts.append(f"{where} the difference is {_told(one)}.")
    zero = next((one for one in mine if one.metric == lead.metric and one.against.method == "zeroshot"), None)
    if zero is not None:
        verb = {"gain": "is above", "loss": "stays below", "unsure": "cannot be told from"}[zero.kind]
        parts.append(f"It {verb} zero‑shot CLIP, which learns nothing: {_told(zero)}.")
    return [" ".join(parts)] if parts else []


def _in_text(arm: ArmLook) -> str:
    return f"{arm.label} alone" if arm.data == "real" else arm.label


def _told(one: Difference) -> str:
    return f"{signed(one.difference)} points ({signed(one.low)} to {signed(one.high)})"


def _cards(mine: Sequence[Difference]) -> list[Answer]:
    metric = "hm" if any(one.metric == "hm" for one in mine) else "open_hm"
    chosen = sorted(
        (one for one in mine if one.metric == metric),
        key=lambda one: _CARD_ORDER.get((one.against.method, one.against.data), 4),
    )[:4]
    if not chosen:
        return []
    low = min(0.0, *(one.low for one in chosen))  # one scale for all cards, so that they can be compared at a glance
    high = max(0.0, *(one.high for one in chosen))
    air = 0.06 * (high - low or 1)

    def place(value: float) -> float:
        return round(100 * (value - low + air) / (high - low + 2 * air), 2)

    return [
        Answer(
            f"{one.arm.short} over {one.against.label}, harmonic mean",
            signed(one.difference),
            "points",
            f"{per_cent(one.level)} interval {signed(one.low)} to {signed(one.high)}",
            one.kind,
            {
                "zero": place(0),
                "low": place(one.low),
                "width": round(place(one.high) - place(one.low), 2),
                "at": place(one.difference),
            },
        )
        for one in chosen
    ]


_CARD_ORDER = {
    ("ivlp", "real"): 0,
    ("syncclip", "real"): 0,
    ("ivlp", "both"): 1,
    ("zeroshot", "none"): 2,
    ("ivlp", "synthetic"): 3,
}


def signed(value: float, digits: int = 1) -> str:
    """A number with its sign, a real minus."""
    rounded = round(value, digits)
    return f"{rounded:+.{digits}f}".replace("-", "−") if rounded else f"{0:.{digits}f}"


def per_cent(level: float) -> str:
    """A coverage as one says it: 0.95 -> "95 %", kept on one line."""
    return f"{100 * level:g}\u00a0%"


def _finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
