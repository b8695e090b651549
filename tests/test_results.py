"""The published study files and the tables in the pages are derived from the published predictions."""

from __future__ import annotations

import json
import re
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from scripts.gain_map import derive
from syncclip import storage
from syncclip.evaluation.metrics import METRIC_HEADINGS
from syncclip.recipe.recipe import Recipe
from syncclip.studies import analysis, gain_prediction, levels, predictions

pytestmark = [pytest.mark.nightly, pytest.mark.slow]

ROOT = Path(__file__).parents[1]
STUDY = ROOT / "docs" / "results"
METRIC = {heading: name for name, heading in METRIC_HEADINGS.items()}
CONFIGURATIONS: dict[str, tuple[str, int | None]] = {
    "zero-shot CLIP": ("zeroshot", None),
    "IVLP, real only": ("ivlp-real", None),
    "IVLP, naive mix with 64": ("ivlp-both", 64),
    "SYNC-CLIP, prompts shared with 64": ("syncclip-shared", 64),
    "IVLP, real images of all classes": ("ivlp-all_real", None),
    **{f"SYNC-CLIP with {amount}": ("syncclip-both", amount) for amount in (1, 2, 4, 8, 16, 32, 64)},
}
"""Row label in the page of results -> configuration and images per class."""

ABLATIONS = {
    "IVLP, real only": "real-only",
    "SYNC-CLIP": "syncclip",
    "without L_SCE": "no-synthetic-loss",
    "without L_FS": "no-alignment",
    "without both losses": "no-synthetic-loss-no-alignment",
    "all negatives": "all-negatives",
    "no domain prompts (4 shared)": "no-domain-prompts",
    "no shared prompts (4 of the domain)": "no-shared-prompts",
    "1 domain token, 3 shared": "one-domain-token",
    "3 domain tokens, 1 shared": "three-domain-tokens",
    "prompts in the first block alone": "shallow",
    "2 text and 2 visual vectors": "two-contexts",
}
"""Row label in the page of ablations -> configuration."""

METHODS = {
    "zero-shot CLIP": "zeroshot",
    "CoOp": "coop",
    "CoCoOp": "cocoop",
    "KgCoOp": "kgcoop",
    "VPT": "vpt",
    "IVLP": "ivlp",
    "MaPLe": "maple",
    "PromptSRC": "promptsrc",
    "SYNC-CLIP": "syncclip",
    "linear probe": "probe",
    "Tip-Adapter": "tip",
    "CLIP-LoRA": "cliplora",
    "2SFS": "twostage",
    "MMA": "mma",
    "MMRL": "mmrl",
    "TCP": "tcp",
    "PromptKD": "promptkd",
}
"""Row label in the pages of methods and data use -> method; the first nine are those of `data_use`."""

TUNED_VALUES = {
    "weight 1, synthetic_weight 0.5": {1.0, 0.5},
    "CLIP-LoRA, domain_rank 2": {2, 1.0},
    "MMRL, domain_tokens 2, rate 0.01": {2, 1.0, 0.01},
}
"""Values that the tuned configurations set."""

FURTHER = {
    "SYNC-CLIP, distilled": "syncclip-distilled",
    "CLIP-LoRA, domain-specific updates": "cliplora-domains",
    "MMRL, domain-specific tokens": "mmrl-domains",
}
"""Row label in the page of methods -> further configuration."""

Row = dict[str, str]


@cache
def published(study: str = "") -> predictions.Recomputed:
    return predictions.recompute(str(STUDY / study))


def mean_of(study: predictions.Recomputed, configuration: str, amount: int | None) -> dict[str, float]:
    """Metric -> mean of a configuration at a number of images per class."""
    amounts = study.means["images_per_class"].fillna(0).astype(int)
    selected = (study.means["configuration"] == configuration) & (amounts == (amount or 0))
    (row,) = study.means[selected].to_dict("records")
    return row


def shown_means(row: Row, study: str, configuration: str, amount: int | None) -> Row:
    """Means of a configuration for the headings of a row, formatted as in the pages."""
    means = mean_of(published(study), configuration, amount)
    return {heading: f"{means[METRIC[heading]]:.1f}" for heading in row}


