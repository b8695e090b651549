from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from syncclip import storage
from syncclip.core.settings import UserError
from syncclip.synthesis.generators.pipeline import Generator
from syncclip.synthesis.generators.settings import GeneratorSettings
from syncclip.synthesis.generators.weights import locate, parts_of
from syncclip.synthesis.prompts.captions import WriterSettings
from syncclip.synthesis.prompts.writer import Writer
from tests.object_store import s3_bucket
from tests.synthesis.generators.conftest import pixels, settings_of

CHANGED = "differ from those that the dataset was created with"


def flip_last_byte(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")


def test_changed_weights_are_an_error(pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(pipeline, tmp_path, dirs_exist_ok=True)
    planned = locate(settings_of(tmp_path)).fingerprint
    assert planned == locate(settings_of(pipeline)).fingerprint
    assert locate(settings_of(tmp_path), planned).fingerprint == planned
    flip_last_byte(tmp_path / "unet" / "diffusion_pytorch_model.safetensors")
    monkeypatch.chdir(tmp_path.parent)
    with pytest.raises(UserError, match=f"at {tmp_path} {CHANGED}"):
        locate(settings_of(Path(tmp_path.name)), planned)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No name is resolved, and the hub's cache is empty."""

    def fail(*_: Any, **__: Any) -> None:
        raise socket.gaierror("no network")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("name", ["someone/no-such-model", "no-such-folder"])
def test_a_missing_generator_without_a_network_is_reported(name: str) -> None:
    with pytest.raises(UserError, match=r"the hub can't be reached .*; correct the name") as failure:
        locate(GeneratorSettings(pipeline=name))
    assert "\n" not in str(failure.value)


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("part", ["pipeline", "vae", "loras", "model"])
def test_a_missing_folder_is_not_looked_up_on_the_hub(
    pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = {
        "pipeline": lambda name: locate(GeneratorSettings(pipeline=name)),
        "vae": lambda name: locate(settings_of(pipeline, vae=name)),
        "loras": lambda name: locate(settings_of(pipeline, loras=[{"weights": name}])),
        "model": lambda name: Writer(WriterSettings(model=name)),
    }
    for name in ("models/sd", "models/sd/v1"):
        with pytest.raises(UserError, match="the hub can't be reached|nor a valid hub name"):
            settings[part](name)
    (tmp_path / "models").mkdir()
    for name in ("models/sd", "models/sd/v1"):
        with pytest.raises(UserError, match=f"the folder 'models' exists, but '{name}' does not; correct the path"):
            settings[part](name)


@pytest.mark.usefixtures("no_network")
def test_a_commit_on_the_hub_is_not_confused_with_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "someone").mkdir()
    with pytest.raises(UserError, match="the hub can't be reached"):
        locate(GeneratorSettings(pipeline="someone/model", revision="c0ffee" * 6 + "c0ff"))


@pytest.mark.usefixtures("no_network")
def test_the_parts_of_a_cached_pipeline_are_read_offline(tmp_path: Path) -> None:
    settings = GeneratorSettings(pipeline="someone/model")
    assert parts_of(settings) is None
    repository = tmp_path / "models--someone--model"
    (repository / "snapshots" / "c0ffee").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("c0ffee")
    index = repository / "snapshots" / "c0ffee" / "model_index.json"
    index.write_text('{"_class_name": "X", "unet": ["diffusers", "U"], "safety_checker": [null, null]}')
    assert parts_of(settings) == {"unet"}
    index.write_text("{")
    assert parts_of(settings) is None


def test_the_parts_of_a_folder_are_read_from_its_index(pipeline: Path, tmp_path: Path) -> None:
    parts = parts_of(settings_of(pipeline))
    assert parts is not None and "unet" in parts and "safety_checker" not in parts
    assert parts_of(settings_of(tmp_path)) is None
    assert parts_of(GeneratorSettings(pipeline="/no such/pipeline")) is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing", "the folder doesn't exist; check the path"),
        ("", r"has no model_index\.json"),
        ("model.safetensors", "is a file; convert it with diffusers' from_single_file"),
    ],
)
def test_a_path_without_a_pipeline_is_an_error(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=message):
        locate(GeneratorSettings(pipeline=str(tmp_path / name)))


