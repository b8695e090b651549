"""The page of a report, also with missing or damaged files."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

from syncclip import storage
from syncclip.cli.render import show_report
from syncclip.core.settings import UserError
from syncclip.reports import report, write_report
from syncclip.reports.images import image_strips
from syncclip.reports.inputs import Inputs
from syncclip.studies import outputs
from tests.studies import fabricated
from tests.worlds.rewritten import rewrite_json, rewrite_table


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fabricated.make_dataset(tmp_path_factory.mktemp("dataset") / "shapes")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, dataset: Path) -> tuple[Path, Path]:
    """A study and its copy, since fabricating one takes longer than copying it."""
    folder = tmp_path_factory.mktemp("made")
    study = fabricated.make_study(folder / "study", dataset)
    return study, shutil.copytree(study, folder / "copy")


@pytest.fixture
def study(made: tuple[Path, Path]) -> Path:
    study, copy = made
    shutil.rmtree(study)
    return shutil.copytree(copy, study)


def page_of(folder: Path) -> str:
    """The page, with non-breaking spaces replaced."""
    return Path(report(str(folder))).read_text(encoding="utf-8").replace("\u00a0", " ")


def payload_of(page: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="payload">(.*?)</script>', page, re.DOTALL)[1])


@pytest.mark.parametrize(
    ("units", "expected"), [(["images"], "seeds and images"), (["images", "classes"], "seeds and classes")]
)
def test_caption_of_differences_reports_the_resampled_units(study: Path, units: list[str], expected: str) -> None:
    path = str(study / outputs.COMPARISONS)
    pairs = outputs.read_list(path)
    rewrite_json(path, [{**pair, "unit": unit} for unit in units for pair in pairs])
    assert f"share seeds, classes and test images; {expected} are resampled" in page_of(study)


def figures_of(page: str) -> set[str]:
    return set(re.findall(r'data-figure="(\w+)"', page))


def printed(folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    show_report(write_report(str(folder)))
    return capsys.readouterr().out


def test_study_has_all_figures(study: Path) -> None:
    expected = {"curve", "bars", "differences", "classes", "images", "map", "time", "rejects"}
    assert figures_of(page_of(study)) == expected


def test_figures_open_with_the_metric_of_the_headline(study: Path) -> None:
    page = page_of(study)
    headline = re.search(r"<h1>Effect of synthetic images on novel classes – significant gain (.*?)</h1>", page)
    assert headline and "mean over 1 to 64 images per class" in headline[1]
    assert payload_of(page)["metric"] == "all_classes_novel"


def test_run_has_scores_classes_images_and_losses(tmp_path: Path, dataset: Path) -> None:
    page = page_of(fabricated.make_run(tmp_path / "run", dataset))
    assert figures_of(page) == {"bars", "classes", "images", "history"}
    assert "SYNC-CLIP: 55.0 % on base, 50.5 % on novel classes." in page


def test_report_of_a_run_has_its_baselines(tmp_path: Path, dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = fabricated.make_run(tmp_path / "run", dataset)
    baselines = {"zero_shot": {"base": 40.2, "hm": 36.3, "all_classes_hm": 31.7}, "chance": {"base": None, "hm": 16.8}}
    path = str(run / "results.json")
    rewrite_json(path, outputs.read_json(path) | {"baselines": baselines})
    assert "Baseline zero-shot CLIP: HM 36.3 %, HM (all) 31.7 %. Baseline chance: HM 16.8 %." in page_of(run)
    lines = printed(run, capsys).splitlines()
    zero_shot, chance = (line.split("│")[1:5] for line in lines if line.startswith(("│ zero", "│ chance")))
    assert [*map(str.strip, zero_shot)] == ["zero-shot CLIP", "40.2", "–", "36.3"]
    assert [*map(str.strip, chance)] == ["chance", "–", "–", "16.8"]


def test_synthetic_dataset_has_images_and_rejects(tmp_path: Path) -> None:
    page = page_of(fabricated.make_set(tmp_path / "set"))
    assert figures_of(page) == {"images", "rejects"}
    assert "72 synthetic images of 12 classes." in page


def test_run_beside_its_synthetic_dataset_shows_both_kinds_of_images(tmp_path: Path, dataset: Path) -> None:
    run = fabricated.make_run(tmp_path / "run", dataset)
    fabricated.make_set(run / "synthetic")
    assert payload_of(page_of(run))["images"]["made"] is True


def test_folder_of_a_recipe_stands_for_its_study(study: Path) -> None:
    assert report(str(study.parent)) == str(study / "report.html")


@pytest.mark.parametrize(
    "missing",
    [outputs.FIT, outputs.COMPARISONS, outputs.SHIFT, outputs.FEATURES, outputs.COST, outputs.STATE, outputs.RECIPE],
)
def test_files_may_be_missing(study: Path, missing: str) -> None:
    (study / missing).unlink()
    assert "curve" in figures_of(page_of(study))


def test_damaged_file_is_left_out_with_a_note(study: Path) -> None:
    (study / outputs.FIT).write_text("{")
    assert "fit.json could not be read and was omitted" in page_of(study)


@pytest.mark.parametrize("column", ["cell", "configuration", "method", "data", "images_per_class"])
def test_table_without_a_column_is_left_out_with_a_note(study: Path, column: str) -> None:
    rewrite_table(study / outputs.TABLE, pd.read_parquet(study / outputs.TABLE).drop(columns=column))
    note = f"study.parquet could not be read and was omitted (the column &#39;{column}&#39; is missing)"
    assert note in page_of(study)


def test_synthetic_images_are_shown_if_real_ones_are_damaged(tmp_path: Path) -> None:
    dataset = fabricated.make_dataset(tmp_path / "shapes")
    folder = fabricated.make_study(tmp_path / "study", dataset)
    for table in (dataset / "train").glob("*_stats.json"):
        table.write_text("{")
    page = page_of(folder)
    images = payload_of(page)["images"]
    assert (images["real"], images["made"]) == (False, True)
    assert "The dataset&#39;s images are unavailable and were omitted" in page


def test_study_without_runs_and_synthetic_dataset_has_a_curve(study: Path, tmp_path: Path) -> None:
    for part in ("cells", "synthetic"):
        (study / part).rename(tmp_path / part)
    figures = figures_of(page_of(study))
    assert "curve" in figures and "classes" not in figures


def test_single_seed_and_number_of_images_have_no_standard_error(study: Path) -> None:
    table = pd.read_parquet(study / outputs.TABLE)
    few = table[
        (table["seed"].isna() | (table["seed"] == 1))
        & (table["images_per_class"].isna() | (table["images_per_class"] == 4))
    ]
    rewrite_table(study / outputs.TABLE, few)
    assert payload_of(page_of(study))["points"]["syncclip-both"]["hm"][0]["se"] is None


def test_study_with_a_single_seed_mentions_no_standard_error(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "standard error" in page_of(study)
    table = pd.read_parquet(study / outputs.TABLE)
    rewrite_table(study / outputs.TABLE, table[table["seed"].isna() | (table["seed"] == 1)])
    page = page_of(study)
    assert "standard error" not in re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert "standard error" not in printed(study, capsys)


def test_tables_have_a_legend_of_their_terms(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, words = page_of(study), " ".join(printed(study, capsys).split())
    for term in ("HM: harmonic mean of base and novel accuracy", "(all): all classes are candidates"):
        assert term in page and term in words
    assert "OpenworldAUC: share" in page and "OpenworldAUC" not in words
    assert '<td data-value=""></td>' not in page


def test_run_has_no_number_of_images_and_no_standard_error(
    tmp_path: Path, dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = printed(fabricated.make_run(tmp_path / "run", dataset), capsys)
    assert "harmonic mean" in words
    assert not any(word in words for word in ("per class", "±", "–"))


def test_study_without_finished_runs_is_reported(study: Path) -> None:
    table = pd.read_parquet(study / outputs.TABLE)
    rewrite_table(study / outputs.TABLE, table.iloc[:0])
    assert "No run of this study is finished yet." in page_of(study)


def test_unfinished_runs_are_reported(study: Path) -> None:
    state = outputs.read_json(str(study / outputs.STATE))
    state["cells"][0]["status"], state["cells"][1]["status"] = "waiting", "failed"
    state["cells"][1]["error"] = "no space left on <device>"
    rewrite_json(study / outputs.STATE, state)
    page = page_of(study)
    assert "1 is waiting and 1 failed" in page
    assert f"Failed: {state['cells'][1]['cell']} (no space left on &lt;device&gt;)." in page


@pytest.mark.parametrize(
    ("schedule", "expected"), [("real", "steps follow the real images"), ("longer", "steps follow the more numerous")]
)
def test_study_states_its_training_schedule(study: Path, schedule: str, expected: str) -> None:
    path, owner = str(study / outputs.RECIPE), storage.read_owner(str(study / outputs.RECIPE))
    text = storage.read_verified(path, owner) + f"  epochs_over: {schedule}\n".encode()
    storage.write_with_checksum(path, text, owner=owner)
    assert expected in page_of(study)


def test_page_loads_nothing(study: Path) -> None:
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


def test_content_is_escaped(tmp_path: Path) -> None:
    names = ["</script><script>alert(1)</script>", "a & <b>", *fabricated.NAMES[2:]]
    page = page_of(fabricated.make_set(tmp_path / "set", names))
    assert "<script>alert(1)" not in page
    assert payload_of(page)["images"]["strips"][0]["name"] == names[0]


def test_other_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no study\.parquet, results\.json, plan\.json"):
        report(str(tmp_path))
    with pytest.raises(UserError, match="because the folder does not exist"):
        report(str(tmp_path / "nowhere"))


def test_intervals_show_their_confidence_level(study: Path) -> None:
    rows = json.loads(storage.read_bytes(str(study / outputs.COMPARISONS)))
    rewrite_json(study / outputs.COMPARISONS, [row | {"confidence_level": 0.9} for row in rows])
    page = page_of(study)
    assert "90 % CI" in page and "Paired differences with 90 % confidence intervals" in page


def test_images_stay_within_their_budget(dataset: Path) -> None:
    from syncclip.datasets import DatasetSettings, load_dataset

    real = load_dataset(DatasetSettings(name=str(dataset)))
    images = image_strips(Inputs("", "set", dataset=real, classnames=real.classnames), budget=6000)
    assert images is not None and len(images.strips) == 12
    assert sum(len(strip.src) * 3 / 4 for strip in images.strips) < 6500


def test_unreadable_image_is_counted_and_left_out(study: Path) -> None:
    tar = study / "synthetic" / "00000.tar"
    data = tar.read_bytes()
    tar.write_bytes(data.replace(b"\xff\xd8\xff", b"\x00\x00\x00", 1))
    assert "The page omits 1 unreadable image." in page_of(study)


def test_terminal_tables_have_the_scores_and_differences_of_the_headline(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = printed(study, capsys)
    assert "syncclip-both: SYNC-CLIP" in text, "the key explains the names in the tables"
    assert "syncclip-both at 64" in text and "syncclip-both minus baseline, points" in text
    text = text.replace("\u00a0", " ")
    lead = re.search(
        r"novel \(all\) (\S+) points, SYNC-CLIP vs. IVLP on real images only, 95 % CI over images (\S+ to [^\s,)]+)",
        text,
    )
    assert lead and f"{lead[1]} ({lead[2]})" in text, "the number of the headline is in a table"
    assert "Effect of synthetic images on novel classes – significant gain" in text
    text = printed(study / "synthetic", capsys)
    assert "72 of 12 classes in 2 shards" in text and "rejected: clip_score" in text
