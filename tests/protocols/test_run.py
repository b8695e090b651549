"""Every protocol on miniatures of the literature's datasets, with the embedded models."""

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
"""One epoch of the embedded models on one core; a short template, for the embedded CLIP reads 16 tokens."""
DRAWN = "eurosat"
"""The one dataset whose images are generated; those of the others are painted, which is faster."""


@pytest.fixture(scope="module")
def root(miniatures: Miniatures, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The miniatures, with names of cars that the embedded CLIP can read."""
    folder = tmp_path_factory.mktemp("short") / "data"
    shutil.copytree(miniatures.root, folder)
    split = folder / "stanford_cars" / "split_zhou_StanfordCars.json"
    split.write_text(re.sub(r'"(\d{4}) (\w+) [^"]+"', r'"\2 \1"', split.read_text()))
    return str(folder)


def paint(root: str, name: str, url: str) -> None:
    """Put the set that `reproduce` would draw where it would be drawn, its images painted."""
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
    """The folder of all protocols, with painted sets of all datasets but one."""
    folder = tmp_path_factory.mktemp("reproduction")
    for name in TRAINED:
        if name != DRAWN:
            paint(root, name, str(folder / name / "synthetic"))
    return folder


@pytest.fixture(scope="module")
def halves(root: str, out: Path, ray_cluster: None) -> Reproduction:
    """Base to novel on all eleven datasets and three seeds, made once."""
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
    """When the prompts of each run were written."""
    return {str(path): path.stat().st_mtime_ns for path in out.glob("*/*/cells/*/prompts.safetensors")}


@pytest.mark.slow
@pytest.mark.ray
class TestOnRay:
    """They share a folder, and so what was run before."""

    def test_base_to_novel_runs_on_all_data_sets_and_seeds(self, halves: Reproduction, out: Path) -> None:
        table = halves.table
        assert len(table) == 11 * (1 + 3)
        assert set(table["status"]) == {"done"}
        assert set(table["trained_on"]) == set(TRAINED)
        assert table[["base", "novel", "hm"]].notna().all(axis=None)
        assert (out / DRAWN / "synthetic" / "00000_stats.json").is_file()
        page = Path(halves.page).read_text()
        assert "44 of 44 tests are finished." in page
        assert "69.34" in page, "the published average stands beside ours"

    def test_open_vocabulary_reads_the_same_runs(self, halves: Reproduction, root: str, out: Path) -> None:
        before = stamps(out)
        opened = run("open-vocabulary", root, out, methods=["zeroshot", "syncclip"])
        assert stamps(out) == before
        assert set(opened.table["status"]) == {"done"}
        assert (opened.table["all_classes_base"] <= halves.table["base"]).all(), "more candidates are never easier"

    def test_a_second_call_runs_nothing_again(self, halves: Reproduction, root: str, out: Path) -> None:
        before = stamps(out)
        again = run("base-to-novel", root, out, methods=["zeroshot", "syncclip"])
        assert stamps(out) == before
        pd.testing.assert_frame_equal(again.table, halves.table)

    def test_few_shot_curves_have_no_novel_class(self, root: str, out: Path) -> None:
        made = run("few-shot", root, out, "study.seeds=[1]", datasets=["dtd"])
        assert sorted(made.table["shots"].unique()) == [1, 2, 4, 8, 16]
        assert len(made.table) == 1 + 3 * 5
        assert made.table["all_classes_accuracy"].notna().all()

    def test_what_imagenet_taught_is_tested_on_the_others(self, root: str, out: Path) -> None:
        made = run("cross-dataset", root, out, "study.seeds=[1]", methods=["maple", "syncclip"])
        assert len(made.table) == 2 * 11
        assert made.table["all_classes_accuracy"].notna().all()
        before = stamps(out)
        variants = run("domain-generalisation", root, out, "study.seeds=[1]", methods=["maple", "syncclip"])
        assert stamps(out) == before, "the same prompts are tested on the variants"
        assert list(variants.table["tested_on"].unique()) == [
            "imagenet",
            "imagenet_v2",
            "imagenet_sketch",
            "imagenet_a",
            "imagenet_r",
        ]
        for name, candidates in (("imagenet_a", ADVERSARIAL), ("imagenet_r", RENDITION)):
            runs = [*out.glob(f"imagenet/transfer/cells/*/transfer/{name}/predictions.parquet")]
            assert len(runs) == 2
            for one in runs:
                assert set(pd.read_parquet(one)["all_classes_prediction"]) <= set(candidates)

    @pytest.mark.parametrize(
        ("protocol", "overrides", "methods", "runs"),
        [
            ("losses", [], ["syncclip"], 11),
            ("data-use", [], ["zeroshot", "cocoop", "kgcoop", "maple"], 10),
            ("growing", ["study.images_per_class=[1, 2]"], ["zeroshot", "syncclip"], 3),
        ],
    )
    def test_the_papers_studies_run_on_a_data_set(
        self, root: str, out: Path, protocol: str, overrides: list[str], methods: list[str], runs: int
    ) -> None:
        made = run(protocol, root, out, "study.seeds=[1]", *overrides, datasets=["dtd"], methods=methods)
        assert (len(made.table), set(made.table["status"])) == (runs, {"done"})

    def test_a_set_of_others_stands_in_for_our_own(self, root: str, tmp_path: Path) -> None:
        made = split_file_miniature(tmp_path / "dalle", "eurosat", seed=9)
        source = tmp_path / "dalle" / "eurosat" / "split_zhou_EuroSAT.json"
        real = load_dataset(DatasetSettings(name="eurosat", root=root))
        import_set(str(source), real, str(tmp_path / "sets" / "eurosat"))
        assert len(made.items["train"]) == 6 * 2 + FEW
        asked = Request(
            "base-to-novel",
            root,
            ["eurosat"],
            ["syncclip"],
            str(tmp_path / "out"),
            str(tmp_path / "sets"),
            [*EMBEDDED, "study.seeds=[1]"],
        )
        done = reproduce(asked)
        assert list(done.table["status"]) == ["done"]
        assert not (tmp_path / "out" / "eurosat" / "synthetic").exists(), "nothing was drawn"


def test_runs_that_fail_are_named_after_the_tables_of_all_others_are_written(
    miniatures: Miniatures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(runs: Sequence[CellRun], *_: object, **__: object) -> tuple[list[CellRun], dict[str, float]]:
        return [replace(one, status="failed", error="no memory") for one in runs], {}

    monkeypatch.setattr("syncclip.protocols.run.run_cells", failing)
    with pytest.raises(UserError, match=r"1 of 1 trainings failed in .*; dtd zeroshot: no memory"):
        run("base-to-novel", str(miniatures.root), tmp_path, datasets=["dtd"], methods=["zeroshot"])
    assert "1 are missing" in (tmp_path / "base-to-novel.md").read_text()
    assert list(pd.read_parquet(tmp_path / "base-to-novel.parquet")["status"]) == ["failed"]
    assert (tmp_path / "dtd" / "base_to_novel" / "study.parquet").is_file()


def test_data_that_is_missing_is_told_before_anything_is_drawn(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"11 of 11 datasets can't be read; imagenet: .*also: caltech101, .*--dataset"):
        reproduce(Request("base-to-novel", str(tmp_path), out=str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()


def test_shots_that_were_not_packed_are_told_before_anything_is_drawn(miniatures: Miniatures, tmp_path: Path) -> None:
    pack(load_dataset(DatasetSettings(name="dtd", root=str(miniatures.root))), str(tmp_path / "dtd"), [1, 2], [1])
    with pytest.raises(UserError, match=r"not packed; pack it again with --shots 1 --seeds 2"):
        reproduce(Request("few-shot", str(tmp_path), ["dtd"], out=str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()


def test_a_missing_folder_of_all_data_sets_is_told_once() -> None:
    with pytest.raises(UserError, match=r"^nowhere: dataset folder not found"):
        reproduce(Request("base-to-novel", "nowhere"))


def test_a_data_set_that_a_protocol_does_not_train_on_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cross-dataset does not train on 'dtd'; there are imagenet"):
        reproduce(Request("cross-dataset", str(tmp_path), ["dtd"]))


def test_a_set_that_is_named_must_be_there(miniatures: Miniatures, tmp_path: Path) -> None:
    recipe = recipe_of(PROTOCOLS["base-to-novel"], "dtd", str(miniatures.root), overrides=EMBEDDED)
    with pytest.raises(UserError, match="there is no synthetic set"):
        ensure_set(recipe.with_values({"training.synthetic": str(tmp_path / "dtd")}), None)
