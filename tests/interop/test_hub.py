"""Runs shared on a hub of this machine: what travels, what stays here, and how others use it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard

from syncclip import jobs, storage
from syncclip.cli.submit import classify_job
from syncclip.core.session import Session
from syncclip.core.settings import UserError
from syncclip.inference.model import load
from syncclip.interop.hub import push
from syncclip.recipe.recipe import Recipe
from syncclip.runs.resolve import readable_run
from syncclip.storage.checksums import NOBODY, owner_of, with_checksum
from tests.cli.test_app import Outcome
from tests.conftest import TinyWorld
from tests.inference.conftest import images
from tests.worlds.hub import Hub
from tests.worlds.rewritten import rewrite
from tests.worlds.shared import only_read

__all__ = ["images"]  # a fixture

REPO = "alice/birds"
HUB_NAME = f"hf://{REPO}"
SHARED = [
    "README.md",
    "classes.json",
    "contents.json",
    "prompts.safetensors",
    "recipe.yaml",
    "results.json",
    "run.json",
]
PROJECT = Path(__file__).parents[2]
SAY = """
import sys, numpy, syncclip
name, clip, out, *images = sys.argv[1:]
numpy.save(out, syncclip.load(name, backbone=clip).probabilities(images))
"""


@pytest.fixture(scope="module")
def trained(tiny: TinyWorld, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Method -> an evaluated run of it; tests only read them."""
    folder, runs = tmp_path_factory.mktemp("trained"), {}
    for method in ("ivlp", "zeroshot"):
        recipe = Recipe.load(tiny.recipe, [f"training.method={method}", "training.data=real", "training.epochs=1"])
        runs[method] = jobs.run_here(recipe, str(folder / method)).url
    with only_read(folder):
        yield runs


@pytest.fixture
def mine(trained: dict[str, str], tmp_path: Path) -> Path:
    """A run that the test may change."""
    return shutil.copytree(trained["ivlp"], tmp_path / "mine")


