"""docs/reproduce.md matches recipes and commands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks.hours import ASSUMED, Assumed, Training, grids, load
from syncclip.protocols.protocols import AVERAGE, PROTOCOLS, published
from syncclip.protocols.run import recipe_of
from syncclip.recipe.recipe import Recipe
from tests.cli.test_app import Outcome

PAGE = (Path(__file__).parents[2] / "docs" / "reproduce.md").read_text(encoding="utf-8")


def table(heading: str) -> list[list[str]]:
    """Rows of the table whose headings begin with `heading`."""
    _, match, rest = PAGE.partition(f"\n| {heading}")
    assert match, heading
    lines = rest.partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines]


@pytest.mark.slow
def test_estimate_matches_the_command() -> None:
    for grid in grids(ASSUMED):
        assert grid in PAGE


@pytest.mark.slow
def test_numbers_of_runs_match_the_protocols() -> None:
    reported = {name: runs for name, _, runs, _ in table("protocol | description")}
    assert list(reported) == list(PROTOCOLS)
    counted = {name: load(protocol).runs for name, protocol in PROTOCOLS.items()}
    assert {name: int(runs) for name, runs in reported.items() if runs != "the same"} == {
        name: runs for name, runs in counted.items() if reported[name] != "the same"
    }
    for name, runs in reported.items():
        first = next(other for other, protocol in PROTOCOLS.items() if protocol.runs == PROTOCOLS[name].runs)
        assert (runs == "the same") == (first != name)


def test_estimated_hours_are_those_of_the_publication() -> None:
    trainings = [training for training in load(PROTOCOLS["base-to-novel"]).trainings if training.method == "promptsrc"]
    imagenet = [training for training in trainings if training.dataset == "imagenet"]
    assert sum(training.steps for training in imagenet) == 3 * 40_000
    assert sum(training.hours(ASSUMED) for training in imagenet) == pytest.approx(18, abs=0.1)
    assert sum(training.hours(ASSUMED) for training in trainings) == pytest.approx(18 + 8, abs=0.1)


def test_estimated_steps_are_those_of_a_training() -> None:
    # DTD: 24 base classes of 16 images in batches of 8, 10 epochs, 3 seeds; each real image has two synthetic ones.
    assert Training("dtd", "syncclip", 3 * 10 * 24 * 16 // 8, 24) in load(PROTOCOLS["base-to-novel"]).trainings
    # EuroSAT for KgCoOp: 80 images in batches of 128 are one filled batch.
    assert Training("eurosat", "kgcoop", 3 * 100, 128) in load(PROTOCOLS["data-use"]).trainings
    assert Training("eurosat", "coop", 1, 32).hours(Assumed()) == pytest.approx(32 * 0.006 / 3600)


def test_settings_of_datasets_match_their_recipes() -> None:
    for name, *reported in table("| epochs | `synthetic_weight`"):
        recipe = Recipe.load(f"datasets/{name}")
        settings = recipe.methods.syncclip
        expected = [recipe.training.epochs, settings.synthetic_weight, settings.alignment_weight]
        assert [float(number) for number in reported] == expected, name


def test_settings_of_methods_match_the_recipe() -> None:
    recipe = recipe_of(PROTOCOLS["data-use"], "dtd", "/data")
    configurations = {configuration.method: configuration for configuration in recipe.study.configurations}
    for method, epochs, batch, rate, _ in table("| epochs | batch"):
        run = recipe.with_values({"training.method": method, **configurations[method].overrides})
        reported = (int(epochs.partition(";")[0]), int(batch.partition(";")[0]), float(rate))
        assert reported == (run.training.epochs, run.training.batch_size, run.methods.of(method).learning_rate), method


def test_published_results_match_the_package() -> None:
    reported = {name: numbers[:3] for name, *numbers in table("| base | novel | HM | source |")}
    names = {"CLIP zero-shot": "zeroshot", "CoOp": "coop", "CoCoOp": "cocoop", "MaPLe": "maple", "IVLP": "ivlp",
             "PromptSRC": "promptsrc", "MMA": "mma", "2SFS": "twostage", "MMRL": "mmrl", "TCP": "tcp",
             "VPT, on real images of `data-use": "vpt",
             "KgCoOp, on real images of `data-use": "kgcoop"}  # fmt: skip
    for name, method in names.items():
        figures = published().of("data-use", AVERAGE, method)
        assert [float(number) for number in reported[name]] == [figures[key] for key in ("base", "novel", "hm")]
        assert published().of("base-to-novel", AVERAGE, method) in (figures, {})


def test_plan_of_imagenet_matches_the_command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A thousand classes with one image each."""
    names = [f"n{number:08d}" for number in range(1000)]
    for split in ("train", "val"):
        for name in names:
            folder = tmp_path / "imagenet" / "images" / split / name
            folder.mkdir(parents=True)
            (folder / "1.JPEG").write_bytes(b"")
    (tmp_path / "imagenet" / "classnames.txt").write_text("".join(f"{name} thing {name}\n" for name in names))
    (line,) = re.findall(r"^syncclip (plan .* --throughput .*)$", PAGE, re.MULTILINE)
    outcome = Outcome(capsys, *line.replace("/data", str(tmp_path)).split())
    assert outcome.status == 0, outcome.err
    shown = PAGE.partition("The second command prints")[2].split("```")[1].strip().splitlines()
    assert len(shown) == 5
    assert [line for line in shown if line not in outcome.out.splitlines()] == []
