from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from syncclip.settings import UserError
from syncclip.synthesis.generators import Generator, GeneratorSettings, locate

PROMPTS = ["a photo of a cat.", "a photo of a dog."]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def settings_of(pipeline: Path, **settings: Any) -> GeneratorSettings:
    return GeneratorSettings(pipeline=str(pipeline), **{"steps": 2, **settings})


def test_pictures_have_the_pipelines_own_size_and_differ_with_prompt_and_seed(pipeline: Path) -> None:
    generator = Generator(settings_of(pipeline))
    cat, dog, other = generator.draw([*PROMPTS, PROMPTS[0]], [1, 1, 2])
    assert cat.size == (64, 64) and cat.mode == "RGB"
    assert np.abs(np.asarray(cat, float) - np.asarray(dog, float)).mean() > 1
    assert np.abs(np.asarray(cat, float) - np.asarray(other, float)).mean() > 1


def test_the_same_batch_gives_the_same_bytes_from_a_generator_loaded_anew(pipeline: Path) -> None:
    first, second = (Generator(settings_of(pipeline)).draw(PROMPTS, [5, 2**32 - 1]) for _ in range(2))
    assert [image.tobytes() for image in first] == [image.tobytes() for image in second]


@pytest.mark.parametrize(
    "change",
    [{"steps": 3}, {"guidance": 1.0}, {"negative_prompt": "a dog"}, {"scheduler": "EulerAncestralDiscreteScheduler"}],
)
def test_each_setting_reaches_the_pipeline(pipeline: Path, change: dict[str, Any]) -> None:
    plain = Generator(settings_of(pipeline)).draw(PROMPTS, [1, 2])
    changed = Generator(settings_of(pipeline, **change)).draw(PROMPTS, [1, 2])
    assert plain[0].tobytes() != changed[0].tobytes()


def test_height_and_width_are_obeyed(pipeline: Path) -> None:
    assert Generator(settings_of(pipeline, height=32, width=48)).draw(PROMPTS, [1, 2])[0].size == (48, 32)


def test_drawing_prints_nothing(pipeline: Path, capfd: pytest.CaptureFixture[str]) -> None:
    Generator(settings_of(pipeline)).draw(PROMPTS, [1, 2])
    assert capfd.readouterr() == ("", "")


def test_an_unknown_scheduler_is_refused_with_the_nearest(pipeline: Path) -> None:
    with pytest.raises(UserError, match=r"no scheduler 'EulerScheduler'; did you mean '.*Euler"):
        Generator(settings_of(pipeline, scheduler="EulerScheduler"))


def test_a_pipeline_that_needs_a_picture_is_refused(pipeline: Path, tmp_path: Path) -> None:
    shutil.copytree(pipeline, tmp_path, dirs_exist_ok=True)
    index = json.loads((tmp_path / "model_index.json").read_text())
    index["_class_name"] = "StableDiffusionImg2ImgPipeline"
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="needs 'image'; give a text-to-image pipeline"):
        Generator(settings_of(tmp_path))


def test_a_damaged_pipeline_is_told_in_a_sentence(pipeline: Path, tmp_path: Path) -> None:
    shutil.copytree(pipeline, tmp_path, dirs_exist_ok=True)
    (tmp_path / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match="can't be loaded from"):
        Generator(settings_of(tmp_path))


def test_other_weights_than_planned_are_refused(pipeline: Path, tmp_path: Path) -> None:
    shutil.copytree(pipeline, tmp_path, dirs_exist_ok=True)
    planned = locate(settings_of(tmp_path)).fingerprint
    assert planned == locate(settings_of(pipeline)).fingerprint
    assert locate(settings_of(tmp_path), planned).fingerprint == planned
    weights = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(UserError, match="not those that the set was begun with"):
        locate(settings_of(tmp_path), planned)


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
    with pytest.raises(UserError, match=r"the hub can't be reached .*; correct the name") as refusal:
        locate(GeneratorSettings(pipeline=name))
    assert "\n" not in str(refusal.value)


def test_a_path_that_is_no_hub_name_is_told_so_without_asking_the_hub(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder, and it is no name of the hub"):
        locate(GeneratorSettings(pipeline=str(tmp_path / "missing")))


def test_a_folder_without_a_pipeline_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no model_index\.json"):
        locate(GeneratorSettings(pipeline=str(tmp_path)))
