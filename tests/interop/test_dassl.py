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
from syncclip.core.settings import UserError
from syncclip.interop.dassl import find_checkpoint, read_checkpoint, write_checkpoint
from syncclip.storage.exports import Export
from tests.interop.published import checkpoint

FOLDERS = ["SynCLIP", "VLPromptLearner"]
STATE = {"ctx": torch.arange(6.0).view(2, 3)}


def saved(path: Path, content: Any) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    return str(path)


def unfinished(url: str) -> Export:
    """An export that is being written."""
    return Export(url, Manifest(to="coop", source={}, version="1"))


def test_dassls_own_objects_are_passed_over(tmp_path: Path) -> None:
    path = saved(tmp_path / "model.pth.tar-3", checkpoint(STATE, epoch=3))
    with pytest.raises(Exception, match="CosineAnnealingLR"):
        torch.load(path, weights_only=True)  # they are there, and torch alone refuses them
    read = read_checkpoint(path)
    assert (read.url, read.epoch) == (path, 3)
    assert torch.equal(read.state["ctx"], STATE["ctx"])


def test_numbers_of_numpy_are_passed_over(tmp_path: Path) -> None:
    path = saved(tmp_path / "file", checkpoint(STATE, epoch=3, val_result=np.float64(87.5)))
    assert read_checkpoint(path).epoch == 3


def test_a_state_dict_alone_and_the_old_format_are_read(tmp_path: Path) -> None:
    assert read_checkpoint(saved(tmp_path / "alone", STATE)).epoch is None
    torch.save(checkpoint(STATE, epoch=2), tmp_path / "old", _use_new_zipfile_serialization=False)
    assert torch.equal(read_checkpoint(str(tmp_path / "old")).state["ctx"], STATE["ctx"])


def test_a_file_of_another_machine_is_read() -> None:
    storage.write_bytes("memory://published/model.pth.tar-1", Path(__file__).read_bytes())
    with pytest.raises(UserError, match="memory://published/model.pth.tar-1: not a torch checkpoint"):
        read_checkpoint(find_checkpoint("memory://published", ["prompt_learner"]))
    write_checkpoint(unfinished("memory://published"), STATE, epoch=1)
    assert torch.equal(read_checkpoint("memory://published/model.pth.tar-1").state["ctx"], STATE["ctx"])


class Command:
    """Unpickled by anyone who trusts the file, it leaves a mark."""

    def __init__(self, call: Callable[..., Any], *arguments: str) -> None:
        self.call = call, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, ...]]:
        return self.call


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old format"])
@pytest.mark.parametrize("where", ["optimizer", "scheduler", "state_dict"])
@pytest.mark.parametrize("call", [os.system, exec], ids=["system", "exec"])
def test_code_in_a_pickle_is_refused_and_not_run(
    call: Callable[..., Any], where: str, zipped: bool, tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    command = Command(call, f"touch {mark}" if call is os.system else f"open({str(mark)!r}, 'w').close()")
    content = checkpoint(STATE, epoch=1, **{where: {"ctx": command}})
    torch.save(content, tmp_path / "evil", _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match=rf"evil: would run '.*{call.__name__}'.*no code of it was run"):
        read_checkpoint(str(tmp_path / "evil"))
    assert not mark.exists()
    torch.load(tmp_path / "evil", weights_only=False)
    assert mark.exists(), "the file would have done it"


@pytest.mark.parametrize("data", [b"", b"hello\n", b"\x80\x04K\x01.", b"PK\x03\x04" + bytes(100)])
def test_a_file_that_is_not_torchs_is_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(data)
    with pytest.raises(UserError, match=r"file: (not a torch checkpoint|has no state dict)"):
        read_checkpoint(str(tmp_path / "file"))


def test_a_file_that_was_cut_off_is_refused(tmp_path: Path) -> None:
    path = Path(saved(tmp_path / "file", checkpoint(STATE, epoch=1)))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="or damaged"):
        read_checkpoint(str(path))


@pytest.mark.parametrize("content", [{}, [1, 2], {"state_dict": {"ctx": 3}}, {"state_dict": None, "epoch": 1}])
def test_a_file_without_tensors_is_refused(content: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no state dict of tensors"):
        read_checkpoint(saved(tmp_path / "file", content))


def test_of_a_folder_the_best_is_taken_else_the_newest(tmp_path: Path) -> None:
    folder = tmp_path / "output" / "VLPromptLearner"
    for epoch in (5, 10):
        saved(folder / f"model.pth.tar-{epoch}", STATE)
    for source in (folder.parent, folder):
        assert find_checkpoint(str(source), FOLDERS) == str(folder / "model.pth.tar-10")
        assert find_checkpoint(str(source), FOLDERS, epoch=5) == str(folder / "model.pth.tar-5")
    saved(folder / "model-best.pth.tar", STATE)
    assert find_checkpoint(str(folder.parent), FOLDERS) == str(folder / "model-best.pth.tar")
    with pytest.raises(UserError, match="no checkpoint of epoch 7; there are epochs 5, 10"):
        find_checkpoint(str(folder), FOLDERS, epoch=7)


def test_what_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere: no such file or folder"):
        find_checkpoint(str(tmp_path / "nowhere"), FOLDERS)
    with pytest.raises(
        UserError, match="no model-best.pth.tar or model.pth.tar-N there or in a folder SynCLIP or VLPromptLearner"
    ):
        find_checkpoint(str(tmp_path), FOLDERS)
    file = saved(tmp_path / "model.pth.tar-1", STATE)
    assert find_checkpoint(file, FOLDERS) == file
    with pytest.raises(UserError, match="a single file"):
        find_checkpoint(file, FOLDERS, epoch=1)


def test_written_files_have_dassls_names_and_torch_reads_them_without_trust(tmp_path: Path) -> None:
    path = write_checkpoint(unfinished(str(tmp_path)), {"ctx": STATE["ctx"].expand(2, 3)[:1]}, epoch=20)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["checkpoint", "model-best.pth.tar", "model.pth.tar-20"]
    assert (tmp_path / "checkpoint").read_text() == "model.pth.tar-20\n"
    content = torch.load(path, weights_only=True)
    assert {key: content[key] for key in ("epoch", "optimizer", "scheduler", "val_result")} == {
        "epoch": 20,
        "optimizer": None,
        "scheduler": None,
        "val_result": None,
    }
    assert content["state_dict"]["ctx"].untyped_storage().nbytes() == 12, (
        "a part of a tensor brings no more than itself"
    )
