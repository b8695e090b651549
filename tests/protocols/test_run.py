"""Protocols on miniatures of their datasets, with the bundled models."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from syncclip.core.settings import UserError
from syncclip.datasets import DatasetSettings, load_dataset
from syncclip.datasets.packed import pack
from syncclip.protocols.protocols import PROTOCOLS, TRAINED
from syncclip.protocols.run import Reproduction, Request, recipe_of, reproduce
from syncclip.shards.writer import Sample, write_shard
from syncclip.studies.cells import CellRun
from syncclip.studies.run import ensure_set
from syncclip.synthesis.plan import write_plan
from syncclip.synthetic_sets.imported import import_set
from tests.worlds.dataset import encoded, make_image
from tests.worlds.literature import ADVERSARIAL, FEW, RENDITION, Miniatures, split_file_miniature

EMBEDDED = [
    "backbone.name=icons",
    "backbone.pretrained=null",
    "backbone.precision=fp32",
    "synthesis.num_gpus=0",
    "synthesis.generator={pipeline: icons, steps: 1, batch_size: 4}",
    "study.cpus=1",
    "study.gpus=0",
    "study.images_per_class=[2]",
    "training.epochs=1",
    "methods.promptsrc.aggregation_mean=1",
    "dataset.template=a {}.",
]
"""One epoch of the bundled models on one core; a short template, since the bundled CLIP reads 16 tokens."""
GENERATED = "eurosat"
"""Dataset with generated images; those of all others are drawn, which is faster."""


@pytest.fixture(scope="module")
def root(miniatures: Miniatures, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The miniatures, with names of cars that are short enough for the bundled CLIP."""
    folder = tmp_path_factory.mktemp("short") / "data"
    shutil.copytree(miniatures.root, folder)
    split = folder / "stanford_cars" / "split_zhou_StanfordCars.json"
    split.write_text(re.sub(r'"(\d{4}) (\w+) [^"]+"', r'"\2 \1"', split.read_text()))
    return str(folder)


def draw_set(root: str, name: str, url: str) -> None:
    """Write a synthetic dataset with drawn images instead of those that `reproduce` would generate."""
    from syncclip.synthesis.generators.weights import locate
    from syncclip.synthetic_sets import prepare

    recipe = recipe_of(PROTOCOLS["base-to-novel"], name, root, overrides=EMBEDDED)
    plan = prepare.plan(recipe.with_values({"synthesis.images_per_class": 2}))
    plan = write_plan(plan.model_copy(update={"weights": locate(plan.generator).fingerprint}), url)
    for shard in plan.shards():
        entries = map(plan.entry, plan.shard_range(shard))
        samples = [Sample(e.index, e.label, encoded(make_image(e.label, 50 + e.index)), e.prompt) for e in entries]
        write_shard(url, shard, samples, owner=plan.owner)


