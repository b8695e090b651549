from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from syncclip import storage
from syncclip.core.manifest import Manifest
from syncclip.core.session import current
from syncclip.core.settings import UserError
from syncclip.interop.dassl import find_checkpoint, read_checkpoint, write_checkpoint
from syncclip.storage.exports import Export
from tests.interop.published import checkpoint

FOLDERS = ["SynCLIP", "VLPromptLearner"]
STATE = {"ctx": torch.arange(6.0).view(2, 3)}


def save(path: Path, content: Any) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    return str(path)


def export_to(url: str) -> Export:
    return Export(url, Manifest(to="coop", source={}, version="1"), current())


def test_objects_of_dassl_and_numpy_are_ignored(tmp_path: Path) -> None:
    path = save(tmp_path / "model.pth.tar-3", checkpoint(STATE, epoch=3, val_result=np.float64(87.5)))
    with pytest.raises(Exception, match="CosineAnnealingLR"):
        torch.load(path, weights_only=True)
    read = read_checkpoint(path)
    assert (read.url, read.epoch) == (path, 3)
    assert torch.equal(read.state["ctx"], STATE["ctx"])


def test_a_state_dict_and_the_old_format_are_read(tmp_path: Path) -> None:
    assert read_checkpoint(save(tmp_path / "state", STATE)).epoch is None
    torch.save(checkpoint(STATE, epoch=2), tmp_path / "old", _use_new_zipfile_serialization=False)
    assert torch.equal(read_checkpoint(str(tmp_path / "old")).state["ctx"], STATE["ctx"])


def test_a_remote_checkpoint_is_read() -> None:
    storage.write_bytes("memory://published/model.pth.tar-1", Path(__file__).read_bytes())
    with pytest.raises(UserError, match="memory://published/model.pth.tar-1 is corrupt or not a PyTorch checkpoint"):
        read_checkpoint(find_checkpoint("memory://published", ["prompt_learner"]))
    write_checkpoint(export_to("memory://published"), STATE, epoch=1)
    assert torch.equal(read_checkpoint("memory://published/model.pth.tar-1").state["ctx"], STATE["ctx"])


class Command:
    """An object that runs a command when it is unpickled."""

    def __init__(self, call: Callable[..., Any], *arguments: str) -> None:
        self.call = call, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, ...]]:
        return self.call


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old format"])
@pytest.mark.parametrize("key", ["optimizer", "scheduler", "state_dict"])
@pytest.mark.parametrize("call", [os.system, exec], ids=["system", "exec"])
def test_code_in_a_pickle_is_refused_and_not_run(
    call: Callable[..., Any], key: str, zipped: bool, tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    command = Command(call, f"touch {mark}" if call is os.system else f"open({str(mark)!r}, 'w').close()")
    content = checkpoint(STATE, epoch=1, **{key: {"ctx": command}})
    torch.save(content, tmp_path / "evil", _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match=rf"evil was not loaded because loading would call .*{call.__name__}'"):
        read_checkpoint(str(tmp_path / "evil"))
    assert not mark.exists()
    torch.load(tmp_path / "evil", weights_only=False)
    assert mark.exists(), "unrestricted loading runs the code"


@pytest.mark.parametrize("data", [b"", b"hello\n", b"\x80\x04K\x01.", b"PK\x03\x04" + bytes(100), None])
def test_an_invalid_or_truncated_file_is_an_error(data: bytes | None, tmp_path: Path) -> None:
    path = Path(save(tmp_path / "file", checkpoint(STATE, epoch=1)))
    path.write_bytes(path.read_bytes()[:-100] if data is None else data)
    with pytest.raises(UserError, match=r"file (is corrupt or not a PyTorch checkpoint|contains no state dict)"):
        read_checkpoint(str(path))


@pytest.mark.parametrize("content", [{}, [1, 2], {"state_dict": {"ctx": 3}}, {"state_dict": None, "epoch": 1}])
def test_a_file_without_tensors_is_an_error(content: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no state dict of tensors"):
        read_checkpoint(save(tmp_path / "file", content))


def test_the_best_checkpoint_of_a_folder_is_selected_or_the_newest(tmp_path: Path) -> None:
    folder = tmp_path / "output" / "VLPromptLearner"
    for epoch in (5, 10):
        save(folder / f"model.pth.tar-{epoch}", STATE)
    for source in (folder.parent, folder):
        assert find_checkpoint(str(source), FOLDERS) == str(folder / "model.pth.tar-10")
        assert find_checkpoint(str(source), FOLDERS, epoch=5) == str(folder / "model.pth.tar-5")
    best = save(folder / "model-best.pth.tar", STATE)
    assert find_checkpoint(str(folder.parent), FOLDERS) == find_checkpoint(best, FOLDERS) == best


@pytest.mark.parametrize(
    ("source", "epoch", "message"),
    [
        ("nowhere", None, "nowhere: no such file or folder"),
        ("empty", None, "no model-best.pth.tar or model.pth.tar-N in this folder or in SynCLIP or VLPromptLearner"),
        ("folder/model.pth.tar-5", 5, "not a folder"),
        ("folder", 7, "no checkpoint for epoch 7; available epochs: 5"),
    ],
)
def test_a_missing_checkpoint_is_an_error(tmp_path: Path, source: str, epoch: int | None, message: str) -> None:
    (tmp_path / "empty").mkdir()
    save(tmp_path / "folder" / "model.pth.tar-5", STATE)
    with pytest.raises(UserError, match=message):
        find_checkpoint(str(tmp_path / source), FOLDERS, epoch=epoch)


def test_written_files_have_dassls_names_and_contents(tmp_path: Path) -> None:
    path = write_checkpoint(export_to(str(tmp_path)), {"ctx": STATE["ctx"].expand(2, 3)[:1]}, epoch=20)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["checkpoint", "model-best.pth.tar", "model.pth.tar-20"]
    assert (tmp_path / "checkpoint").read_text() == "model.pth.tar-20\n"
    content = torch.load(path, weights_only=True)
    state = content.pop("state_dict")
    assert content == {"epoch": 20, "optimizer": None, "scheduler": None, "val_result": None}
    assert state["ctx"].untyped_storage().nbytes() == 12, "a slice is saved without the rest of its tensor"
