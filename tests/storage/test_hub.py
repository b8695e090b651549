"""Copies of repositories on the hub: which names are some, what is fetched, and what can't be in one sentence."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from huggingface_hub.utils.tqdm import are_progress_bars_disabled

from syncclip.core.settings import UserError
from syncclip.storage.hub import fetched
from tests.worlds.hub import Hub, Repository

FILES = {"recipe.yaml": b"name: one\n", "prompts.safetensors": b"eight bytes", "README.md": b"# One\n", "run.py": b"1"}


@pytest.fixture
def birds(hub: Hub) -> Repository:
    """alice/birds with a recipe, prompts and what nobody asked for."""
    hub.repositories["alice/birds"] = one = Repository()
    one.commit("main", FILES)
    return one


def fetch(name: str = "alice/birds") -> Path:
    folder = fetched(name, ["recipe.yaml", "prompts.safetensors"], ["run.json"])
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
    assert (fetch("alice/birds@other/one") / "recipe.yaml").read_bytes() == b"name: two\n"
    assert (fetch(f"alice/birds@{first}") / "recipe.yaml").read_bytes() == FILES["recipe.yaml"]


@pytest.mark.parametrize("name", ["birds", "./alice/birds", "/alice/birds", "s3://alice/birds", "a/b/c", "", "a b/c"])
def test_paths_and_urls_are_no_names_on_the_hub(hub: Hub, name: str) -> None:
    assert fetched(name, ["recipe.yaml"]) is None


def test_a_folder_of_that_name_is_meant_first(
    birds: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert fetch().name == birds.branches["main"]
    (tmp_path / "alice" / "birds").mkdir(parents=True)
    assert fetched("alice/birds", ["recipe.yaml"]) is None


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("alice/bird", "there is no such folder, and the hub has no such repository, or a private one; check the name"),
        ("alice/birds@v9", "the repository on the hub has no such revision; check what follows the @"),
        ("alice/bi..rds", "it can be no name on the hub; write owner/name"),
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
    with pytest.raises(UserError, match=r"alice/bert: no run of syncclip is in .*, as it has no recipe\.yaml, prompts"):
        fetch("alice/bert")
    assert hub.fetched == [] and capfd.readouterr().err == ""


def test_without_a_network_what_was_fetched_before_is_used(birds: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fetch()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert fetch() == folder
    with pytest.raises(UserError, match=r"alice/bird: .* the hub can't be reached \(.*refused.*\); check path and net"):
        fetch("alice/bird")


def test_the_library_is_left_as_it_was(birds: Repository) -> None:
    level, bars = logging.getLogger("huggingface_hub").level, are_progress_bars_disabled()
    fetch()
    with pytest.raises(UserError):
        fetch("alice/bird")
    assert (logging.getLogger("huggingface_hub").level, are_progress_bars_disabled()) == (level, bars)
