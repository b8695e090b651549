"""Every command on a store with occasional corrupt responses: the same bytes as on a disk."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator

import pytest

from syncclip import jobs, storage
from syncclip.datasets import DatasetSettings, load_dataset
from syncclip.datasets.packed import pack
from syncclip.recipe.recipe import Recipe
from syncclip.reports.page import report
from syncclip.storage import retries
from syncclip.synthetic_sets.export import export_set
from syncclip.synthetic_sets.merge import merge_sets
from tests.conftest import TinyWorld
from tests.object_store import faulty_bucket
from tests.synthetic_sets.test_repair import examine
from tests.worlds.faulty_s3 import DAMAGING, PASSING
from tests.worlds.synthetic import generate_here

pytestmark = [pytest.mark.attack, pytest.mark.fault, pytest.mark.slow]

OWN = re.compile(r"run\.json|recipe\.yaml|.*_stats\.json|report\.html|events\..*|.*\.lock")
"""Files that contain times or paths."""
CHECKSUM = re.compile(rb"checksum-sha256:[0-9a-f]{64}:[0-9a-f]{16}")
"""Contains a hash of the run, whose recipe contains the path of the dataset."""


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses of milliseconds between retries."""
    monkeypatch.setattr(retries, "PAUSES", (0.01,) * 3)
    monkeypatch.setattr("botocore.retryhandler.delay_exponential", lambda **_: 0.01)


def commands(tiny: TinyWorld, root: str, options: str) -> Iterator[str]:
    """Synthesise, merge, verify, pack, train, evaluate, export and report in `root`; yields the written folders."""

    def at(*parts: str) -> str:
        return storage.join(root, *parts)

    def recipe(*values: str) -> Recipe:
        return Recipe.load(tiny.recipe, [f"storage.options={options}", *values])

    for seed in (1, 2):
        yield generate_here(recipe(f"synthesis.seed={seed}"), at(f"set{seed}"))
        assert examine(at(f"set{seed}")) == []
    merge_sets([at("set1"), at("set2")], at("merged"))
    yield at("merged")
    assert examine(at("merged")) == []
    pack(load_dataset(DatasetSettings(name=tiny.dataset)), at("packed"))
    yield at("packed")
    yield from (at("packed", split) for split in ("train", "val", "test"))
    for name in ("set1", "merged"):
        values = [f"training.synthetic={at(name)}", f"dataset.name={at('packed')}", "training.method=ivlp"]
        run = jobs.run_here(recipe(*values), at("run", name))
        assert jobs.evaluate(run.url, [f"storage.options={options}"]).results == run.results
        yield run.url
    for layout in ("folder", "huggingface"):
        export_set(at("merged"), at(layout), layout)
        yield at(layout)
    yield from (at("folder", name) for name in storage.listdir(at("folder")) if "." not in name)
    report(at("set1"))


def checksums(root: str, folders: list[str]) -> dict[str, str]:
    """Path in the root -> SHA-256 of each file in some folders, except files that contain times."""
    result = {}
    for folder in folders:
        urls = [storage.join(folder, name) for name in storage.sizes(folder) if not OWN.fullmatch(name)]
        for url, data in storage.read_many(urls, checksum_required=False).items():
            if url.endswith("predictions.parquet"):  # metadata contain the checksum
                data = repr(storage.read_parquet(data).to_pydict()).encode()
            text = CHECKSUM.sub(b"", data.replace(root.encode(), b"ROOT"))
            result[url.removeprefix(root)] = hashlib.sha256(text).hexdigest()
    return result


@pytest.fixture(scope="module")
def expected(tiny: TinyWorld, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Checksums of the commands' files on a disk."""
    root = str(tmp_path_factory.mktemp("disk"))
    result = checksums(root, list(commands(tiny, root, "{}")))
    assert len(result) > 40
    return result


@pytest.mark.parametrize("seed", [4, *range(10, 15)])
def test_faults_change_no_byte(tiny: TinyWorld, expected: dict[str, str], seed: int) -> None:
    """Every tenth response is corrupt."""
    with faulty_bucket("attacked") as (bucket, proxy):
        proxy.spoil_some(0.1, (*DAMAGING, *PASSING), seed)
        folders = list(commands(tiny, bucket, f"{{endpoint_url: '{proxy.endpoint}'}}"))
        proxy.soothe()
        assert checksums(bucket, folders) == expected
        assert seed != 4 or set(proxy.spoilt) == {*DAMAGING, *PASSING}