def elsewhere(hub: Hub, home: Path, *arguments: str, cwd: Path | None = None) -> str:
    """What another process prints, whose user fetched nothing yet."""
    homes = {"HF_HOME": str(home), "HF_HUB_CACHE": str(home / "hub"), "PYTHONPATH": str(PROJECT)}
    environment = {**os.environ, **hub.environment, **homes}
    done = subprocess.run([sys.executable, *arguments], env=environment, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_another_process_says_the_same_of_the_same_images(
    hub: Hub, trained: dict[str, str], tiny: TinyWorld, images: Path, tmp_path: Path
) -> None:
    assert push(trained["ivlp"], REPO) == f"{hub.url}/{REPO}"
    files, out = sorted(map(str, images.iterdir())), tmp_path / "said.npy"
    elsewhere(hub, tmp_path / "other-home", "-c", SAY, HUB_NAME, tiny.backbone, str(out), *files)
    np.testing.assert_allclose(np.load(out), load(trained["ivlp"]).probabilities(files), rtol=0, atol=1e-6)


def test_a_method_that_learns_nothing_travels_too(
    hub: Hub, trained: dict[str, str], tiny: TinyWorld, images: Path
) -> None:
    push(trained["zeroshot"], REPO)
    files = sorted(images.iterdir())
    expected = load(trained["zeroshot"]).probabilities(files)
    np.testing.assert_array_equal(load(HUB_NAME, tiny.backbone).probabilities(files), expected)


def test_what_travels_is_known_file_by_file(hub: Hub, mine: Path) -> None:
    (mine / "notes.txt").write_text("mine alone")
    assert {"metrics.jsonl", "predictions.parquet", "checkpoints"} <= {path.name for path in mine.iterdir()}
    push(str(mine), REPO)
    files = hub.repositories[REPO].files()
    assert sorted(files.keys() - {".gitattributes"}) == SHARED
    for name in ("prompts.safetensors", "results.json"):
        assert files[name] == (mine / name).read_bytes()


def test_the_same_again_makes_no_commit_and_another_run_replaces_all(
    hub: Hub, mine: Path, trained: dict[str, str]
) -> None:
    push(str(mine), REPO)
    one = hub.repositories[REPO]
    commits = len(one.commits)
    push(str(mine), REPO)
    assert len(one.commits) == commits
    other = shutil.copytree(trained["zeroshot"], mine.parent / "other")
    (other / "results.json").unlink()
    push(str(other), REPO)
    assert len(one.commits) == commits + 1, "one for all files"
    assert sorted(one.files().keys() - {".gitattributes"}) == [name for name in SHARED if name != "results.json"]
    assert b"Not evaluated yet" in one.files()["README.md"]


def test_neither_secrets_nor_folders_nor_servers_of_the_author_travel(hub: Hub, mine: Path, tiny: TinyWorld) -> None:
    recipe = yaml.safe_load((mine / "recipe.yaml").read_text())
    recipe["storage"] = {
        "root": "s3://bucket/private",
        "options": {"secret": "hidden-7", "endpoint_url": "http://inner"},
    }
    recipe["training"] |= {"mlflow_uri": "http://alice:hidden-7@inner", "tracking_project": "inner"}
    recipe["dataset"]["root"] = "s3://bucket/data"
    recipe["backbone"]["name"] = f"local-dir:{tiny.backbone}"
    rewrite(mine / "recipe.yaml", yaml.safe_dump(recipe).encode())
    record = json.loads((mine / "run.json").read_text())
    record.pop("checksum")
    record["origin"] = "/home/alice/secret work/model.pth.tar-5, epoch 5"
    record["notes"] = [
        "step 4 of /home/alice/runs/first/checkpoints/4 is damaged, see 'https://there/a/b'",
        "s3://bucket/c/4: gone",
    ]
    rewrite(mine / "run.json", json.dumps(record).encode())
    push(str(mine), REPO)
    files = hub.repositories[REPO].files()
    written = b"\n".join(files.values()).decode(errors="replace")
    for private in ("hidden-7", "inner", "bucket", "/home", "secret work", str(Path(tiny.recipe).parent)):
        assert private not in written, private
    told = json.loads(files["run.json"])
    assert told["origin"] == "model.pth.tar-5, epoch 5"
    assert told["notes"] == ["step 4 of 4 is damaged, see 'https://there/a/b'", "4: gone"]
    shared = yaml.safe_load(files["recipe.yaml"])
    assert shared["backbone"]["name"] == "local-dir:clip" and shared["dataset"]["name"] == "shapes"
    assert shared["methods"] == recipe["methods"]
    assert json.loads(files["classes.json"])["clip"] == "local-dir:clip"


def test_the_card_is_what_the_hub_reads_and_its_snippet_runs(
    hub: Hub,
    trained: dict[str, str],
    tiny: TinyWorld,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    push(trained["ivlp"], REPO)
    text = hub.repositories[REPO].files()["README.md"].decode()
    data = ModelCard(text).data
    assert (data.library_name, data.pipeline_tag) == ("syncclip", "zero-shot-image-classification")
    results = json.loads(storage.read_bytes(f"{trained['ivlp']}/results.json"))
    told = {result.metric_name: result.metric_value for result in data.eval_results}
    assert told["base, %"] == round(results["base"], 4) and told["novel, %"] == round(results["novel"], 4)
    assert 'Its CLIP is not published: pass its location to `load`, by `backbone="clip"`.' in text
    (snippet,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    place = tmp_path / "place"
    place.mkdir()
    (place / "clip").symlink_to(tiny.backbone)
    shutil.copy(next(images.iterdir()), place / "image.jpg")
    said = elsewhere(hub, tmp_path / "other-home", "-c", snippet, cwd=place)
    assert len(said.splitlines()) == 3 and all(re.fullmatch(r".+: \d+%", line) for line in said.splitlines())

    (command,) = re.findall(r"`syncclip (classify \S+ \S+)`", text)
    monkeypatch.chdir(place)
    assert json.loads(Outcome(capsys, *command.split()).out)["class"] == said.partition(":")[0]


def test_a_private_one_is_for_those_who_may(
    hub: Hub, mine: Path, tiny: TinyWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(str(mine), REPO, private=True)
    assert hub.repositories[REPO].private
    assert load(HUB_NAME, tiny.backbone).classes == load(str(mine)).classes
    shutil.rmtree(hub.home)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(UserError, match="no such repository on the Hub, or a private one"):
        load(HUB_NAME, tiny.backbone)


def test_what_was_to_be_private_is_not_put_where_all_see_it(hub: Hub, mine: Path) -> None:
    push(str(mine), REPO)
    before = hub.repositories[REPO].branches.copy()
    with pytest.raises(UserError, match="alice/birds: is public; make it private on its page"):
        push(str(mine), REPO, private=True)
    assert hub.repositories[REPO].branches == before


def test_a_branch_is_made_and_loaded(hub: Hub, mine: Path, trained: dict[str, str], tiny: TinyWorld) -> None:
    push(trained["zeroshot"], REPO)
    assert push(str(mine), REPO, revision="second") == f"{hub.url}/{REPO}/tree/second"
    push(str(mine), REPO, revision="second")
    assert 'syncclip.load("hf://alice/birds@second")' in hub.repositories[REPO].files("second")["README.md"].decode()
    for name, method in ((HUB_NAME, "zeroshot"), (f"{HUB_NAME}@second", "ivlp")):
        assert load(name, tiny.backbone).recipe.training.method == method


@pytest.mark.parametrize(
    ("repo", "token", "reason"),
    [
        ("birds", True, "'birds' is not a repository name; use owner/name"),
        ("alice/bi..rds", True, "alice/bi..rds: not a valid name on the Hub"),
        (
            "bob/birds",
            True,
            r"bob/birds: the Hub rejected the request \(.*403 Forbidden.*\); log in \(`hf auth login`, or HF_TOKEN\)",
        ),
        (REPO, False, r"alice/birds: the Hub rejected the request \(.*401 Unauthorized.*\); log in"),
    ],
)
def test_what_the_hub_does_not_take_is_one_sentence(
    hub: Hub, mine: Path, monkeypatch: pytest.MonkeyPatch, repo: str, token: bool, reason: str
) -> None:
    if not token:
        monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(UserError, match=reason) as refused:
        push(str(mine), repo)
    assert "\n" not in str(refused.value) and not hub.repositories


def test_without_a_network_it_is_one_sentence(hub: Hub, mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"alice/birds: the Hub is unreachable \(.*refused\); check path and network"):
        push(str(mine), REPO)


def test_what_is_no_finished_run_does_not_travel(hub: Hub, mine: Path) -> None:
    (mine / "prompts.safetensors").unlink()
    with pytest.raises(UserError, match="the run is not finished"):
        push(str(mine), REPO)
    assert not hub.repositories


@pytest.mark.fault
@pytest.mark.parametrize("file", ["prompts.safetensors", "classes.json", "recipe.yaml", "run.json"])
def test_a_flipped_bit_on_the_hub_is_told(hub: Hub, mine: Path, tiny: TinyWorld, file: str) -> None:
    push(str(mine), REPO)
    files = dict(hub.repositories[REPO].files())
    middle = len(files[file]) // 2
    files[file] = files[file][:middle] + bytes([files[file][middle] ^ 1]) + files[file][middle + 1 :]
    hub.repositories[REPO].commit("main", files)
    with pytest.raises(storage.DamagedError, match=re.escape(file)):
        load(HUB_NAME, tiny.backbone)


def test_code_that_a_strangers_run_names_is_refused(hub: Hub, mine: Path, tiny: TinyWorld) -> None:
    push(str(mine), REPO)
    files, name = dict(hub.repositories[REPO].files()), "of_a_stranger_on_the_hub:Method"
    recipe = yaml.safe_load(files["recipe.yaml"])
    recipe["training"]["method"] = name
    files |= {
        "recipe.yaml": with_checksum(yaml.safe_dump(recipe).encode(), "yaml", owner_of(files["recipe.yaml"]) or NOBODY),
        "of_a_stranger_on_the_hub.py": b"raise SystemExit('it was run')",
    }
    hub.repositories[REPO].commit("main", files)
    with pytest.raises(UserError, match=rf"recipe\.yaml: .*'{name}' is custom code.*--trust {name} "):
        load(HUB_NAME, tiny.backbone)
    assert "of_a_stranger_on_the_hub.py" not in hub.fetched and "of_a_stranger_on_the_hub" not in sys.modules


def test_a_strangers_run_names_no_server_for_ones_keys(hub: Hub, mine: Path, tiny: TinyWorld) -> None:
    push(str(mine), REPO)
    files = dict(hub.repositories[REPO].files())
    recipe = yaml.safe_load(files["recipe.yaml"])
    recipe["storage"] = {"options": {"endpoint_url": "http://127.0.0.1:9"}}
    edited = with_checksum(yaml.safe_dump(recipe).encode(), "yaml", owner_of(files["recipe.yaml"]) or NOBODY)
    hub.repositories[REPO].commit("main", {**files, "recipe.yaml": edited})
    with Session():
        assert load(HUB_NAME, tiny.backbone).recipe.storage.options == {}
        assert storage.urls.configured() == {}


def test_every_machine_reads_the_commit_that_was_found_first(hub: Hub, mine: Path) -> None:
    push(str(mine), REPO)
    first = hub.repositories[REPO].branches["main"]
    assert readable_run(HUB_NAME)[2] == readable_run(f"{HUB_NAME}@main")[2] == f"{HUB_NAME}@{first}"
    job = classify_job(HUB_NAME, "s3://bucket/photos", None, 2, 0, shared=True)
    assert f"{HUB_NAME}@{first}" in job.arguments
    assert readable_run(str(mine))[2] == str(mine)
