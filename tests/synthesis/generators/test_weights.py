from __future__ import annotations

import shutil
import socket
from pathlib import Path
from typing import Any

import pytest

from syncclip.core.settings import UserError
from syncclip.synthesis.generators.settings import GeneratorSettings
from syncclip.synthesis.generators.weights import locate, parts_of
from tests.synthesis.generators.conftest import settings_of


def test_other_weights_than_planned_are_errors(pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(pipeline, tmp_path, dirs_exist_ok=True)
    planned = locate(settings_of(tmp_path)).fingerprint
    assert planned == locate(settings_of(pipeline)).fingerprint
    assert locate(settings_of(tmp_path), planned).fingerprint == planned
    weights = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    monkeypatch.chdir(tmp_path.parent)
    with pytest.raises(UserError, match=f"at {tmp_path} are not those that the set was started with"):
        locate(settings_of(Path(tmp_path.name)), planned)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No name is resolved, and the hub's cache is empty."""

    def refuse(*_: Any, **__: Any) -> None:
        raise socket.gaierror("no network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("name", ["someone/no-such-model", "no-such-folder"])
def test_a_missing_generator_without_a_network_is_one_sentence(name: str) -> None:
    with pytest.raises(UserError, match=r"the hub can't be reached .*; correct the name") as failure:
        locate(GeneratorSettings(pipeline=name))
    assert "\n" not in str(failure.value)


@pytest.mark.usefixtures("no_network")
def test_a_cached_pipelines_parts_are_read_without_a_network(tmp_path: Path) -> None:
    asked = GeneratorSettings(pipeline="someone/model")
    assert parts_of(asked) is None
    repository = tmp_path / "models--someone--model"
    (repository / "snapshots" / "c0ffee").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("c0ffee")
    index = repository / "snapshots" / "c0ffee" / "model_index.json"
    index.write_text('{"_class_name": "X", "unet": ["diffusers", "U"], "safety_checker": [null, null]}')
    assert parts_of(asked) == {"unet"}
    index.write_text("{")
    assert parts_of(asked) is None


def test_a_folders_parts_are_read_of_its_index(pipeline: Path, tmp_path: Path) -> None:
    parts = parts_of(settings_of(pipeline))
    assert parts is not None and "unet" in parts and "safety_checker" not in parts
    assert parts_of(settings_of(tmp_path)) is None
    assert parts_of(GeneratorSettings(pipeline="/no such/pipeline")) is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing", "there is no such folder; check the path"),
        ("", r"has no model_index\.json"),
        ("model.safetensors", "this is a file; load it once with .*from_single_file"),
    ],
)
def test_a_path_without_a_pipeline_is_an_error_without_the_hub(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=message):
        locate(GeneratorSettings(pipeline=str(tmp_path / name)))


@pytest.fixture
def lora(tmp_path: Path) -> Path:
    """A folder with two files of LoRA weights."""
    for name in ("one.safetensors", "two.safetensors"):
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path


def test_lora_weights_are_part_of_the_fingerprint(pipeline: Path, lora: Path) -> None:
    plain = locate(settings_of(pipeline)).fingerprint
    one, two = (
        locate(settings_of(pipeline, loras=[{"weights": str(lora), "file": f"{name}.safetensors"}])).fingerprint
        for name in ("one", "two")
    )
    assert len({plain, one, two}) == 3
    assert one.startswith(f"{plain}+") and two.startswith(f"{plain}+")


def test_other_lora_weights_than_planned_are_errors(
    pipeline: Path, lora: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(pipeline, loras=[{"weights": str(lora / "one.safetensors")}])
    planned = locate(settings).fingerprint
    assert [one.weights for one in locate(settings, planned).loras] == [str(lora / "one.safetensors")]
    (lora / "one.safetensors").write_bytes(b"else")
    monkeypatch.chdir(lora)
    with pytest.raises(UserError, match=f"LoRA weights 'one.safetensors': the weights at {lora}/one.safetensors are"):
        locate(settings_of(pipeline, loras=[{"weights": "one.safetensors"}]), planned)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"weights": "."}, r"there is no pytorch_lora_weights.safetensors, it holds one.safetensors, two"),
        ({"weights": ".", "file": "three.safetensors"}, "there is no three.safetensors"),
        ({"weights": "weights.bin"}, "no .safetensors file"),
    ],
)
def test_lora_weights_that_cannot_be_found_or_read_are_reported(
    pipeline: Path, lora: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], message: str
) -> None:
    (lora / "weights.bin").write_bytes(b"pickle")
    monkeypatch.chdir(lora)
    with pytest.raises(UserError, match=message):
        locate(settings_of(pipeline, loras=[given]))


def test_a_relative_place_is_made_absolute_for_other_processes(
    pipeline: Path, lora: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(lora)
    settings = settings_of(pipeline, loras=[{"weights": "one.safetensors", "scale": 0.5}])
    placed = locate(settings).loras[0]
    assert (placed.weights, placed.scale) == (str(lora / "one.safetensors"), 0.5)


def test_a_link_to_lora_weights_is_kept_as_the_hubs_cache_links_to_files_of_other_names(
    pipeline: Path, lora: Path
) -> None:
    (lora / "one.safetensors").rename(lora / "c0ffee")
    (lora / "one.safetensors").symlink_to(lora / "c0ffee")
    settings = settings_of(pipeline, loras=[{"weights": str(lora / "one.safetensors")}])
    located = locate(settings)
    assert locate(located.placed(settings), located.fingerprint) == located


def test_another_autoencoder_is_part_of_the_fingerprint(pipeline: Path, tmp_path: Path) -> None:
    vae = shutil.copytree(pipeline / "vae", tmp_path / "vae")
    settings = settings_of(pipeline, vae=str(vae))
    located = locate(settings)
    assert located.fingerprint.startswith(locate(settings_of(pipeline)).fingerprint + "+")
    assert located.placed(settings).vae == str(vae) and located.vae == (str(vae), None)
    assert locate(settings, located.fingerprint) == located
    weights = vae / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    assert locate(settings).fingerprint != located.fingerprint
    with pytest.raises(UserError, match="vae '.*': the weights at .* are not those that the set was started with"):
        locate(settings, located.fingerprint)


@pytest.mark.usefixtures("no_network")
def test_an_autoencoder_that_is_nowhere_is_reported(pipeline: Path) -> None:
    with pytest.raises(UserError, match="vae 'someone/vae': there is no such folder, it is not in the local Hugging"):
        locate(settings_of(pipeline, vae="someone/vae"))
    planned = locate(settings_of(pipeline)).fingerprint + "+c0ffee"
    assert locate(settings_of(pipeline, vae="someone/vae"), planned).vae == ("someone/vae", "c0ffee")