@pytest.fixture(scope="module")
def out(root: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of all protocols, with drawn synthetic datasets for all but one dataset."""
    folder = tmp_path_factory.mktemp("reproduction")
    for name in TRAINED:
        if name != GENERATED:
            draw_set(root, name, str(folder / name / "synthetic"))
    return folder


@pytest.fixture(scope="module")
def base_to_novel(root: str, out: Path, ray_cluster: None) -> Reproduction:
    """Base to novel on eleven datasets with three seeds, shared by the tests."""
    return run("base-to-novel", root, out, methods=["zeroshot", "syncclip"])


def run(
    protocol: str,
    root: str,
    out: Path,
    *overrides: str,
    datasets: Sequence[str] = (),
    methods: Sequence[str] = (),
) -> Reproduction:
    return reproduce(Request(protocol, root, datasets, methods, str(out), overrides=[*EMBEDDED, *overrides]))


def stamps(out: Path) -> dict[str, int]:
    """Modification time of each run's prompts."""
    return {str(path): path.stat().st_mtime_ns for path in out.glob("*/*/cells/*/prompts.safetensors")}


@pytest.mark.slow
@pytest.mark.ray
class TestOnRay:
    """Tests that share a folder and its runs."""

    def test_base_to_novel_runs_on_all_datasets_and_seeds(self, base_to_novel: Reproduction, out: Path) -> None:
        table = base_to_novel.table
        assert len(table) == 11 * (1 + 3)
        assert set(table["status"]) == {"done"}
        assert set(table["trained_on"]) == set(TRAINED)
        assert table[["base", "novel", "hm"]].notna().all(axis=None)
        assert (out / GENERATED / "synthetic" / "00000_stats.json").is_file()
        page = Path(base_to_novel.page).read_text()
        assert "44 of 44 tests are finished." in page
        assert "69.34" in page, "the published average"

    def test_further_calls_use_the_same_runs(self, base_to_novel: Reproduction, root: str, out: Path) -> None:
        before = stamps(out)
        repeated = run("base-to-novel", root, out, methods=["zeroshot", "syncclip"])
        open_vocabulary = run("open-vocabulary", root, out, methods=["zeroshot", "syncclip"]).table
        assert stamps(out) == before
        pd.testing.assert_frame_equal(repeated.table, base_to_novel.table)
        assert set(open_vocabulary["status"]) == {"done"}
        assert (open_vocabulary["all_classes_base"] <= repeated.table["base"]).all(), "there are more candidates"

    def test_few_shot_has_accuracies_over_all_classes(self, root: str, out: Path) -> None:
        table = run("few-shot", root, out, "study.seeds=[1]", datasets=["dtd"]).table
        assert sorted(table["shots"].unique()) == [1, 2, 4, 8, 16]
        assert len(table) == 1 + 3 * 5
        assert table["all_classes_accuracy"].notna().all()

    def test_prompts_of_imagenet_are_tested_on_other_datasets_and_variants(self, root: str, out: Path) -> None:
        table = run("cross-dataset", root, out, "study.seeds=[1]", methods=["maple", "syncclip"]).table
        assert len(table) == 2 * 11
        assert table["all_classes_accuracy"].notna().all()
        before = stamps(out)
        variants = run("domain-generalisation", root, out, "study.seeds=[1]", methods=["maple", "syncclip"])
        assert stamps(out) == before, "the same prompts are tested on the variants"
        expected = ["imagenet", *(f"imagenet_{variant}" for variant in ("v2", "sketch", "a", "r"))]
        assert list(variants.table["tested_on"].unique()) == expected
        for name, candidates in (("imagenet_a", ADVERSARIAL), ("imagenet_r", RENDITION)):
            runs = [*out.glob(f"imagenet/transfer/cells/*/transfer/{name}/predictions.parquet")]
            assert len(runs) == 2
            for path in runs:
                assert set(pd.read_parquet(path)["all_classes_prediction"]) <= set(candidates)

    @pytest.mark.parametrize(
        ("protocol", "overrides", "methods", "runs"),
        [
            ("losses", [], ["syncclip"], 11),
            ("data-use", [], ["zeroshot", "cocoop", "kgcoop", "maple"], 10),
            ("growing", ["study.images_per_class=[1, 2]"], ["zeroshot", "syncclip"], 3),
        ],
    )
    def test_studies_of_the_paper_run(
        self, root: str, out: Path, protocol: str, overrides: list[str], methods: list[str], runs: int
    ) -> None:
        table = run(protocol, root, out, "study.seeds=[1]", *overrides, datasets=["dtd"], methods=methods).table
        assert (len(table), set(table["status"])) == (runs, {"done"})

    def test_imported_synthetic_dataset_is_used(self, root: str, tmp_path: Path) -> None:
        source_set = split_file_miniature(tmp_path / "dalle", "eurosat", seed=9)
        source = tmp_path / "dalle" / "eurosat" / "split_zhou_EuroSAT.json"
        real = load_dataset(DatasetSettings(name="eurosat", root=root))
        import_set(str(source), real, str(tmp_path / "sets" / "eurosat"))
        assert len(source_set.items["train"]) == 6 * 2 + FEW
        folders = str(tmp_path / "out"), str(tmp_path / "sets")
        overrides = [*EMBEDDED, "study.seeds=[1]"]
        done = reproduce(Request("base-to-novel", root, ["eurosat"], ["syncclip"], *folders, overrides))
        assert list(done.table["status"]) == ["done"]
        assert not (tmp_path / "out" / "eurosat" / "synthetic").exists(), "no image was generated"


def test_failed_runs_are_reported_after_the_tables_are_written(
    miniatures: Miniatures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(runs: Sequence[CellRun], *_: object, **__: object) -> tuple[list[CellRun], dict[str, float]]:
        return [replace(run, status="failed", error="no memory") for run in runs], {}

    monkeypatch.setattr("syncclip.protocols.run.run_cells", failing)
    with pytest.raises(UserError, match=r"1 of 1 training runs failed in .*; dtd zeroshot: no memory"):
        run("base-to-novel", str(miniatures.root), tmp_path, datasets=["dtd"], methods=["zeroshot"])
    assert "1 are missing" in (tmp_path / "base-to-novel.md").read_text()
    assert list(pd.read_parquet(tmp_path / "base-to-novel.parquet")["status"]) == ["failed"]
    assert (tmp_path / "dtd" / "base_to_novel" / "study.parquet").is_file()


def test_missing_datasets_are_reported_before_anything_is_generated(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"11 of 11 datasets can't be read; imagenet: .*also: caltech101, .*--dataset"):
        reproduce(Request("base-to-novel", str(tmp_path), out=str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()


def test_shots_that_were_not_packed_are_reported_before_anything_is_generated(
    miniatures: Miniatures, tmp_path: Path
) -> None:
    pack(load_dataset(DatasetSettings(name="dtd", root=str(miniatures.root))), str(tmp_path / "dtd"), [1, 2], [1])
    with pytest.raises(UserError, match=r"not packed; pack the dataset again with --shots 1 --seeds 2"):
        reproduce(Request("few-shot", str(tmp_path), ["dtd"], out=str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()


def test_missing_folder_or_unknown_dataset_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^nowhere: dataset folder not found"):
        reproduce(Request("base-to-novel", "nowhere"))
    with pytest.raises(UserError, match=r"cross-dataset does not train on 'dtd'; available: imagenet"):
        reproduce(Request("cross-dataset", str(tmp_path), ["dtd"]))


def test_missing_synthetic_dataset_is_an_error(miniatures: Miniatures, tmp_path: Path) -> None:
    recipe = recipe_of(PROTOCOLS["base-to-novel"], "dtd", str(miniatures.root), overrides=EMBEDDED)
    with pytest.raises(UserError, match="there is no synthetic dataset"):
        ensure_set(recipe.with_values({"training.synthetic": str(tmp_path / "dtd")}), None)