def interval(estimate: float, low: float, high: float) -> str:
    """A gain with its confidence interval, formatted as in the pages."""
    return f"{estimate:+.1f} ({low:+.1f} to {high:+.1f})".replace("-", "−")


def gains_of(
    study: predictions.Recomputed, amount: int | None, baseline: tuple[str, int | None], of: str = "syncclip-both"
) -> Row:
    """Metric -> gain of a configuration, formatted as in the pages; without `amount`, the average over all numbers."""
    return {
        pair.metric: interval(pair.estimate, pair.low, pair.high)
        for pair in study.comparisons
        if (pair.configuration, pair.images_per_class, pair.unit) == (of, amount, "classes")
        and (pair.baseline, pair.baseline_images_per_class) == baseline
    }


def rows_of(page: str, heading: str) -> list[Row]:
    """Rows of a page's tables whose first heading is this one: heading -> cell."""
    rows: list[Row] = []
    for block in re.findall(r"(?:^\|.*\|\n)+", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE):
        headings, _, *lines = ([cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines())
        if headings[0] == heading:
            rows += [dict(zip(headings, line, strict=True)) for line in lines]
    return rows


def test_study_files_are_derived_from_the_predictions() -> None:
    for study in ("", "losses", "data_use", "methods", "gap/rendered", "gap/generated", "gap/two_steps"):
        assert published(study).differ == [], study
    assert published().numbers > 1000


def test_the_page_of_results_shows_the_means() -> None:
    rows = rows_of("docs/results/README.md", "method")
    assert {row["method"] for row in rows} == set(CONFIGURATIONS)
    for row in rows:
        configuration, amount = CONFIGURATIONS[row.pop("method")]
        assert row == shown_means(row, "", configuration, amount), configuration


def test_the_page_of_results_shows_the_gains() -> None:
    page = "docs/results/README.md"
    averages = gains_of(published(), None, ("ivlp-real", None))
    assert averages["all_classes_novel"] == interval(*headline_average())
    for heading, amount in (("SYNC-CLIP, mean of 1 to 64, over", None), ("SYNC-CLIP with 64 over", 64)):
        rows = rows_of(page, heading)
        assert rows
        for row in rows:
            baseline = CONFIGURATIONS[row.pop(heading)]
            gains = gains_of(published(), amount, baseline)
            assert row == {title: gains[METRIC[title]] for title in row}, baseline


def headline_average() -> tuple[float, float, float]:
    """The gain in the report's headline: SYNC-CLIP over real images only, averaged over all numbers of images."""
    (pair,) = (
        pair
        for pair in published().comparisons
        if pair.averaged_over
        and (pair.baseline, pair.metric, pair.unit) == ("ivlp-real", "all_classes_novel", "classes")
    )
    return pair.estimate, pair.low, pair.high


def test_the_page_of_results_compares_shared_prompts_with_the_naive_mix() -> None:
    """The study's recipe does not name these pairs, so they are computed from its predictions."""
    settings = Recipe.load(f"{STUDY}/recipe.yaml", own=False).study
    evidence = predictions.read(str(STUDY), settings.configurations, storage.read_owner(f"{STUDY}/study.json"))
    named = [("syncclip-shared", "ivlp-both"), ("syncclip-shared", "ivlp-real")]
    heading = "SYNC-CLIP, prompts shared with 64 over"
    rows = {row.pop(heading): row for row in rows_of("docs/results/README.md", heading)}
    gains: dict[str, Row] = {}
    for pair in analysis.comparisons(evidence, settings.model_copy(update={"compare": named})):
        if (pair.configuration, pair.unit) == ("syncclip-shared", "classes"):
            gain = interval(pair.estimate, pair.low, pair.high)
            gains.setdefault(pair.baseline, {})[METRIC_HEADINGS[pair.metric]] = gain
    assert rows == {
        label: {title: gains[CONFIGURATIONS[label][0]][title] for title in row} for label, row in rows.items()
    }
    assert {CONFIGURATIONS[label][0] for label in rows} == {"ivlp-both", "ivlp-real"}


@pytest.mark.parametrize("images", ["rendered", "generated", "two steps"])
def test_the_page_of_domain_gaps_shows_means_and_gains(images: str) -> None:
    study = f"gap/{images.replace(' ', '_')}"
    names = {
        "SYNC-CLIP": "syncclip-both",
        "SYNC-CLIP, prompts shared": "syncclip-shared",
        "IVLP, naive mix": "ivlp-both",
    }
    rows = [row for row in rows_of("docs/results/gap/README.md", "images") if row.pop("images") == images]

    assert len(rows) == 5
    for row in rows:
        row.pop("gap", None)
        if "method" in row:
            expected = shown_means(row, study, names[row.pop("method")], 16)
        else:
            gains = gains_of(published(study), 16, (names[row.pop("SYNC-CLIP over")], 16))
            expected = {title: gains[METRIC[title]] for title in row}
        assert row == expected


def test_the_page_of_ablations_shows_means_and_gains() -> None:
    rows = rows_of("docs/results/losses/README.md", "method")
    assert {row["method"] for row in rows} == set(ABLATIONS)
    for row in rows:
        configuration = ABLATIONS[row.pop("method")]
        amount = None if configuration == "real-only" else 16
        gains = {"hm": "", "all_classes_hm": ""}
        if configuration != "syncclip":
            gains = gains_of(published("losses"), 16, (configuration, amount), of="syncclip")
        assert row.pop("gain of SYNC-CLIP, HM") == gains["hm"], configuration
        assert row.pop("gain, HM (all)") == gains["all_classes_hm"], configuration
        assert row == shown_means(row, "losses", configuration, amount), configuration


def configuration_of(name: str) -> tuple[str, int | None]:
    """Configuration and images per class of "SYNC-CLIP on both", "CoOp on real images", or a label in `FURTHER`."""
    if name in FURTHER:
        return FURTHER[name], 16
    method, _, data = name.partition(" on ")
    data = data.removesuffix(" images")
    if METHODS[method] == "zeroshot":
        return "zeroshot", None
    return f"{METHODS[method]}-{data}", None if data == "real" else 16


@pytest.mark.parametrize("metric", ["HM", "HM (all)", "novel", "novel (all)"])
@pytest.mark.parametrize(("study", "methods"), [("data_use", 9), ("methods", 17)])
def test_pages_show_the_means_by_training_data(study: str, methods: int, metric: str) -> None:
    rows = rows_of(f"docs/results/{study}/README.md", metric)
    assert [row[metric] for row in rows] == list(METHODS)[:methods]
    for row in rows:
        method = row.pop(metric)
        for data, shown in row.items():
            if (method, data) == ("PromptKD", "real"):
                assert shown == "–"
                continue
            mean = mean_of(published(study), *configuration_of(f"{method} on {data}"))
            assert shown == f"{mean[METRIC[metric]]:.1f}", (method, data)


def test_the_page_of_data_use_shows_the_gains() -> None:
    heading = "SYNC-CLIP on both over"
    rows = rows_of("docs/results/data_use/README.md", heading)
    assert len(rows) == 13
    for row in rows:
        name = row.pop(heading)
        gains = gains_of(published("data_use"), 16, configuration_of(name))
        assert row == {title: gains[METRIC[title]] for title in row}, name


@pytest.mark.parametrize("metric", ["HM", "HM (all)"])
def test_the_page_of_methods_shows_the_gains(metric: str) -> None:
    heading = f"{metric} of SYNC-CLIP on both, above"
    rows = rows_of("docs/results/methods/README.md", heading)
    assert [row[heading] for row in rows] == list(METHODS)
    for row in rows:
        method = row.pop(heading)
        for data, shown in row.items():
            if (method, data) in (("SYNC-CLIP", "both"), ("PromptKD", "real")):
                assert shown == "–"
            else:
                gains = gains_of(published("methods"), 16, configuration_of(f"{method} on {data}"))
                assert shown == gains[METRIC[metric]], (method, data)


def test_the_page_of_methods_compares_distillation_and_domain_specific_parts() -> None:
    """The reference configurations differ from that of the study."""
    url = str(STUDY / "methods")
    study = Recipe.load(f"{url}/recipe.yaml").study
    evidence_owner = storage.read_owner(f"{url}/study.json")
    rows = rows_of("docs/results/methods/README.md", "comparison")
    assert len(rows) == 7
    for row in rows:
        ours, theirs = map(configuration_of, row.pop("comparison").split(" over "))
        configurations = [
            configuration for configuration in study.configurations if configuration.name in (ours[0], theirs[0])
        ]
        settings = study.model_copy(update={"reference": ours[0], "configurations": configurations})
        pairs = analysis.comparisons(predictions.read(url, configurations, evidence_owner), settings)
        assert row == {
            title: interval(pair.estimate, pair.low, pair.high)
            for title in row
            for pair in pairs
            if (pair.metric, pair.unit, pair.baseline) == (METRIC[title], "classes", theirs[0])
        }

    rows = rows_of("docs/results/methods/README.md", "on both")
    assert {row["on both"] for row in rows} > set(FURTHER)
    for row in rows:
        name = row.pop("on both")
        configuration = configuration_of(name if name in FURTHER else f"{name} on both")
        assert row == shown_means(row, "methods", *configuration), name


def test_the_page_of_methods_shows_every_tuned_learning_rate() -> None:
    record = json.loads((STUDY / "methods" / "tuned.json").read_text())
    page = "docs/results/methods/README.md"
    rates = {row["method"].strip("`"): row["learning rate: HM (all)"] for row in rows_of(page, "method")}
    methods = Recipe.load("studies/methods").methods
    for configuration, trials in record["configurations"].items():
        name = configuration.partition("-")[0]
        pairs = [(*trial["values"].values(), trial["all_classes_hm"]) for trial in trials]
        rate, best = max(pairs, key=lambda pair: pair[1])
        shown = [f"**{rate:g}: {score:.1f}**" if score == best else f"{rate:g}: {score:.1f}" for rate, score in pairs]
        assert rates.pop(name) == ", ".join(shown)
        assert methods.of(name).learning_rate == rate
    assert not rates


@pytest.mark.parametrize(
    ("search", "heading", "best"),
    [
        ("distilled", "distilled SYNC-CLIP", {"weight 1, synthetic_weight 0.5": "syncclip-distilled"}),
        (
            "domain_specific",
            "domain-specific parts",
            {"CLIP-LoRA, domain_rank 2": "cliplora-domains", "MMRL, domain_tokens 2, rate 0.01": "mmrl-domains"},
        ),
    ],
)
def test_the_page_of_methods_shows_the_searches(search: str, heading: str, best: dict[str, str]) -> None:
    trials = json.loads((STUDY / "methods" / "tuned.json").read_text())[search]
    rows = {row.pop(heading): row for row in rows_of("docs/results/methods/README.md", heading)}
    shown = {heading: name for heading, name in METRIC.items() if name in next(iter(trials.values()))}
    configurations = {
        configuration.name: configuration.overrides
        for configuration in Recipe.load("studies/methods").study.configurations
    }

    assert rows == {
        name: {heading: f"{trial[metric]:.1f}" for heading, metric in shown.items()}
        | ({"seeds": str(trial["seeds"])} if "seeds" in trial else {})
        for name, trial in trials.items()
    }
    for label, configuration in best.items():
        rivals = [trial for name, trial in trials.items() if name[:4] == label[:4] and trial.get("seeds", 2) > 1]
        assert max(rivals, key=lambda trial: trial["all_classes_hm"]) == trials[label]
        assert {*configurations[configuration].values()} == TUNED_VALUES[label]


def test_the_page_of_the_map_shows_the_searches() -> None:
    trials: dict[str, list[dict[str, Any]]] = {}
    for number in (1, 2):
        record = json.loads((STUDY / "map" / f"tuned-{number}.json").read_text())
        for name, search in record["configurations"].items():
            earlier = trials.setdefault(name, [])  # the second search repeats combinations of the first
            scores = {trial["all_classes_hm"] for trial in earlier}
            earlier += [trial for trial in search["search_space"] if trial["all_classes_hm"] not in scores]
    for row in rows_of("docs/results/map/README.md", "configuration"):
        tried = trials.pop(row["configuration"].strip("`"))
        scores = [trial["all_classes_hm"] for trial in tried]
        if row["selected"].endswith("(not selected)"):  # fixed, so that the number of steps is that of SYNC-CLIP
            best = max(trial["all_classes_hm"] for trial in tried if trial["values"].get("training.epochs") == 2)
        else:
            best = max(scores)
        assert row["HM (all), %"] == f"{best:.1f}"
        assert (row["combinations"], row["worst"]) == (str(len(scores)), f"{min(scores):.1f}")
    assert not trials


def test_the_page_of_the_map_lists_the_selected_values_at_a_boundary() -> None:
    """The epochs of prompt methods on `all_real` were not selected, but match the steps of SYNC-CLIP."""
    tried: dict[str, list[dict[str, Any]]] = {}
    for number in (1, 2):
        record = json.loads((STUDY / "map" / f"tuned-{number}.json").read_text())
        for name, search in record["configurations"].items():
            tried.setdefault(name, []).extend(search["search_space"])
    at_boundary: dict[str, list[str]] = {}
    for name, trials in tried.items():
        best = max(trials, key=lambda trial: trial["all_classes_hm"])["values"]
        for key, value in best.items():
            values = {trial["values"][key] for trial in trials if key in trial["values"]}
            if len(values) > 1 and value in (min(values), max(values)):
                at_boundary.setdefault(name, []).append(key.rpartition(".")[2].replace("_", " "))
    text = " ".join((STUDY / "map" / "README.md").read_text(encoding="utf-8").split())
    (listed,) = re.findall(r"at a boundary of their range: (.*?)\. ", text)
    assert dict(re.findall(r"`([\w-]+)` \((.*?)\)", listed)) == {
        name: ", ".join(keys) for name, keys in at_boundary.items() if not name.endswith("all_real")
    }


HYPOTHESES = {
    "SYNC-CLIP over real images alone": ("syncclip-both", "ivlp-real"),
    "shared prompts over the naive mix": ("syncclip-shared", "ivlp-both"),
    "prompts of both domains over real-domain prompts": ("syncclip-both@both", "syncclip-both"),
    "class means over zero-shot CLIP": ("classmeans-both", "zeroshot"),
    "class means over IVLP on real images alone": ("classmeans-both", "ivlp-real"),
    "class means over the naive mix": ("classmeans-both", "ivlp-both"),
    "class means over SYNC-CLIP": ("classmeans-both", "syncclip-both"),
    "class means over prompts of both domains": ("classmeans-both", "syncclip-both@both"),
    "class means over shared prompts": ("classmeans-both", "syncclip-shared"),
    "class means over SYNC-CLIP with class vectors": ("classmeans-both", "syncclip-vectors"),
}
"""Row label in the page of the map -> configuration and baseline."""


@cache
def levels_of_the_map() -> dict[str, predictions.Recomputed]:
    return {folder.name: predictions.recompute(str(folder)) for folder in sorted((STUDY / "map").glob("names-*"))}


@pytest.mark.parametrize("numbers", ["mean", "largest number"])
def test_the_page_of_the_map_shows_the_gains_of_the_hypotheses(numbers: str) -> None:
    """Gains are bold if their interval excludes zero."""
    heading = f"gain in HM (all), {numbers}"
    rows = {row.pop(heading): row for row in rows_of("docs/results/map/README.md", heading)}
    expected: dict[str, Row] = {label: {} for label in HYPOTHESES}
    for level, study in levels_of_the_map().items():
        for label, (configuration, baseline) in HYPOTHESES.items():
            pairs = {
                pair.images_per_class: pair
                for pair in study.comparisons
                if (pair.configuration, pair.baseline, pair.unit) == (configuration, baseline, "classes")
                and pair.metric == "all_classes_hm"
            }
            selected = pairs[None if numbers == "mean" else max(amount for amount in pairs if amount)]
            gain = interval(selected.estimate, selected.low, selected.high)
            significant = selected.low > 0 or selected.high < 0
            expected[label][f"`{level}`"] = f"**{gain}**" if significant else gain
    assert rows == expected


TRENDS = {
    "class means": "classmeans-both",
    "SYNC-CLIP with class vectors": "syncclip-vectors",
    "linear probe": "probe-both",
    "Tip-Adapter": "tip-both",
    "SYNC-CLIP": "syncclip-both",
    "prompts of both domains": "syncclip-both@both",
    "shared prompts": "syncclip-shared",
    "naive mix": "ivlp-both",
}
"""Row label in the trend table of the map's page -> configuration."""


def test_the_page_of_the_map_shows_where_the_gains_change_their_sign() -> None:
    trends = {
        (trend["configuration"], trend["over"]): trend
        for trend in json.loads((STUDY / "map" / "map.json").read_text(encoding="utf-8"))["trends"]
        if trend["metric"] == "all_classes_hm" and trend["averaged_over"] == [1, 4, 16]
    }
    overs = {"zero-shot CLIP": "zero-shot", "real images only": "real"}
    rows = rows_of("docs/results/map/README.md", "trend of")
    assert [(row["trend of"], row["baseline"]) for row in rows] == [(name, over) for over in overs for name in TRENDS]
    for row in rows:
        trend = trends[TRENDS[row["trend of"]], overs[row["baseline"]]]
        slope = (trend["slope"][key] / 10 for key in ("estimate", "low", "high"))
        assert row["points per 0.1"] == interval(*slope)
        assert row["sign change"] == ("" if trend["crossing"] is None else f"{trend['crossing']:.2f}")
        for heading, key in (("significant gain", "gain_range"), ("significant loss", "loss_range")):
            assert row[heading] == " to ".join(f"{bound:.2f}" for bound in trend[key])


MAPPED = {
    "class means over zero-shot CLIP": ("classmeans-both", "zeroshot"),
    "SYNC-CLIP with class vectors over zero-shot CLIP": ("syncclip-vectors", "zeroshot"),
    "linear probe over zero-shot CLIP": ("probe-both", "zeroshot"),
    "SYNC-CLIP over zero-shot CLIP": ("syncclip-both", "zeroshot"),
    "IVLP, naive mix over zero-shot CLIP": ("ivlp-both", "zeroshot"),
    "SYNC-CLIP over IVLP, real only": ("syncclip-both", "ivlp-real"),
}
"""Row label in the README's table of the map -> configuration and baseline."""


def test_the_readme_shows_the_gains_of_the_map() -> None:
    table = pd.read_parquet(STUDY / "map" / "map.parquet")
    cells = table[(table["dataset"] == "") & (table["metric"] == "all_classes_hm")].to_dict("records")
    measured = json.loads((STUDY / "map" / "map.json").read_text(encoding="utf-8"))["levels"]
    expected: dict[str, Row] = {
        "name knowledge": {f"`{level}`": f"{knowledge:.2f}" for level, knowledge in measured.items()},
        "zero-shot CLIP, HM (all) in %": {
            f"`{cell['pretrained']}`": f"{cell['value']:.1f}" for cell in cells if cell["configuration"] == "zeroshot"
        },
    }
    for label, pair in MAPPED.items():
        expected[label] = {
            f"`{cell['pretrained']}`": interval(cell["gain"], cell["low"], cell["high"])
            for cell in cells
            if (cell["configuration"], cell["baseline"]) == pair and [*cell["averaged_over"]] == [1, 4, 16]
        }
    (levels_row,) = rows_of("docs/results/map/README.md", "level")
    assert levels_row.pop("level") == "name knowledge, training images"
    assert levels_row == expected["name knowledge"]
    heading = "gain in HM (all)"
    assert {row.pop(heading): row for row in rows_of("README.md", heading)} == expected


def test_the_map_is_derived_from_the_predictions() -> None:
    result = levels.recompute(str(STUDY / "map"))
    assert result.differ == []
    assert result.numbers > 100_000


AMOUNTS = (1, 2, 4, 8, 16, 32, 64)


@cache
def corrected(metric: str, selected: int = 16) -> dict[str, str]:
    """Gains of SYNC-CLIP over real images only, corrected for the selection among seven numbers of images.

    Returns:
        The `simultaneous` interval at the selected number (the 95 % quantile of the largest standardised deviation),
        and the `average` over the seven.
    """
    settings = Recipe.load(f"{STUDY}/recipe.yaml", own=False).study
    evidence = predictions.read(str(STUDY), settings.configurations, storage.read_owner(f"{STUDY}/study.json"))
    configurations = {configuration.name: configuration for configuration in settings.configurations}

    def of(configuration: str, amount: int | None) -> tuple[float, np.ndarray]:
        seeds, resamples = evidence.resampled(
            (configurations[configuration], amount), settings.seeds, "classes", settings.resamples
        )[metric]
        return float(seeds.mean()), resamples

    real, of_real = of("ivlp-real", None)
    ours = [of("syncclip-both", amount) for amount in AMOUNTS]
    gains, resamples = (
        np.array([mean - real for mean, _ in ours]),
        np.stack([resamples - of_real for _, resamples in ours]),
    )  # (7, R)
    spread = resamples.std(axis=1)
    reach = np.quantile((abs(resamples - gains[:, None]) / spread[:, None]).max(axis=0), 0.95)
    at = AMOUNTS.index(selected)

    return {
        "simultaneous": interval(gains[at], gains[at] - reach * spread[at], gains[at] + reach * spread[at]),
        "average": interval(gains.mean(), *np.quantile(resamples.mean(axis=0), [0.025, 0.975])),
    }


def test_the_page_of_results_corrects_for_the_selection_on_test_images() -> None:
    text = " ".join((STUDY / "README.md").read_text(encoding="utf-8").split())
    simultaneous = {metric: corrected(metric)["simultaneous"] for metric in ("novel", "hm", "all_classes_hm")}
    gains = gains_of(published(), None, ("ivlp-real", None))

    assert "novel {novel}, HM {hm}, HM (all) {all_classes_hm}".format(**simultaneous) in text
    assert max(AMOUNTS, key=lambda n: mean_of(published(), "syncclip-both", n)["hm"]) == 16
    assert all(corrected(metric)["average"] == gains[metric] for metric in ("novel", "hm", "all_classes_hm"))
    closed = json.loads((STUDY / "data_efficiency.json").read_text(encoding="utf-8"))["gap_closed"]
    shares = {
        metric: {key: 100 * value for key, value in closed[metric]["share"].items()}
        for metric in ("hm", "all_classes_hm")
    }
    share = "{estimate:.0f} % of the gap in HM (all) (95 % interval {low:.0f} to {high:.0f} %)"
    assert share.format(**shares["all_classes_hm"]) in text
    share = "{estimate:.0f} % of the gap in HM ({low:.0f} to {high:.0f} %)"
    assert share.format(**shares["hm"]).replace("-", "−") in text


def test_report_judges_the_average_gain_on_novel_classes() -> None:
    estimate, low, high = headline_average()
    gain = interval(estimate, low, high)
    headline = re.search(r"<h1>(.*?)</h1>", (STUDY / "report.html").read_text(encoding="utf-8"))

    assert low < 0 < high
    assert headline and "inconclusive: with 43 classes only differences above" in headline[1]
    assert all(number in headline[1] for number in re.findall(r"[+−][\d.]+", gain))


def test_the_readme_states_the_average_gains_on_icons() -> None:
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    gains = gains_of(published(), None, ("ivlp-real", None))
    assert "{novel} on novel classes, {hm} in HM and {all_classes_hm} in HM (all)".format(**gains) in text


def test_the_gain_map_is_derived_from_the_map(tmp_path: Path) -> None:
    shutil.copytree(STUDY / "map", tmp_path / "map")
    derive(tmp_path / "map", tmp_path / "gain_map.csv")
    assert (tmp_path / "gain_map.csv").read_text() == gain_prediction.MAP.read_text()


TARGETS = {"real images only": "over_real", "zero-shot CLIP": "over_zero_shot"}
"""Baseline in the page of `assess` -> column of the gain map."""


def test_the_page_of_assess_shows_the_errors_of_held_out_predictions() -> None:
    table = gain_prediction.installed_map()
    assert table is not None
    summary = gain_prediction.errors(gain_prediction.held_out(table)).to_dict("records")
    expected = {
        (row["left_out"], row["target"]): {
            "predictions": f"{row['predictions']:,}",
            "mean absolute error": f"{row['absolute_error']:.1f}",
            "of a constant": f"{row['constant_error']:.1f}",
            "coverage, %": f"{row['coverage']:.0f}",
            "rank correlation, mean": f"{row['rank_correlation']:.2f}",
            "minimum": f"{row['least_rank_correlation']:.2f}".replace("-", "−"),
            "correct sign, %": f"{row['same_sign']:.0f}",
        }
        for row in summary
        if row["configuration"] == gain_prediction.ALL_CONFIGURATIONS
    }
    rows = rows_of("docs/assess.md", "left out")
    assert {(row.pop("left out"), TARGETS[row.pop("gain over")]): row for row in rows} == expected
    assert all(float(row["coverage, %"]) >= 90 for row in rows)