@pytest.fixture
def lora(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with two files of LoRA weights."""
    for name in ("one.safetensors", "two.safetensors"):
        (tmp_path / name).write_bytes(name.encode())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_lora_weights_are_part_of_the_fingerprint(pipeline: Path, lora: Path) -> None:
    plain, one, two = (
        locate(settings_of(pipeline, loras=loras)).fingerprint
        for loras in ([], *([{"weights": ".", "file": f"{name}.safetensors"}] for name in ("one", "two")))
    )
    assert len({plain, one, two}) == 3
    assert one.startswith(f"{plain}+") and two.startswith(f"{plain}+")


def test_paths_of_lora_weights_are_made_absolute_and_changes_are_errors(pipeline: Path, lora: Path) -> None:
    settings = settings_of(pipeline, loras=[{"weights": "one.safetensors", "scale": 0.5}])
    located = locate(settings)
    assert located.loras[0].weights == f"{lora}/one.safetensors" and located.loras[0].scale == 0.5
    assert locate(settings, located.fingerprint) == located
    (lora / "one.safetensors").write_bytes(b"else")
    with pytest.raises(UserError, match=f"LoRA weights 'one.safetensors': the weights at {lora}/one.safetensors"):
        locate(settings, located.fingerprint)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"weights": "."}, "pytorch_lora_weights.safetensors is not in the folder, which contains one.safetensors"),
        ({"weights": ".", "file": "three.safetensors"}, "three.safetensors is not in the folder"),
        ({"weights": "weights.bin"}, "only .safetensors files"),
    ],
)
def test_invalid_lora_weights_are_errors(pipeline: Path, lora: Path, values: dict[str, Any], message: str) -> None:
    (lora / "weights.bin").write_bytes(b"pickle")
    with pytest.raises(UserError, match=message):
        locate(settings_of(pipeline, loras=[values]))


def test_links_to_lora_weights_are_kept(pipeline: Path, lora: Path) -> None:
    """In the hub's cache they lead to files without an extension."""
    (lora / "one.safetensors").rename(lora / "c0ffee")
    (lora / "one.safetensors").symlink_to(lora / "c0ffee")
    settings = settings_of(pipeline, loras=[{"weights": str(lora / "one.safetensors")}])
    located = locate(settings)
    assert locate(located.placed(settings), located.fingerprint) == located


def test_a_replaced_autoencoder_is_part_of_the_fingerprint(pipeline: Path, tmp_path: Path) -> None:
    vae = shutil.copytree(pipeline / "vae", tmp_path / "vae")
    settings = settings_of(pipeline, vae=str(vae))
    located = locate(settings)
    assert located.fingerprint.startswith(locate(settings_of(pipeline)).fingerprint + "+")
    assert located.placed(settings).vae == str(vae) and located.vae == (str(vae), None)
    assert locate(settings, located.fingerprint) == located
    flip_last_byte(vae / "diffusion_pytorch_model.safetensors")
    assert locate(settings).fingerprint != located.fingerprint
    with pytest.raises(UserError, match=f"vae '.*': the weights at .* {CHANGED}"):
        locate(settings, located.fingerprint)


@pytest.mark.usefixtures("no_network")
def test_a_missing_autoencoder_is_reported(pipeline: Path) -> None:
    with pytest.raises(UserError, match="vae 'someone/vae' is neither a folder nor in the local Hugging"):
        locate(settings_of(pipeline, vae="someone/vae"))
    planned = locate(settings_of(pipeline)).fingerprint + "+c0ffee"
    assert locate(settings_of(pipeline, vae="someone/vae"), planned).vae == ("someone/vae", "c0ffee")


@pytest.fixture
def remote_pipeline(pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """URL of a copy of the pipeline."""
    monkeypatch.setenv("SYNCCLIP_CACHE", str(tmp_path / "cache"))
    with s3_bucket() as bucket:
        for file in pipeline.rglob("*"):
            if file.is_file():
                storage.publish(file, f"{bucket}/models/sd/{file.relative_to(pipeline)}")
        storage.write_bytes(f"{bucket}/models/sd/checkpoint.safetensors", b"a file that the pipeline does not need")
        yield f"{bucket}/models/sd"


def test_a_pipeline_at_a_url_generates_the_same_images(pipeline: Path, remote_pipeline: str) -> None:
    settings = settings_of(pipeline)
    remote = settings.model_copy(update={"pipeline": remote_pipeline})
    assert parts_of(remote) == parts_of(settings)
    fingerprint = locate(remote).fingerprint
    images = [
        Generator(each, fingerprint=print_).generate(["a cat"], [1])
        for each, print_ in ((settings, ""), (remote, fingerprint))
    ]
    assert pixels(images[0]) == pixels(images[1])
    needed = {str(f.relative_to(pipeline)) for f in pipeline.glob("*/*")} | {"model_index.json"}
    assert (locate(remote).files or {}).keys() <= needed


def test_changed_weights_at_a_url_are_an_error(remote_pipeline: str) -> None:
    settings = GeneratorSettings(pipeline=remote_pipeline)
    planned = locate(settings).fingerprint
    storage.write_bytes(f"{remote_pipeline}/unet/config.json", b"{}")
    with pytest.raises(UserError, match=f"at {remote_pipeline} {CHANGED}"):
        locate(settings, planned)


def test_a_url_without_a_pipeline_is_an_error(remote_pipeline: str) -> None:
    with pytest.raises(UserError, match="model_index.json is missing; upload a folder"):
        locate(GeneratorSettings(pipeline=f"{remote_pipeline}/unet"))
