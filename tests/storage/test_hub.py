"""Downloads from the Hugging Face Hub, and one-line errors."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from huggingface_hub.utils.tqdm import are_progress_bars_disabled

from syncclip.core.settings import UserError
from syncclip.storage.hub import download, pinned
from tests.worlds.hub import Hub, Repository

FILES = {"recipe.yaml": b"name: one\n", "prompts.safetensors": b"eight bytes", "README.md": b"# One\n", "run.py": b"1"}


@pytest.fixture
def birds(hub: Hub) -> Repository:
    """alice/birds with a recipe, prompts and other files."""
    hub.repositories["alice/birds"] = repository = Repository()
    repository.commit("main", FILES)
    return repository


def fetch(name: str = "hf://alice/birds") -> Path:
    folder = download(name, ["recipe.yaml", "prompts.safetensors"], ["run.json"])
    assert folder is not None
    return Path(folder)


def test_only_requested_files_are_downloaded(hub: Hub, birds: Repository) -> None:
    folder = fetch()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        name: FILES[name] for name in ("recipe.yaml", "prompts.safetensors")
    }
    assert sorted(hub.fetched) == ["recipe.yaml"], "prompts are stored in LFS"
    assert fetch() == folder and len(hub.fetched) == 1, "cached files are not downloaded again"
    birds.commit("main", {**FILES, "recipe.yaml": b"name: two\n"})
    assert (fetch() / "recipe.yaml").read_bytes() == b"name: two\n"


def test_a_branch_or_a_commit_is_downloaded(birds: Repository) -> None:
    first = birds.branches["main"]
    birds.commit("other/one", {**FILES, "recipe.yaml": b"name: two\n"})
    assert (fetch("hf://alice/birds@other/one") / "recipe.yaml").read_bytes() == b"name: two\n"
    assert (fetch(f"hf://alice/birds@{first}") / "recipe.yaml").read_bytes() == FILES["recipe.yaml"]


@pytest.mark.parametrize(
    "name", ["birds", "alice/birds", "alice/birds@v1", "./alice/birds", "/alice/birds", "s3://alice/birds", "a/b/c", ""]
)
def test_paths_and_urls_are_not_downloaded(hub: Hub, name: str) -> None:
    hub.repositories["alice/birds"] = Repository()
    assert download(name, ["recipe.yaml"]) is None and hub.fetched == []


@pytest.mark.parametrize(
    "name", ["hf://", "hf://birds", "hf://datasets/alice/birds", "hf://alice/birds/x", "hf://a b/c"]
)
def test_an_invalid_repository_name_is_an_error(hub: Hub, name: str) -> None:
    with pytest.raises(UserError, match=rf"{name} is not a Hugging Face Hub repository name"):
        download(name, ["recipe.yaml"])


def test_a_downloaded_commit_is_pinned(birds: Repository) -> None:
    first = birds.branches["main"]
    for name in ("hf://alice/birds", "hf://alice/birds@main"):
        assert pinned(name, str(fetch(name))) == f"hf://alice/birds@{first}"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("hf://alice/bird", "the repository does not exist on the Hub, or is private"),
        ("hf://alice/birds@v9", "no such revision"),
        ("hf://alice/bi..rds", "the repository name is invalid"),
    ],
)
def test_a_missing_repository_or_revision_is_a_one_line_error(birds: Repository, name: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason) as caught:
        fetch(name)
    assert str(caught.value).startswith(f"{name}: ") and "\n" not in str(caught.value)


def test_a_private_repository_requires_the_token(birds: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    birds.private = True
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(UserError, match=r"or is private; .* log in \(run `hf auth login`, or set HF_TOKEN\)"):
        fetch()


def test_a_repository_without_a_run_is_an_error(hub: Hub, capfd: pytest.CaptureFixture[str]) -> None:
    hub.repositories["alice/bert"] = bert = Repository()
    bert.commit("main", {"config.json": b"{}", "pytorch_model.bin": b"a pickle"})
    with pytest.raises(UserError, match=r"is not a syncclip run: the Hub repository has no recipe\.yaml, prompts"):
        fetch("hf://alice/bert")
    assert hub.fetched == [] and capfd.readouterr().err == ""


def test_earlier_downloads_are_used_without_a_network(birds: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fetch()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert fetch() == folder
    with pytest.raises(UserError, match=r"hf://alice/bird: the Hub is unreachable \(.*refused"):
        fetch("hf://alice/bird")


def test_settings_of_the_library_are_restored(birds: Repository) -> None:
    level, bars = logging.getLogger("huggingface_hub").level, are_progress_bars_disabled()
    fetch()
    with pytest.raises(UserError):
        fetch("hf://alice/bird")
    assert (logging.getLogger("huggingface_hub").level, are_progress_bars_disabled()) == (level, bars)
