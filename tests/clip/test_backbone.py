"""A backbone loads from a folder, and what cannot be loaded is told in one sentence."""

from __future__ import annotations

import json
import socket
from pathlib import Path

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
    """As on a machine without a network; and should a test try, it fails at once."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError("Network is unreachable")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.parametrize("prefix", ["", "local-dir:"])
def test_a_folder_is_a_backbone(tmp_path: Path, prefix: str) -> None:
    folder = make_clip_folder(tmp_path / "clip")
    loaded = load_backbone(BackboneSettings(name=f"{prefix}{folder}"))
    assert loaded.image_size == 32
    assert loaded.mean == (0.5, 0.5, 0.5)
    assert loaded.logit_scale == pytest.approx(1 / 0.07)
    assert loaded.preprocess(Image.new("RGB", (50, 40))).shape == (3, 32, 32)
    assert not loaded.model.training
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())


@pytest.mark.parametrize("prefix", ["", "local-dir:"])
def test_a_relative_folder_is_made_absolute_for_other_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prefix: str
) -> None:
    folder = make_clip_folder(tmp_path / "clip")
    monkeypatch.chdir(tmp_path)
    assert BackboneSettings(name=f"{prefix}clip").placed() == BackboneSettings(name=str(folder))


def test_relative_weights_are_made_absolute_and_names_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "weights.pt").touch()
    monkeypatch.chdir(tmp_path)
    assert BackboneSettings(name="ViT-B-16", pretrained="weights.pt").placed() == BackboneSettings(
        name="ViT-B-16", pretrained=str(tmp_path / "weights.pt")
    )
    for named in (BackboneSettings(), BackboneSettings(name="ViT-B-16", pretrained="openai")):
        assert named.placed() == named


def test_the_embedded_backbone_is_called_icons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_clip_folder(tmp_path / "icons" / "clip")
    monkeypatch.setattr(backbone, "CLIP", tmp_path / "icons" / "clip")
    assert load_backbone(BackboneSettings()).name == "icons"


def test_a_short_vocabulary_cuts_words_but_keeps_start_and_end_the_largest_ids(tmp_path: Path) -> None:
    loaded = load_backbone(BackboneSettings(name=str(make_clip_folder(tmp_path, vocabulary=1024))))
    ids = loaded.tokenizer(["a Golden retriever"])[0].tolist()
    full = open_clip.SimpleTokenizer().encode("a golden retriever")
    assert ids[0] == 1022 and 1023 in ids
    assert len(ids[1 : ids.index(1023)]) > len(full)
    assert ids[1] == full[0]


def test_the_same_seed_makes_the_same_world(tmp_path: Path) -> None:
    first, second = (load_backbone(BackboneSettings(name=str(make_clip_folder(tmp_path / n)))) for n in "ab")
    for ours, theirs in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'ViT-B-16'"):
        load_backbone(BackboneSettings(name="VitB16"))


def test_a_model_without_weights_named_lists_its_tags() -> None:
    with pytest.raises(UserError, match="pretrained: is not set"):
        load_backbone(BackboneSettings(name="ViT-B-16"))


def test_an_unknown_tag_lists_the_tags() -> None:
    with pytest.raises(UserError, match="'openay' is neither a tag"):
        load_backbone(BackboneSettings(name="ViT-B-16", pretrained="openay"))


@pytest.mark.parametrize(("name", "tag"), [("ViT-B-32-quickgelu", "openai"), ("hf-hub:nobody/nothing", None)])
def test_weights_that_are_not_here_and_no_network_are_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, tag: str | None
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("time.sleep", lambda _: None)  # the hub's client tries again and again
    with pytest.raises(UserError, match=f"'{name}'.*could not be loaded") as caught:
        load_backbone(BackboneSettings(name=name, pretrained=tag))
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no CLIP in .*open_clip_config\.json"):
        load_backbone(BackboneSettings(name=str(tmp_path)))


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    (make_clip_folder(tmp_path) / "open_clip_model.safetensors").unlink()
    with pytest.raises(UserError, match="could not be loaded"):
        load_backbone(BackboneSettings(name=str(tmp_path)))


def test_openais_weights_bring_their_own_activation() -> None:
    assert backbone._quick_gelu(BackboneSettings(name="ViT-B-16", pretrained="openai"))
    assert not backbone._quick_gelu(BackboneSettings(name="ViT-B-16", pretrained="laion2b_s34b_b88k"))


def test_a_model_that_asks_for_code_of_its_own_is_refused(tmp_path: Path) -> None:
    folder = make_clip_folder(tmp_path / "clip")
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"]["tokenizer_kwargs"] = {"trust_remote_code": True}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="requires remote code"):
        load_backbone(BackboneSettings(name=str(folder)))


def test_nobody_is_asked_whether_to_run_a_models_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_clip_folder(tmp_path / "clip")
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"]["hf_tokenizer_name"] = "x"
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    tokenizer = {"tokenizer_class": "Planted", "auto_map": {"AutoTokenizer": ["planted.Planted", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    (folder / "planted.py").write_text("raise SystemExit")
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    with pytest.raises(UserError, match="could not be loaded"):
        load_backbone(BackboneSettings(name=str(folder)))
