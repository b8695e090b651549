"""Loading of backbones, and errors for those that cannot be loaded."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import fsspec
import open_clip
import pytest
import torch
from PIL import Image

from syncclip.clip import backbone
from syncclip.clip.backbone import BackboneSettings, load_backbone
from syncclip.core.settings import UserError
from tests.worlds.clip import make_clip_folder

pytestmark = pytest.mark.usefixtures("no_network")


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail each connection at once."""

    def fail(*_: object, **__: object) -> None:
        raise OSError("Network is unreachable")

    monkeypatch.setattr(socket.socket, "connect", fail)
    monkeypatch.setattr(socket, "getaddrinfo", fail)


def change_config(folder: Path, values: dict[str, Any]) -> None:
    """Change the text tower's settings in `open_clip_config.json`."""
    file = folder / "open_clip_config.json"
    config = json.loads(file.read_text())
    config["model_cfg"]["text_cfg"] |= values
    file.write_text(json.dumps(config))


@pytest.mark.parametrize("prefix", ["", "local-dir:"])
def test_a_folder_is_a_backbone(tmp_path: Path, prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_clip_folder(tmp_path / "clip")
    loaded = load_backbone(BackboneSettings(name=f"{prefix}{folder}"))
    assert loaded.image_size == 32
    assert loaded.mean == (0.5, 0.5, 0.5)
    assert loaded.logit_scale == pytest.approx(1 / 0.07)
    assert loaded.preprocess(Image.new("RGB", (50, 40))).shape == (3, 32, 32)
    assert not loaded.model.training
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    monkeypatch.chdir(tmp_path)
    assert BackboneSettings(name=f"{prefix}clip").placed() == BackboneSettings(name=str(folder))


def test_weights_become_absolute_paths_and_tags_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "weights.pt").touch()
    monkeypatch.chdir(tmp_path)
    assert BackboneSettings(name="ViT-B-16", pretrained="weights.pt").placed() == BackboneSettings(
        name="ViT-B-16", pretrained=str(tmp_path / "weights.pt")
    )
    for settings in (BackboneSettings(), BackboneSettings(name="ViT-B-16", pretrained="openai")):
        assert settings.placed() == settings


def test_the_tokenizer_of_the_tiny_clip_has_the_first_merges(tmp_path: Path) -> None:
    loaded = load_backbone(BackboneSettings(name=str(make_clip_folder(tmp_path, vocabulary=1024))))
    ids = loaded.tokenizer(["a Golden retriever"])[0].tolist()
    full = open_clip.SimpleTokenizer().encode("a golden retriever")
    assert ids[0] == 1022 and 1023 in ids
    assert len(ids[1 : ids.index(1023)]) > len(full)
    assert ids[1] == full[0]


def test_the_tiny_clip_is_deterministic(tmp_path: Path) -> None:
    first, second = (load_backbone(BackboneSettings(name=str(make_clip_folder(tmp_path / n)))) for n in "ab")
    assert all(map(torch.equal, first.model.parameters(), second.model.parameters()))


@pytest.mark.parametrize(
    ("name", "pretrained", "reason"),
    [
        ("VitB16", None, "did you mean 'ViT-B-16'"),
        ("ViT-B-16", None, "pretrained: no weights are specified; choose one of"),
        ("ViT-B-16", "openay", "'openay' is neither a tag"),
    ],
)
def test_unknown_names_and_tags_are_errors(name: str, pretrained: str | None, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        load_backbone(BackboneSettings(name=name, pretrained=pretrained))


@pytest.mark.parametrize(("name", "tag"), [("ViT-B-32-quickgelu", "openai"), ("hf-hub:nobody/nothing", None)])
def test_weights_that_are_not_cached_are_one_error_without_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, tag: str | None
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("time.sleep", lambda _: None)  # between retries
    with pytest.raises(UserError, match=f"'{name}'.*could not be loaded") as error:
        load_backbone(BackboneSettings(name=name, pretrained=tag))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "tag", "file"),
    [
        ("ViT-B-16", "openai", "models--timm--vit_base_patch16_clip_224.openai/open_clip_model.safetensors"),
        ("hf-hub:alice/clip", None, "models--alice--clip/open_clip_pytorch_model.bin"),
        ("ViTamin-S", "datacomp1b", "models--jienengchen--ViTamin-S/pytorch_model.bin"),
    ],
)
def test_published_weights_are_local_if_they_are_cached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, tag: str | None, file: str
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    settings = BackboneSettings(name=name, pretrained=tag)
    assert not backbone.is_local(settings)
    repository, _, weights = file.partition("/")
    for path, content in (("refs/main", "0" * 40), (f"snapshots/{'0' * 40}/{weights}", "")):
        (tmp_path / repository / path).parent.mkdir(parents=True)
        (tmp_path / repository / path).write_text(content)
    assert backbone.is_local(settings)


def test_the_bundled_model_and_files_are_local(tmp_path: Path) -> None:
    assert backbone.is_local(BackboneSettings())
    assert backbone.is_local(BackboneSettings(name=str(make_clip_folder(tmp_path))))
    (tmp_path / "weights.pt").touch()
    assert backbone.is_local(BackboneSettings(name="ViT-B-16", pretrained=str(tmp_path / "weights.pt")))


@pytest.mark.parametrize(
    ("file", "reason"),
    [("open_clip_config.json", "contains no CLIP model"), ("open_clip_model.safetensors", "could not be loaded")],
)
def test_an_incomplete_folder_is_an_error(tmp_path: Path, file: str, reason: str) -> None:
    (make_clip_folder(tmp_path) / file).unlink()
    with pytest.raises(UserError, match=reason):
        load_backbone(BackboneSettings(name=str(tmp_path)))


def test_openai_weights_use_quick_gelu() -> None:
    assert backbone._quick_gelu(BackboneSettings(name="ViT-B-16", pretrained="openai"))
    assert not backbone._quick_gelu(BackboneSettings(name="ViT-B-16", pretrained="laion2b_s34b_b88k"))


def test_a_config_with_trust_remote_code_is_rejected(tmp_path: Path) -> None:
    change_config(make_clip_folder(tmp_path), {"tokenizer_kwargs": {"trust_remote_code": True}})
    with pytest.raises(UserError, match="requires remote code"):
        load_backbone(BackboneSettings(name=str(tmp_path)))


def test_remote_code_is_rejected_without_a_prompt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change_config(make_clip_folder(tmp_path), {"hf_tokenizer_name": "x"})
    tokenizer = {"tokenizer_class": "Custom", "auto_map": {"AutoTokenizer": ["custom.Custom", None]}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    (tmp_path / "custom.py").write_text("raise SystemExit")
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    with pytest.raises(UserError, match="could not be loaded"):
        load_backbone(BackboneSettings(name=str(tmp_path)))


def test_weights_at_a_url_are_loaded_from_a_local_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []

    def load(*_: Any, pretrained: str, **__: Any) -> None:
        loaded.append((Path(pretrained).name, Path(pretrained).read_bytes()))
        raise RuntimeError("no weights")

    monkeypatch.setenv("SYNCCLIP_CACHE", str(tmp_path))
    monkeypatch.setattr("open_clip.create_model_and_transforms", load)
    fsspec.filesystem("memory").pipe("/clip/weights.safetensors", b"tensors")
    settings = BackboneSettings(name="ViT-B-16", pretrained="memory://clip/weights.safetensors")
    assert not backbone.is_local(settings)
    with pytest.raises(UserError, match="no weights"):
        load_backbone(settings)
    assert loaded == [("weights.safetensors", b"tensors")]
