"""Runs on a local Hub: uploaded files, removed private values, and use by others."""

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
UPLOADED = [
    "README.md",
    "classes.json",
    "contents.json",
    "prompts.safetensors",
    "recipe.yaml",
    "results.json",
    "run.json",
]
PROJECT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def trained(tiny: TinyWorld, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Method -> an evaluated run, which tests must not change."""
    folder, runs = tmp_path_factory.mktemp("trained"), {}
    for method in ("ivlp", "zeroshot"):
        recipe = Recipe.load(tiny.recipe, [f"training.method={method}", "training.data=real", "training.epochs=1"])
        runs[method] = jobs.run_here(recipe, str(folder / method)).url
    with only_read(folder):
        yield runs


@pytest.fixture
def run(trained: dict[str, str], tmp_path: Path) -> Path:
    """A run that a test may change."""
    return shutil.copytree(trained["ivlp"], tmp_path / "run")


def files_of(hub: Hub, branch: str = "main") -> dict[str, bytes]:
    return dict(hub.repositories[REPO].files(branch))


def replace_recipe(hub: Hub, section: str, value: object, **files: bytes) -> None:
    """Replace a section of the uploaded recipe, with a valid checksum, and add files."""
    uploaded = files_of(hub)
    recipe = {**yaml.safe_load(uploaded["recipe.yaml"]), section: value}
    owner = owner_of(uploaded["recipe.yaml"]) or NOBODY
    uploaded["recipe.yaml"] = with_checksum(yaml.safe_dump(recipe).encode(), "yaml", owner)
    hub.repositories[REPO].commit("main", {**uploaded, **files})


@pytest.mark.parametrize("method", ["ivlp", "zeroshot"])
def test_a_downloaded_run_makes_the_same_predictions(
    hub: Hub, trained: dict[str, str], tiny: TinyWorld, images: Path, method: str
) -> None:
    assert push(trained[method], REPO) == f"{hub.url}/{REPO}"
    files = sorted(images.iterdir())
    expected = load(trained[method]).probabilities(files)
    np.testing.assert_array_equal(load(HUB_NAME, tiny.backbone).probabilities(files), expected)


def test_only_files_for_inference_are_uploaded(hub: Hub, run: Path) -> None:
    (run / "notes.txt").write_text("private")
    assert {"metrics.jsonl", "predictions.parquet", "checkpoints"} <= {path.name for path in run.iterdir()}
    push(str(run), REPO)
    files = files_of(hub)
    assert sorted(files.keys() - {".gitattributes"}) == UPLOADED
    for name in ("prompts.safetensors", "results.json"):
        assert files[name] == (run / name).read_bytes()


def test_a_repeated_push_makes_no_commit_and_another_run_replaces_all_files(
    hub: Hub, run: Path, trained: dict[str, str]
) -> None:
    push(str(run), REPO)
    repository = hub.repositories[REPO]
    commits = len(repository.commits)
    push(str(run), REPO)
    assert len(repository.commits) == commits
    other = shutil.copytree(trained["zeroshot"], run.parent / "other")
    (other / "results.json").unlink()
    push(str(other), REPO)
    assert len(repository.commits) == commits + 1
    assert sorted(files_of(hub).keys() - {".gitattributes"}) == [name for name in UPLOADED if name != "results.json"]
    assert b"Not evaluated yet" in files_of(hub)["README.md"]


def test_neither_secrets_nor_folders_nor_servers_of_the_author_travel(hub: Hub, run: Path, tiny: TinyWorld) -> None:
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    options = {"secret": "hidden-7", "endpoint_url": "http://inner"}
    recipe["storage"] = {"root": "s3://bucket/private", "options": options}
    recipe["training"] |= {"mlflow_uri": "http://alice:hidden-7@inner", "tracking_project": "inner"}
    recipe["dataset"]["root"] = "s3://bucket/data"
    recipe["backbone"]["name"] = f"local-dir:{tiny.backbone}"
    rewrite(run / "recipe.yaml", yaml.safe_dump(recipe).encode())
    record = json.loads((run / "run.json").read_text())
    record.pop("checksum")
    record["origin"] = "/home/alice/secret work/model.pth.tar-5, epoch 5"
    record["notes"] = [
        "step 4 of /home/alice/runs/first/checkpoints/4 is damaged, see 'https://there/a/b'",
        "s3://bucket/c/4: gone",
    ]
    rewrite(run / "run.json", json.dumps(record).encode())
    push(str(run), REPO)
    files = files_of(hub)
    uploaded = b"\n".join(files.values()).decode(errors="replace")
    for private in ("hidden-7", "inner", "bucket", "/home", "secret work", str(Path(tiny.recipe).parent)):
        assert private not in uploaded, private
    record = json.loads(files["run.json"])
    assert record["origin"] == "model.pth.tar-5, epoch 5"
    assert record["notes"] == ["step 4 of 4 is damaged, see 'https://there/a/b'", "4: gone"]
    public = yaml.safe_load(files["recipe.yaml"])
    assert public["backbone"]["name"] == "local-dir:clip" and public["dataset"]["name"] == "shapes"
    assert public["methods"] == recipe["methods"]
    assert json.loads(files["classes.json"])["clip"] == "local-dir:clip"


def test_the_card_has_metadata_and_its_examples_run(
    hub: Hub,
    trained: dict[str, str],
    tiny: TinyWorld,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    push(trained["ivlp"], REPO)
    text = files_of(hub)["README.md"].decode()
    data = ModelCard(text).data
    assert (data.library_name, data.pipeline_tag) == ("syncclip", "zero-shot-image-classification")
    results = json.loads(storage.read_bytes(f"{trained['ivlp']}/results.json"))
    metrics = {result.metric_name: result.metric_value for result in data.eval_results}
    assert metrics["base, %"] == round(results["base"], 4) and metrics["novel, %"] == round(results["novel"], 4)
    assert 'The CLIP model is not public; pass its location to `load` with `backbone="clip"`.' in text

    (tmp_path / "clip").symlink_to(tiny.backbone)
    shutil.copy(next(images.iterdir()), tmp_path / "image.jpg")
    (snippet,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    home = tmp_path / "home"  # an empty cache
    environment = {**os.environ, **hub.environment, "HF_HOME": str(home), "HF_HUB_CACHE": str(home / "hub")}
    environment["PYTHONPATH"] = str(PROJECT)
    command = [sys.executable, "-c", snippet]
    process = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
    lines = process.stdout.splitlines()
    assert len(lines) == 3 and all(re.fullmatch(r".+: \d+%", line) for line in lines)

    (arguments,) = re.findall(r"`syncclip (classify \S+ \S+)`", text)
    monkeypatch.chdir(tmp_path)
    assert json.loads(Outcome(capsys, *arguments.split()).out)["class"] == lines[0].partition(":")[0]


def test_a_private_repository_requires_a_token(
    hub: Hub, run: Path, tiny: TinyWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(str(run), REPO, private=True)
    assert hub.repositories[REPO].private
    assert load(HUB_NAME, tiny.backbone).classes == load(str(run)).classes
    shutil.rmtree(hub.home)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(UserError, match="the repository does not exist on the Hub, or is private"):
        load(HUB_NAME, tiny.backbone)


def test_what_was_to_be_private_is_not_put_where_all_see_it(hub: Hub, run: Path) -> None:
    push(str(run), REPO)
    branches = hub.repositories[REPO].branches.copy()
    with pytest.raises(UserError, match="alice/birds: the repository is public"):
        push(str(run), REPO, private=True)
    assert hub.repositories[REPO].branches == branches


def test_a_branch_is_created_and_loaded(hub: Hub, run: Path, trained: dict[str, str], tiny: TinyWorld) -> None:
    push(trained["zeroshot"], REPO)
    assert push(str(run), REPO, revision="second") == f"{hub.url}/{REPO}/tree/second"
    push(str(run), REPO, revision="second")
    assert 'syncclip.load("hf://alice/birds@second")' in files_of(hub, "second")["README.md"].decode()
    for name, method in ((HUB_NAME, "zeroshot"), (f"{HUB_NAME}@second", "ivlp")):
        assert load(name, tiny.backbone).recipe.training.method == method


@pytest.mark.parametrize(
    ("repo", "change", "message"),
    [
        ("birds", "", "'birds' is not a repository name"),
        ("alice/bi..rds", "", "alice/bi..rds: the repository name is invalid"),
        ("bob/birds", "", r"bob/birds: the Hub rejected the request \(.*403 Forbidden.*\); log in"),
        (REPO, "no token", r"alice/birds: the Hub rejected the request \(.*401 Unauthorized.*\); log in"),
        (REPO, "no network", r"alice/birds: the Hub is unreachable \(.*refused\)"),
        (REPO, "no prompts", "the run is not finished"),
    ],
)
def test_a_failed_upload_is_an_error(
    hub: Hub, run: Path, monkeypatch: pytest.MonkeyPatch, repo: str, change: str, message: str
) -> None:
    if change == "no token":
        monkeypatch.delenv("HF_TOKEN")
    elif change == "no network":
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    elif change == "no prompts":
        (run / "prompts.safetensors").unlink()
    with pytest.raises(UserError, match=message) as caught:
        push(str(run), repo)
    assert "\n" not in str(caught.value) and not hub.repositories


@pytest.mark.fault
@pytest.mark.parametrize("file", ["prompts.safetensors", "classes.json", "recipe.yaml", "run.json"])
def test_a_flipped_bit_on_the_hub_is_an_error(hub: Hub, run: Path, tiny: TinyWorld, file: str) -> None:
    push(str(run), REPO)
    files = files_of(hub)
    data = bytearray(files[file])
    data[len(data) // 2] ^= 1
    hub.repositories[REPO].commit("main", {**files, file: bytes(data)})
    with pytest.raises(storage.DamagedError, match=re.escape(file)):
        load(HUB_NAME, tiny.backbone)


def test_code_that_a_strangers_run_names_is_refused(hub: Hub, run: Path, tiny: TinyWorld) -> None:
    push(str(run), REPO)
    module = "of_a_stranger_on_the_hub"
    training = yaml.safe_load(files_of(hub)["recipe.yaml"])["training"]
    code = {f"{module}.py": b"raise SystemExit('it was run')"}
    replace_recipe(hub, "training", {**training, "method": f"{module}:Method"}, **code)
    with pytest.raises(UserError, match=rf"recipe\.yaml: .*'{module}:Method' is custom code.*--trust {module}:Method "):
        load(HUB_NAME, tiny.backbone)
    assert f"{module}.py" not in hub.fetched and module not in sys.modules


def test_a_strangers_run_names_no_server_for_ones_keys(hub: Hub, run: Path, tiny: TinyWorld) -> None:
    push(str(run), REPO)
    replace_recipe(hub, "storage", {"options": {"endpoint_url": "http://127.0.0.1:9"}})
    with Session():
        assert load(HUB_NAME, tiny.backbone).recipe.storage.options == {}
        assert storage.urls.configured() == {}


def test_a_job_reads_the_resolved_commit_on_all_machines(hub: Hub, run: Path) -> None:
    push(str(run), REPO)
    commit = hub.repositories[REPO].branches["main"]
    assert readable_run(HUB_NAME)[2] == readable_run(f"{HUB_NAME}@main")[2] == f"{HUB_NAME}@{commit}"
    job = classify_job(HUB_NAME, "s3://bucket/photos", None, 2, 0, shared=True)
    assert f"{HUB_NAME}@{commit}" in job.arguments
    assert readable_run(str(run))[2] == str(run)
