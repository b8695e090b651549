"""The published study files and the tables of the pages follow from the published predictions."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from syncclip import storage
from syncclip.evaluation.metrics import METRIC_HEADINGS
from syncclip.recipe.recipe import Recipe
from syncclip.studies import analysis, predictions

pytestmark = [pytest.mark.nightly, pytest.mark.slow]

ROOT = Path(__file__).parents[1]
STUDY = ROOT / "docs" / "results"
PAGES = "README.md", "docs/results/README.md"
METRIC = {heading: name for name, heading in METRIC_HEADINGS.items()}
CONFIGURATIONS: dict[str, tuple[str, int | None]] = {
    "zero-shot CLIP": ("zeroshot", None),
    "IVLP, real only": ("ivlp-real", None),
    "IVLP, naive mix with 64": ("ivlp-both", 64),
    "SYNC-CLIP, prompts shared with 64": ("syncclip-shared", 64),
    "IVLP, real images of all classes": ("ivlp-all_real", None),
    **{f"SYNC-CLIP with {amount}": ("syncclip-both", amount) for amount in (1, 2, 4, 8, 16, 32, 64)},
}
"""Row label in the pages -> configuration and images per class."""

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


def mean_of(found: predictions.Recomputed, configuration: str, amount: int | None) -> dict[str, float]:
    """Metric -> mean of a configuration at a number of images per class."""
    amounts = found.means["images_per_class"].fillna(0).astype(int)
    (one,) = found.means[(found.means["configuration"] == configuration) & (amounts == (amount or 0))].to_dict(
        "records"
    )
    return one


def gains_of(
    found: predictions.Recomputed, amount: int, baseline: tuple[str, int | None], of: str = "syncclip-both"
) -> Row:
    """Metric -> gain of a configuration, formatted as in the pages."""
    return {
        pair.metric: f"{pair.estimate:+.1f} ({pair.low:+.1f} to {pair.high:+.1f})".replace("-", "−")
        for pair in found.comparisons
        if (pair.configuration, pair.images_per_class, pair.unit) == (of, amount, "classes")
        and (pair.baseline, pair.baseline_images_per_class) == baseline
    }


def rows_of(page: str, heading: str) -> list[Row]:
    """Rows of the page's tables with this first heading, as heading -> cell."""
    rows: list[Row] = []
    for block in re.findall(r"(?:^\|.*\|\n)+", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE):
        headings, _, *lines = ([cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines())
        if headings[0] == heading:
            rows += [dict(zip(headings, line, strict=True)) for line in lines]
    return rows


def test_study_files_follow_from_the_predictions() -> None:
    assert published().differ == []
    assert published().numbers > 1000


@pytest.mark.parametrize("page", PAGES)
def test_means_follow_from_the_predictions(page: str) -> None:
    rows = rows_of(page, "method")

    labels = {row["method"] for row in rows}
    assert labels >= set(CONFIGURATIONS) - {f"SYNC-CLIP with {amount}" for amount in (2, 8, 32)}
    for row in rows:
        configuration, amount = CONFIGURATIONS[row.pop("method")]
        one = mean_of(published(), configuration, amount)
        assert row == {heading: f"{one[METRIC[heading]]:.1f}" for heading in row}, configuration


@pytest.mark.parametrize(("page", "amount"), [("README.md", 16), *(("docs/results/README.md", n) for n in (16, 64))])
def test_gains_follow_from_the_predictions(page: str, amount: int) -> None:
    heading = f"SYNC-CLIP with {amount} over"
    rows = rows_of(page, heading)

    assert rows
    for row in rows:
        baseline = CONFIGURATIONS[row.pop(heading)]
        found = gains_of(published(), amount, baseline)
        assert row == {title: found[METRIC[title]] for title in row}, baseline


@pytest.mark.parametrize("images", ["rendered", "generated", "two steps"])
def test_page_of_gaps_follows_from_the_predictions(images: str) -> None:
    found = published(f"gap/{images.replace(' ', '_')}")
    names = {
        "SYNC-CLIP": "syncclip-both",
        "SYNC-CLIP, prompts shared": "syncclip-shared",
        "IVLP, naive mix": "ivlp-both",
    }
    rows = [row for row in rows_of("docs/results/gap/README.md", "images") if row.pop("images") == images]

    assert found.differ == [] and len(rows) == 5
    for row in rows:
        if "method" in row:
            one = mean_of(found, names[row.pop("method")], 16)
            expected = {title: f"{one[METRIC[title]]:.1f}" for title in row if title != "gap"}
        else:
            gains = gains_of(found, 16, (names[row.pop("SYNC-CLIP over")], 16))
            expected = {title: gains[METRIC[title]] for title in row}
        assert expected.items() <= row.items()


def test_page_of_ablations_follows_from_the_predictions() -> None:
    found = published("losses")
    rows = rows_of("docs/results/losses/README.md", "method")

    assert found.differ == []
    assert {row["method"] for row in rows} == set(ABLATIONS)
    for row in rows:
        configuration = ABLATIONS[row.pop("method")]
        one = mean_of(found, configuration, None if configuration == "real-only" else 16)
        expected = {heading: f"{one[METRIC[heading]]:.1f}" for heading in ("base", "novel", "HM", "HM (all)")}
        expected |= {"gain of SYNC-CLIP, HM": "", "gain, HM (all)": ""}
        if configuration != "syncclip":
            gains = gains_of(found, 16, (configuration, None if configuration == "real-only" else 16), of="syncclip")
            expected |= {"gain of SYNC-CLIP, HM": gains["hm"], "gain, HM (all)": gains["all_classes_hm"]}
        assert row == expected, configuration


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
def test_means_by_data_follow_from_the_predictions(study: str, methods: int, metric: str) -> None:
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


def test_gains_of_data_use_follow_from_the_predictions() -> None:
    found = published("data_use")
    heading = "SYNC-CLIP on both over"
    rows = rows_of("docs/results/data_use/README.md", heading)

    assert found.differ == [] and len(rows) == 13
    for row in rows:
        name = row.pop(heading)
        gains = gains_of(found, 16, configuration_of(name))
        assert row == {title: gains[METRIC[title]] for title in row}, name


@pytest.mark.parametrize("metric", ["HM", "HM (all)"])
def test_gains_of_methods_follow_from_the_predictions(metric: str) -> None:
    found = published("methods")
    heading = f"{metric} of SYNC-CLIP on both, above"
    rows = rows_of("docs/results/methods/README.md", heading)

    assert found.differ == [] and [row[heading] for row in rows] == list(METHODS)
    for row in rows:
        method = row.pop(heading)
        for data, shown in row.items():
            if (method, data) in (("SYNC-CLIP", "both"), ("PromptKD", "real")):
                assert shown == "–"
            else:
                assert shown == gains_of(found, 16, configuration_of(f"{method} on {data}"))[METRIC[metric]], (
                    method,
                    data,
                )


def test_gains_of_distillation_and_domains_follow_from_the_predictions() -> None:
    """These differences have other reference configurations than the study."""
    url = str(STUDY / "methods")
    study = Recipe.load(f"{url}/recipe.yaml").study
    rows = rows_of("docs/results/methods/README.md", "comparison")

    assert len(rows) == 7
    for row in rows:
        ours, theirs = map(configuration_of, row.pop("comparison").split(" over "))
        configurations = [
            configuration for configuration in study.configurations if configuration.name in (ours[0], theirs[0])
        ]
        settings = study.model_copy(update={"reference": ours[0], "configurations": configurations})
        pairs = analysis.comparisons(
            predictions.read(url, configurations, storage.read_owner(f"{url}/study.json")), settings
        )
        assert row == {
            title: f"{pair.estimate:+.1f} ({pair.low:+.1f} to {pair.high:+.1f})".replace("-", "−")
            for title in row
            for pair in pairs
            if (pair.metric, pair.unit, pair.baseline) == (METRIC[title], "classes", theirs[0])
        }


def test_means_of_distillation_and_domains_follow_from_the_predictions() -> None:
    rows = rows_of("docs/results/methods/README.md", "on both")

    assert {row["on both"] for row in rows} > set(FURTHER)
    for row in rows:
        name = row.pop("on both")
        mean = mean_of(published("methods"), *configuration_of(name if name in FURTHER else f"{name} on both"))
        assert row == {heading: f"{mean[METRIC[heading]]:.1f}" for heading in row}, name


def test_page_shows_every_tuned_learning_rate() -> None:
    found = json.loads((STUDY / "methods" / "tuned.json").read_text())
    page = "docs/results/methods/README.md"
    rates = {row["method"].strip("`"): row["learning rate: HM (all)"] for row in rows_of(page, "method")}
    methods = Recipe.load("studies/methods").methods
    for configuration, tried in found["configurations"].items():
        name = configuration.partition("-")[0]
        pairs = [(*one["values"].values(), one["all_classes_hm"]) for one in tried]
        rate, best = max(pairs, key=lambda pair: pair[1])
        shown = [f"**{rate:g}: {score:.1f}**" if score == best else f"{rate:g}: {score:.1f}" for rate, score in pairs]
        assert rates.pop(name) == ", ".join(shown)
        assert methods.of(name).learning_rate == rate
    assert not rates


@pytest.mark.parametrize(
    ("tried", "heading", "best"),
    [
        ("distilled", "distilled SYNC-CLIP", {"weight 1, synthetic_weight 0.5": "syncclip-distilled"}),
        (
            "domain_specific",
            "domain-specific parts",
            {"CLIP-LoRA, domain_rank 2": "cliplora-domains", "MMRL, domain_tokens 2, rate 0.01": "mmrl-domains"},
        ),
    ],
)
def test_page_shows_the_search_for_distillation_and_domains(tried: str, heading: str, best: dict[str, str]) -> None:
    found = json.loads((STUDY / "methods" / "tuned.json").read_text())[tried]
    rows = {row.pop(heading): row for row in rows_of("docs/results/methods/README.md", heading)}
    shown = {heading: name for heading, name in METRIC.items() if name in next(iter(found.values()))}
    configurations = {
        configuration.name: configuration.overrides
        for configuration in Recipe.load("studies/methods").study.configurations
    }

    assert rows == {
        name: {heading: f"{one[metric]:.1f}" for heading, metric in shown.items()}
        | ({"seeds": str(one["seeds"])} if "seeds" in one else {})
        for name, one in found.items()
    }
    for label, configuration in best.items():
        rivals = [one for name, one in found.items() if name[:4] == label[:4] and one.get("seeds", 2) > 1]
        assert max(rivals, key=lambda one: one["all_classes_hm"]) == found[label]
        assert {*configurations[configuration].values()} == TUNED_VALUES[label]


AMOUNTS = (1, 2, 4, 8, 16, 32, 64)


@cache
def drawn(metric: str, selected: int = 16) -> dict[str, str]:
    """Gains of SYNC-CLIP over real images only, corrected for the selection among seven numbers of images.

    Returns:
        As in the pages: the `simultaneous` interval at the selected number (each deviation in units of its spread stays
        below the 95 % quantile of the largest one), the `average` over the seven, and the `share` of the gap to IVLP
        on real images of all classes.
    """
    settings = Recipe.load(f"{STUDY}/recipe.yaml", own=False).study
    evidence = predictions.read(str(STUDY), settings.configurations, storage.read_owner(f"{STUDY}/study.json"))
    configurations = {configuration.name: configuration for configuration in settings.configurations}

    def of(configuration: str, amount: int | None) -> tuple[float, np.ndarray]:
        seeds, resamples = evidence.resampled(
            (configurations[configuration], amount), settings.seeds, "classes", settings.resamples
        )[metric]
        return float(seeds.mean()), resamples

    (real, of_real), (every, of_every) = of("ivlp-real", None), of("ivlp-all_real", None)
    ours = [of("syncclip-both", amount) for amount in AMOUNTS]
    gains, resamples = (
        np.array([mean - real for mean, _ in ours]),
        np.stack([one - of_real for _, one in ours]),
    )  # (7, R)
    spread = resamples.std(axis=1)
    reach = np.quantile((abs(resamples - gains[:, None]) / spread[:, None]).max(axis=0), 0.95)
    at = AMOUNTS.index(selected)

    def text(estimate: float, low: float, high: float) -> str:
        return f"{estimate:+.1f} ({low:+.1f} to {high:+.1f})".replace("-", "−")

    share, shares = gains[at] / (every - real), np.quantile(resamples[at] / (of_every - of_real), [0.025, 0.975])
    return {
        "simultaneous": text(gains[at], gains[at] - reach * spread[at], gains[at] + reach * spread[at]),
        "average": text(gains.mean(), *np.quantile(resamples.mean(axis=0), [0.025, 0.975])),
        "share": f"{share:.2f}, 95 % interval {shares[0]:.2f} to {shares[1]:.2f}",
    }


@pytest.mark.parametrize("page", PAGES)
def test_pages_correct_for_the_selection_on_test_images(page: str) -> None:
    text = " ".join((ROOT / page).read_text(encoding="utf-8").split())
    simultaneous, average = (
        {metric: drawn(metric)[kind] for metric in ("novel", "hm", "all_classes_hm")}
        for kind in ("simultaneous", "average")
    )

    assert "novel {novel}, HM {hm}, HM (all) {all_classes_hm}".format(**simultaneous) in text
    assert "{novel} on novel classes, {hm} in HM and {all_classes_hm} in HM (all)".format(**average) in text
    assert f"({drawn('hm')['share']}" in text
    assert max(AMOUNTS, key=lambda n: mean_of(published(), "syncclip-both", n)["hm"]) == 16


def test_the_readme_states_the_headline_of_its_picture() -> None:
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    gain = gains_of(published(), 64, ("ivlp-real", None))["all_classes_novel"]
    headline = re.search(r"<h1>(.*?)</h1>", (STUDY / "report.html").read_text(encoding="utf-8"))

    assert headline and gain.split()[0] in headline[1] and "No significant effect" in headline[1]
    assert f"novel classes among all classes is {gain} and not significant" in text
