"""Copies of repositories on the hub: which names are some, what is fetched, and what can't be in one sentence."""

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
    """alice/birds with a recipe, prompts and what nobody asked for."""
    hub.repositories["alice/birds"] = one = Repository()
    one.commit("main", FILES)
    return one


def fetch(name: str = "hf://alice/birds") -> Path:
    folder = download(name, ["recipe.yaml", "prompts.safetensors"], ["run.json"])
    assert folder is not None
    return Path(folder)


def test_what_was_asked_for_is_fetched_and_nothing_else(hub: Hub, birds: Repository) -> None:
    folder = fetch()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        name: FILES[name] for name in ("recipe.yaml", "prompts.safetensors")
    }
    assert sorted(hub.fetched) == ["recipe.yaml"], "prompts come from where LFS leads"
    assert fetch() == folder and len(hub.fetched) == 1, "what is there already is not fetched again"
    birds.commit("main", {**FILES, "recipe.yaml": b"name: two\n"})
    assert (fetch() / "recipe.yaml").read_bytes() == b"name: two\n"


def test_a_branch_or_a_commit_can_be_named(birds: Repository) -> None:
    first = birds.branches["main"]
    birds.commit("other/one", {**FILES, "recipe.yaml": b"name: two\n"})
    assert (fetch("hf://alice/birds@other/one") / "recipe.yaml").read_bytes() == b"name: two\n"
    assert (fetch(f"hf://alice/birds@{first}") / "recipe.yaml").read_bytes() == FILES["recipe.yaml"]


@pytest.mark.parametrize(
    "name", ["birds", "alice/birds", "alice/birds@v1", "./alice/birds", "/alice/birds", "s3://alice/birds", "a/b/c", ""]
)
def test_paths_and_urls_are_no_names_on_the_hub(hub: Hub, name: str) -> None:
    hub.repositories["alice/birds"] = Repository()
    assert download(name, ["recipe.yaml"]) is None and hub.fetched == []


@pytest.mark.parametrize(
    "name", ["hf://", "hf://birds", "hf://datasets/alice/birds", "hf://alice/birds/x", "hf://a b/c"]
)
def test_what_cannot_be_a_repository_is_refused(hub: Hub, name: str) -> None:
    with pytest.raises(
        UserError, match=rf"{name}: not a repository name of the Hugging Face Hub; write hf://owner/name\["
    ):
        download(name, ["recipe.yaml"])


def test_the_commit_that_was_fetched_has_a_name_of_its_own(birds: Repository) -> None:
    first = birds.branches["main"]
    for name in ("hf://alice/birds", "hf://alice/birds@main"):
        assert pinned(name, str(fetch(name))) == f"hf://alice/birds@{first}"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("hf://alice/bird", "no such repository on the Hub, or a private one; check the name"),
        ("hf://alice/birds@v9", "the repository on the Hub has no such revision; check the part after the @"),
        ("hf://alice/bi..rds", "not a valid name on the Hub; write owner/name"),
    ],
)
def test_what_is_not_there_is_one_sentence(birds: Repository, name: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason) as refused:
        fetch(name)
    assert str(refused.value).startswith(f"{name}: ") and "\n" not in str(refused.value)


def test_a_private_one_needs_the_token(birds: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    birds.private = True
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(
        UserError, match=r"or a private one; check the name, or log in \(`hf auth login`, or HF_TOKEN\)"
    ):
        fetch()


def test_another_model_is_refused(hub: Hub, capfd: pytest.CaptureFixture[str]) -> None:
    hub.repositories["alice/bert"] = bert = Repository()
    bert.commit("main", {"config.json": b"{}", "pytorch_model.bin": b"a pickle"})
    with pytest.raises(UserError, match=r"hf://alice/bert: .* is not a syncclip run: it has no recipe\.yaml, prompts"):
        fetch("hf://alice/bert")
    assert hub.fetched == [] and capfd.readouterr().err == ""


def test_without_a_network_what_was_fetched_before_is_used(birds: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fetch()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert fetch() == folder
    with pytest.raises(UserError, match=r"hf://alice/bird: the Hub is unreachable \(.*refused.*\); check path and net"):
        fetch("hf://alice/bird")


def test_the_library_is_left_as_it_was(birds: Repository) -> None:
    level, bars = logging.getLogger("huggingface_hub").level, are_progress_bars_disabled()
    fetch()
    with pytest.raises(UserError):
        fetch("hf://alice/bird")
    assert (logging.getLogger("huggingface_hub").level, are_progress_bars_disabled()) == (level, bars)
