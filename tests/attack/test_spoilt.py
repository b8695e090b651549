"""Every command on a store whose answers are spoilt now and then: the same bytes as on a disk."""

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

pytestmark = [pytest.mark.fault, pytest.mark.slow]

OWN = re.compile(r"run\.json|recipe\.yaml|.*_stats\.json|report\.html|events\..*|.*\.lock")
"""Files that hold times, or tell where they lie."""


CHECKSUM = re.compile(rb"checksum-sha256:[0-9a-f]{64}:[0-9a-f]{16}")
"""It names the run, whose recipe names the place of the dataset."""


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses of milliseconds; that they grow is the libraries' own affair."""
    monkeypatch.setattr(retries, "PAUSES", (0.01,) * 3)
    monkeypatch.setattr("botocore.retryhandler.delay_exponential", lambda **_: 0.01)


def commands(tiny: TinyWorld, root: str, options: str) -> Iterator[str]:
    """Synthesise, import, merge, verify, train, evaluate, export, pack and report below `root`; the folders made."""

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
    for given in ("set1", "merged"):
        values = [f"training.synthetic={at(given)}", f"dataset.name={at('packed')}", "training.method=ivlp"]
        run = jobs.run_here(recipe(*values), at("run", given))
        assert jobs.evaluate(run.url, [f"storage.options={options}"]).results == run.results
        yield run.url
    for kind in ("folder", "huggingface"):
        export_set(at("merged"), at(kind), kind)
        yield at(kind)
    yield from (at("folder", name) for name in storage.listdir(at("folder")) if "." not in name)
    report(at("set1"))


def digests(root: str, folders: list[str]) -> dict[str, str]:
    """Name below the root -> sha256 of what is in folders, but for files that hold times."""
    found = {}
    for folder in folders:
        urls = [storage.join(folder, name) for name in storage.sizes(folder) if not OWN.fullmatch(name)]
        for url, data in storage.read_many(urls, checksum_required=False).items():
            if url.endswith("predictions.parquet"):  # whose metadata repeat the checksum, encoded
                data = repr(storage.read_parquet(data).to_pydict()).encode()
            text = CHECKSUM.sub(b"", data.replace(root.encode(), b"ROOT"))
            found[url.removeprefix(root)] = hashlib.sha256(text).hexdigest()
    return found


@pytest.fixture(scope="module")
def quiet(tiny: TinyWorld, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the commands give on a disk."""
    root = str(tmp_path_factory.mktemp("disk"))
    found = digests(root, list(commands(tiny, root, "{}")))
    assert len(found) > 40
    return found


def amid_faults(tiny: TinyWorld, seed: int) -> tuple[dict[str, str], set[str]]:
    """The same on a store of which every tenth answer is spoilt, and the kinds of faults that there were."""
    with faulty_bucket("attacked") as (bucket, proxy):
        proxy.spoil_some(0.1, (*DAMAGING, *PASSING), seed)
        folders = list(commands(tiny, bucket, f"{{endpoint_url: '{proxy.endpoint}'}}"))
        proxy.soothe()
        return digests(bucket, folders), set(proxy.spoilt)


def test_what_spoilt_answers_are_made_of_equals_what_a_disk_gives(tiny: TinyWorld, quiet: dict[str, str]) -> None:
    found, kinds = amid_faults(tiny, 4)
    assert found == quiet
    assert kinds == {*DAMAGING, *PASSING}


@pytest.mark.attack
@pytest.mark.parametrize("seed", range(10, 15))
def test_other_faults_at_other_moments_change_no_byte_either(tiny: TinyWorld, quiet: dict[str, str], seed: int) -> None:
    assert amid_faults(tiny, seed)[0] == quiet
