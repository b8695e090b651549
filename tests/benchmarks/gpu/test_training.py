"""Every formulation of a step has a row; those that need a GPU are skipped on a CPU."""

from __future__ import annotations

import json
from pathlib import Path

import open_clip
import pytest
import torch

from benchmarks.gpu import training

pytestmark = pytest.mark.nightly

TINY = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 32, "layers": 3, "head_width": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 3},
}


@pytest.mark.slow
def test_a_step_is_measured_in_every_formulation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "syncclip-tiny.json").write_text(json.dumps(TINY))
    open_clip.add_model_config(tmp_path / "syncclip-tiny.json")
    monkeypatch.setattr(training, "BACKEND", "eager")
    rows = {row["what"]: row for row in training.rows("cpu", ("syncclip-tiny",), classes=4, batch=2)}
    torch._dynamo.reset()
    assert set(rows) == {f"syncclip-tiny: {what}" for what in training.STEPS}
    skipped = {what for what, row in rows.items() if "left_out" in row}
    if not torch.cuda.is_available():
        names = ("CUDA graph", "batch from page-locked memory")
        assert skipped == {f"syncclip-tiny: ours, bf16, {name}" for name in names}
    for what in rows.keys() - skipped:
        assert rows[what]["seconds"] > 0 and rows[what]["batch"] == 2
