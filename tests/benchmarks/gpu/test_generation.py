"""Plain diffusers and ours generate the same images; every row has figures or a reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu import generation
from benchmarks.gpu.shapes import FAMILIES, write_index
from syncclip.core.settings import UserError
from syncclip.synthesis.generators import loading

pytestmark = pytest.mark.nightly


@pytest.mark.parametrize("name", FAMILIES)
def test_both_sides_generate_the_same_images(name: str, tmp_path: Path) -> None:
    settings = FAMILIES[name].settings(write_index(tmp_path, name, tiny=True), height=64, width=64, steps=2)
    settings = settings.model_copy(update={"batch_size": 2})
    plain, ours = generation._plain(settings, "cpu", 2)(), generation._ours(settings, "cpu", 2)()
    assert [image.tobytes() for image in ours] == [image.tobytes() for image in plain]  # type: ignore[attr-defined]


@pytest.mark.slow
def test_every_speed_has_a_row_and_a_failure_does_not_affect_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "BACKEND", "eager")
    monkeypatch.setattr(generation, "BATCHES", (1, 2))
    ours = generation._ours

    def failing(settings: Any, device: str, batch: int) -> Any:
        if settings.speed == "max":
            raise UserError("torchao is missing\nhere")
        return ours(settings, device, batch)

    monkeypatch.setattr(generation, "_ours", failing)
    rows = list(generation.rows("flux", "cpu", tmp_path, tiny=True))
    torch._dynamo.reset()
    assert tuple(row["what"] for row in rows) == generation.WHATS
    assert rows.pop(3) == {"what": "max", "left_out": "torchao is missing"}
    for row in rows:
        assert row["batch"] in (1, 2) and row["steps"] == 4
        assert row["images_s"] == pytest.approx(row["batch"] / row["seconds"], rel=1e-2)
        assert row["peak_gb"] is None, "not measured on a CPU"
