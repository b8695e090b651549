"""Checkpoints of the methods whose reference numbers are of the second collection, see `tests/methods/variants.py`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import yaml
from torch import Tensor

from syncclip.core.settings import UserError
from syncclip.interop.exports import export_prompts
from syncclip.interop.imports import import_prompts
from syncclip.runs import resolve
from syncclip.runs.build import build_parts
from syncclip.training.loop import load_prompts
from tests.interop import published
from tests.methods.test_mmrl import VARIANTS
from tests.methods.variants import Variant


class MmrlCase:
    """One variant of MMRL's file, as `published` asks for it."""

    method = "mmrl"

    def __init__(self, name: str) -> None:
        self.variant = self.fixture = Variant("mmrl", name)
        self.parameters = self.variant.under("param.")

    @property
    def overrides(self) -> list[str]:
        """What no shape tells."""
        told = self.variant.settings
        return [
            f"methods.mmrl.layers={told['REP_LAYERS']}",
            f"methods.mmrl.class_weight={told['ALPHA']}",
            f"dataset.template={told['template']}",
        ]

    def state_dict(self) -> dict[str, Tensor]:
        return {**self.parameters, **published._frozen(cast(Any, self))}

    def import_from(self, folder: Path, worlds: Path, *overrides: str) -> str:
        published.save(folder / "theirs", self.method, self.state_dict())
        recipe = published.recipe(worlds, cast(Any, self), *overrides)
        return import_prompts(str(folder / "theirs"), recipe, str(folder / "run")).url


@pytest.mark.parametrize("name", VARIANTS)
def test_a_published_checkpoint_gives_its_logits_parity(name: str, tmp_path: Path, worlds: Path) -> None:
    case = MmrlCase(name)
    run = case.import_from(tmp_path, worlds)
    method = build_parts(resolve.finished_run(run)[0]).method
    load_prompts(run, method)
    with torch.no_grad():
        logits, base = method.logits(case.variant["in.images"]), case.variant.base
    case.variant.differs("logits", "out.eval_decision_base", logits[:, :base])
    case.variant.differs("logits", "out.eval_decision_novel", logits[:, base:])


@pytest.mark.parametrize("name", VARIANTS)
def test_what_came_in_goes_out_and_comes_back_equal_parity(name: str, tmp_path: Path, worlds: Path) -> None:
    case = MmrlCase(name)
    run = case.import_from(tmp_path, worlds, "training.epochs=7")
    card = Path(export_prompts(run, str(tmp_path / "out")).card).read_text()

    path = tmp_path / "out" / published.FOLDERS["mmrl"] / "model.pth.tar-7"
    state = torch.load(path, weights_only=True)["state_dict"]
    assert state.keys() == case.parameters.keys()
    assert all(torch.equal(tensor, case.parameters[name]) for name, tensor in state.items())
    told = case.variant.settings
    shape = {key: told[key] for key in ("REP_LAYERS", "N_REP_TOKENS", "REP_DIM")} | {"SCALE": told["ALPHA"]}
    config = re.search(r"```yaml\n(TRAINER.*?)```", card, re.DOTALL)
    assert config is not None
    assert yaml.safe_load(config[1]) == {f"TRAINER.MMRL.{key}": value for key, value in shape.items()}

    again = import_prompts(str(tmp_path / "out"), resolve.finished_run(run)[0], str(tmp_path / "again"))
    assert again.notes == []
    prompts = "prompts.safetensors"
    assert (tmp_path / "again" / prompts).read_bytes() == (tmp_path / "run" / prompts).read_bytes()


def test_another_number_of_blocks_than_the_recipes_is_refused(tmp_path: Path, worlds: Path) -> None:
    case = MmrlCase("one")
    other = [1, 2] if len(case.variant.settings["REP_LAYERS"]) == 1 else [1]
    with pytest.raises(UserError, match=r"to_\w+\.1\.\w+ is (missing there|.* and unknown here)"):
        case.import_from(tmp_path, worlds, f"methods.mmrl.layers={other}")


def test_its_folder_is_maples_but_not_its_parameters(tmp_path: Path, worlds: Path) -> None:
    with pytest.raises(UserError, match="not the parameters of 'maple'; it looks like 'mmrl'; set training.method"):
        MmrlCase("main").import_from(tmp_path, worlds, "training.method=maple")
