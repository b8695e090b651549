"""The report: what the page says, what it holds, and that it survives whatever is missing."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console
from rich.table import Table

from syncclip.core.settings import UserError
from syncclip.reports import report, write_report
from syncclip.reports.arms import describe_arms, mean_scores, with_arms
from syncclip.reports.figures import CurvePoint, FittedCurve, fitted_curves
from syncclip.reports.images import image_strips
from syncclip.reports.text import signed
from syncclip.reports.verdict import Difference, judge
from syncclip.studies import outputs
from syncclip.studies.bootstrap import Interval
from syncclip.studies.fit import Curve, HeldOut, Point
from syncclip.studies.worth import Exchange, Marginal
from tests.studies import fabricated


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fabricated.make_dataset(tmp_path_factory.mktemp("dataset") / "shapes")


@pytest.fixture
def study(tmp_path: Path, dataset: Path) -> Path:
    return fabricated.make_study(tmp_path / "study", dataset)


def page_of(folder: Path) -> str:
    """The page, with plain spaces for those that keep a number and its sign together."""
    return Path(report(str(folder))).read_text(encoding="utf-8").replace("\u00a0", " ")


def payload_of(page: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="payload">(.*?)</script>', page, re.DOTALL)[1])


def figures_of(page: str) -> set[str]:
    return set(re.findall(r'data-figure="(\w+)"', page))


def printed(table: Table) -> str:
    console = Console(width=80)
    with console.capture() as said:
        console.print(table)
    return said.get()


def test_a_study_has_every_figure(study: Path) -> None:
    expected = {"curve", "bars", "differences", "classes", "images", "map", "time", "rejects"}
    assert figures_of(page_of(study)) == expected


def test_a_run_has_its_scores_classes_images_and_losses(tmp_path: Path, dataset: Path) -> None:
    page = page_of(fabricated.make_run(tmp_path / "run", dataset))
    assert figures_of(page) == {"bars", "classes", "images", "history"}
    assert "SYNC-CLIP: 55.0 % on base, 50.5 % on novel classes." in page


def test_a_bare_set_shows_its_images_and_rejects(tmp_path: Path) -> None:
    page = page_of(fabricated.make_set(tmp_path / "set"))
    assert figures_of(page) == {"images", "rejects"}
    assert "72 synthetic images of 12 classes." in page


def test_a_run_in_the_folder_of_its_set_shows_both(tmp_path: Path, dataset: Path) -> None:
    run = fabricated.make_run(tmp_path / "run", dataset)
    fabricated.make_set(run / "synthetic")
    assert payload_of(page_of(run))["images"]["made"] is True


def test_a_recipes_own_folder_is_reported_by_its_study(study: Path) -> None:
    assert report(str(study.parent)) == str(study / "report.html")


@pytest.mark.parametrize(
    "missing",
    [outputs.FIT, outputs.COMPARISONS, outputs.SHIFT, outputs.FEATURES, outputs.COST, outputs.STATE, outputs.RECIPE],
)
def test_any_file_may_be_missing(study: Path, missing: str) -> None:
    (study / missing).unlink()
    assert "curve" in figures_of(page_of(study))


def test_a_damaged_file_is_left_out_with_a_note(study: Path) -> None:
    (study / outputs.FIT).write_text("{")
    assert "fit.json could not be read and is left out" in page_of(study)


def test_a_study_without_cells_or_set_still_has_its_curve(study: Path) -> None:
    for part in ("cells", "synthetic"):
        (study / part).rename(study.parent / part)
    figures = figures_of(page_of(study))
    assert "curve" in figures and "classes" not in figures


def test_a_single_seed_and_amount_are_enough(study: Path) -> None:
    table = pd.read_parquet(study / outputs.TABLE)
    few = table[
        (table["seed"].isna() | (table["seed"] == 1))
        & (table["images_per_class"].isna() | (table["images_per_class"] == 4))
    ]
    outputs.write_table(str(study / outputs.TABLE), few)
    assert payload_of(page_of(study))["points"]["syncclip-both"]["hm"][0]["se"] is None


def test_a_study_with_no_finished_cell_says_so(study: Path) -> None:
    table = pd.read_parquet(study / outputs.TABLE)
    outputs.write_table(str(study / outputs.TABLE), table.iloc[:0])
    assert "No run of this study is finished yet." in page_of(study)


def test_unfinished_runs_are_told(study: Path) -> None:
    state = outputs.read_json(str(study / outputs.STATE))
    state["cells"][0]["status"], state["cells"][1]["status"] = "waiting", "failed"
    state["cells"][1]["error"] = "no space left on <device>"
    outputs.write_json(str(study / outputs.STATE), state)
    page = page_of(study)
    assert "1 is still to be run and 1 failed" in page
    assert f"Failed: {state['cells'][1]['cell']} (no space left on &lt;device&gt;)." in page


def test_the_page_names_no_address_that_it_would_load(study: Path) -> None:
    addresses: list[str] = []

    class Loads(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            addresses.extend(value or "" for name, value in attrs if name in ("src", "href", "srcset") and tag != "a")

    page = page_of(study)
    Loads().feed(page)
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)[1]
    addresses += re.findall(r"url\(\"?([^)\"]+)", style)
    assert addresses and all(address.startswith("data:") for address in addresses)
    assert "@import" not in style and "fetch(" not in page and "import(" not in page


def test_names_cannot_break_out_of_the_page(tmp_path: Path) -> None:
    names = ["</script><script>alert(1)</script>", "a & <b>", *fabricated.NAMES[2:]]
    page = page_of(fabricated.make_set(tmp_path / "set", names))
    assert "<script>alert(1)" not in page
    assert payload_of(page)["images"]["strips"][0]["name"] == names[0]


def test_the_same_folder_gives_the_same_page(study: Path) -> None:
    assert page_of(study) == page_of(study)


def test_a_folder_that_is_neither_is_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no study\.parquet, results\.json, plan\.json; give the folder"):
        report(str(tmp_path))


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="it is not there"):
        report(str(tmp_path / "nowhere"))


def test_means_and_standard_errors_are_those_of_the_seeds() -> None:
    rows = [
        {"method": "ivlp", "data": "both", "images_per_class": 4, "seed": s, "hm": hm}
        for s, hm in ((1, 40.0), (2, 44.0))
    ]
    point = mean_scores(with_arms(pd.DataFrame(rows)))["ivlp-both"]["hm"][0]
    assert (point.n, point.mean, point.se) == (4, 42.0, pytest.approx(2.0))  # deviation sqrt(8), over sqrt(2)


def test_real_arms_count_as_without_synthetic_images() -> None:
    rows = [{"method": "ivlp", "data": "real", "images_per_class": 16, "hm": 40.0}]
    assert mean_scores(with_arms(pd.DataFrame(rows)))["ivlp-real"]["hm"][0].n == 0


@pytest.mark.parametrize(
    ("own", "opened", "said"),
    [
        ((1.0, 0.2, 1.8), (0.8, 0.1, 1.5), "Synthetic images helped: +1.0 points."),
        ((1.0, 0.2, 1.8), (0.3, -0.4, 1.0), "Synthetic images helped on one of two measures: +1.0 points."),
        ((0.4, -0.2, 1.0), (0.9, 0.1, 1.7), "Synthetic images helped on one of two measures: +0.9 points."),
        ((0.1, -0.6, 0.8), (0.0, -0.7, 0.7), "Synthetic images made no clear difference."),
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


def around(value: float) -> Interval:
    return Interval(value, value - 1, value + 2)


def fit_of(models: tuple[HeldOut, ...] = (), worth: outputs.Worth | None = None, **changes: object) -> FittedCurve:
    """What the page shows of the curve of SYNC-CLIP: error 40 + 10 / n."""
    curve = Curve(
        amounts=[1, 2, 4],
        means=[50, 45, 42.5],
        standard_errors=[1, 1, 1],
        verdict="falls",
        slope=around(-3),
        law={"a": around(40), "b": around(10), "c": around(1)},
        line=tuple(Point(n, around(40 + 10 / n)) for n in (1, 2, 4)),
        forecast=(Point(16, around(40 + 10 / 16)),),
        plus_one=Interval(6.7, 5.2, math.inf),
    )
    curve = dataclasses.replace(curve, **changes)  # type: ignore[arg-type]
    curves = {arm: {"hm": curve} for arm in ("syncclip-both", "ivlp-both")}
    stored = outputs.Fits(0.9, 400, "test", curves, {"syncclip-both": {"hm": models}})
    arms = describe_arms([("syncclip-both", "syncclip", "both"), ("ivlp-both", "ivlp", "both")])
    fits = fitted_curves(stored, arms, worth)
    assert "synthetic images" not in fits["ivlp-both"]["hm"].text, "only the focus arm's images have a worth"
    return fits["syncclip-both"]["hm"]


def test_a_fit_is_shown_as_accuracy_with_its_band_turned_over() -> None:
    curve = fit_of().curve
    assert curve[0] == CurvePoint(1, 50, 48, 51)
    assert dataclasses.astuple(curve[-1]) == pytest.approx((16, 60 - 10 / 16, 58 - 10 / 16, 61 - 10 / 16))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "one more point would take about 7 images per class (at least 5, perhaps never)."),
        (
            {"plus_one": Interval(430.2, 254.6, 2e6)},
            "430 images per class (90 % interval 250 to over a million).",
        ),
        ({"plus_one": Interval(math.nan, 8.0, math.nan)}, "rises but has nearly levelled off"),
        (
            {"verdict": "flat"},
            "no amount is clearly better than another (+3.0 points per doubling, 90 % interval +1.0 to +4.0).",
        ),
        ({"verdict": "rises"}, "gets worse with more images"),
        ({"verdict": "too few amounts"}, "too few amounts for a curve."),
    ],
)
def test_a_fits_sentence_says_what_the_fit_can_say(changes: dict, said: str) -> None:
    assert said in fit_of(**changes).text.replace("\u00a0", " ")


def test_a_fits_sentence_says_which_model_predicted_best() -> None:
    said = fit_of((HeldOut("logarithm", 0.42, 0.6), HeldOut("constant", 1.0, 0.4))).text
    assert (
        "a logarithm predicted held-out amounts best: it missed by 0.4 points, and least of all in 60 % of the draws"
        in said
    )


@pytest.mark.parametrize(
    ("shots", "per_real", "said"),
    [
        (7.1, 20.7, "64 synthetic images per class do as well as 7.1 real ones alone: 20.7 of them are worth one more"),
        (math.inf, 0.0, "With 64 synthetic images per class it does better than any number of real ones alone"),
        (3.0, math.nan, "64 synthetic images per class replace no real one."),
    ],
)
def test_a_fits_sentence_says_what_images_are_worth(shots: float, per_real: float, said: str) -> None:
    marginal = {"hm": (Marginal(64, around(0.0512)),)}
    exchange = {"hm": (Exchange(64, around(shots), around(per_real)),)}
    text = fit_of(worth=outputs.Worth("syncclip-both", 0.9, 1000.0, marginal, exchange)).text
    assert "At 64 per class, an hour of generation adds 0.051 points." in text
    assert said in text


def test_intervals_are_named_by_their_own_coverage(study: Path) -> None:
    rows = outputs.read_json(str(study / outputs.COMPARISONS))
    outputs.write_json(str(study / outputs.COMPARISONS), [row | {"level": 0.9} for row in rows])
    page = page_of(study)
    assert "90 % interval" in page and "Paired differences with 90 % intervals" in page


@pytest.mark.parametrize(("value", "said"), [(1.04, "+1.0"), (-0.26, "−0.3"), (-0.04, "0.0"), (0.0, "0.0")])
def test_differences_carry_their_sign_unless_they_round_to_nothing(value: float, said: str) -> None:
    assert signed(value) == said


def test_an_arm_of_a_method_of_ones_own_is_called_by_its_class() -> None:
    (arm,) = describe_arms([("Mine-real", "package.module:Mine", "real")])
    assert (arm.label, arm.short) == ("Mine on real images", "Mine real only")


def test_an_arm_with_a_name_of_its_own_keeps_it() -> None:
    arms = describe_arms([("syncclip-both", "syncclip", "both"), ("syncclip-both-unfiltered", "syncclip", "both")])
    assert [arm.label for arm in arms] == ["SYNC-CLIP", "SYNC-CLIP (unfiltered)"]
    assert len({arm.tone for arm in arms}) == 2


def test_images_stay_within_their_budget(dataset: Path) -> None:
    from syncclip.datasets import DatasetSettings, load_dataset

    real = load_dataset(DatasetSettings(name=str(dataset)))
    found, _ = image_strips(real.classnames, real, None, budget=6000)
    assert found is not None and len(found.strips) == 12
    assert sum(len(strip.src) * 3 / 4 for strip in found.strips) < 6500


def test_an_unreadable_image_is_counted_and_left_out(study: Path) -> None:
    tar = study / "synthetic" / "00000.tar"
    data = tar.read_bytes()
    tar.write_bytes(data.replace(b"\xff\xd8\xff", b"\x00\x00\x00", 1))
    assert "1 unreadable image left out of the page." in page_of(study)


def test_the_terminal_table_fits_into_80_columns(study: Path) -> None:
    text = printed(write_report(str(study)).table)
    assert "SYNC-CLIP" in text and "…" not in text


def test_a_set_has_a_terminal_table_too(tmp_path: Path) -> None:
    text = printed(write_report(str(fabricated.make_set(tmp_path / "set"))).table)
    assert "72 of 12 classes in 2 shards" in text and "rejected: clip_score" in text
