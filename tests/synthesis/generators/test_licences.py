"""Licences in the model cards of local folders and of the hub's cache."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from syncclip.synthesis.generators.licences import licence_of
from syncclip.synthesis.generators.settings import GeneratorSettings
from tests.synthesis.generators.conftest import settings_of
from tests.worlds.endpoint import Server


@pytest.fixture
def folder(pipeline: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pipeline, tmp_path / "pipeline"))


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: openrail++\ntags: [a]\n---\n# A model\nlicense: mit\n", "openrail++"),
        ("---\nlicense: other\nlicense_name: flux-1-dev\n---\n", "flux-1-dev"),
        ("---\nlicense: other\n---\n", "other"),
        ("---\ntags: [a]\n---\nlicense: mit\n", "unknown"),
        ("# A model\n---\nlicense: mit\n---\n", "unknown"),
        ("---\nlicense: [\n---\n", "unknown"),
        ("---\nlicense: 3\n---\n", "unknown"),
        ("", "unknown"),
        (None, "unknown"),
    ],
)
def test_the_licence_is_read_from_the_card_in_the_folder(folder: Path, card: str | None, licence: str) -> None:
    if card is not None:
        (folder / "README.md").write_text(card)
    assert licence_of(settings_of(folder)) == licence


def test_the_bundled_generator_has_the_licence_of_the_package() -> None:
    pyproject = Path(__file__).parents[3] / "pyproject.toml"
    assert 'license = "Apache-2.0"' in pyproject.read_text()
    assert licence_of(GeneratorSettings()) == "apache-2.0"


def test_each_distinct_licence_is_listed(folder: Path, tmp_path: Path) -> None:
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    loras = []
    for name, licence in (("a", "mit"), ("b", "gpl-3.0"), ("c", "")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.safetensors").write_bytes(b"")
        (tmp_path / name / "README.md").write_text(f"---\nlicense: {licence}\n---\n")
        loras.append({"weights": str(tmp_path / name)})
    assert licence_of(settings_of(folder, loras=loras)) == "mit, gpl-3.0, unknown"


def test_the_card_of_a_hub_repository_is_read_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    settings, commit = GeneratorSettings(pipeline="someone/model"), "c0ffee" * 6 + "c0ff"
    snapshot = tmp_path / "models--someone--model" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (tmp_path / "models--someone--model" / "refs").mkdir()
    (tmp_path / "models--someone--model" / "refs" / "main").write_text(commit)
    (snapshot / "model_index.json").write_text("{}")
    assert licence_of(settings) == "unknown"
    (snapshot / "README.md").write_text("---\nlicense: mit\n---\n")
    assert licence_of(settings) == "mit"


def test_an_endpoint_and_a_missing_folder_have_no_known_licence() -> None:
    assert licence_of(GeneratorSettings(**Server(url="http://host:8000/v1").settings())) == "unknown"
    assert licence_of(GeneratorSettings(pipeline="/no such/pipeline")) == "unknown"
