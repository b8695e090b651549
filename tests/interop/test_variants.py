"""Checkpoints of methods with reference values in `tests/methods/variants.py`: MMRL and PromptKD."""

from __future__ import annotations

import hashlib
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save
from torch import Tensor

from syncclip import jobs, storage
from syncclip.core.settings import UserError
from syncclip.interop.exports import export_prompts
from syncclip.interop.imports import import_prompts
from syncclip.recipe.recipe import Recipe
from syncclip.stream.teacher import TEACHER, VECTORS, TeacherFiles
from tests.conftest import TinyWorld
from tests.interop import published
from tests.methods import distilled, parity
from tests.methods.test_mmrl import VARIANTS
from tests.methods.variants import Variant
from tests.worlds.teacher import teach_here, zero_shot


class MmrlCase:
    """A variant of MMRL's reference values, with the interface of `published.Case`."""

    method, logits_key = "mmrl", "decision"

    def __init__(self, name: str, _: Path) -> None:
        self.variant = self.fixture = Variant("mmrl", name)
        self.parameters = self.variant.under("param.")
        values = self.variant.settings
        self.overrides = [
            f"methods.mmrl.layers={values['REP_LAYERS']}",
            f"methods.mmrl.class_weight={values['ALPHA']}",
            f"dataset.template={values['template']}",
        ]
        self.config = {key: values[key] for key in ("REP_LAYERS", "N_REP_TOKENS", "REP_DIM")}
        self.config["SCALE"] = values["ALPHA"]

    def state_dict(self, **changes: Tensor) -> dict[str, Tensor]:
        return {**self.parameters, **published.frozen_clip(self), **changes}


class PromptKdCase:
    """A variant of PromptKD's reference values, with teacher files that contain its class vectors."""

    method, logits_key = "promptkd", "logits"

    def __init__(self, name: str, folder: Path) -> None:
        self.variant = self.fixture = distilled.Distilled(name)
        # published checkpoints have 1x1 convolutions, and the running statistics of batch norm
        self.parameters = Variant("promptkd", name).under("param.") | {
            f"VPT_image_trans.conv1.1.{key}": self.variant[f"in.{key}"] for key in ("running_mean", "running_var")
        }
        self.teacher = str(folder / "teacher")
        self.overrides = [f"training.teacher={self.teacher}"]
        self.config = {key: self.variant.settings[key] for key in ("N_CTX_VISION", "PROMPT_DEPTH_VISION")}
        self.write_teacher(self.variant.classnames)

    def write_teacher(self, classnames: list[str]) -> None:
        data = save({"class_vectors": self.variant.teacher().text_features().detach()})
        storage.write_bytes(storage.join(self.teacher, VECTORS), data)
        files = TeacherFiles(
            name="teacher",
            digest="digest",
            classnames=tuple(classnames),
            dim=self.variant.settings["teacher"]["dim"],
            vectors_sha256=hashlib.sha256(data).hexdigest(),
            shards=(),
        )
        storage.write_with_checksum(storage.join(self.teacher, TEACHER), files.model_dump_json().encode())

    def state_dict(self, **changes: Tensor) -> dict[str, Tensor]:
        state = {**self.parameters, **published.frozen_clip(self), **changes}
        state["VPT_image_trans.conv1.1.num_batches_tracked"] = torch.tensor(640)
        return {key: tensor for key, tensor in state.items() if not key.startswith("text_encoder.")}


AnyCase = MmrlCase | PromptKdCase


@pytest.fixture(
    params=[(MmrlCase, name) for name in VARIANTS] + [(PromptKdCase, name) for name in distilled.VARIANTS],
    ids=lambda param: f"{param[0].method}-{param[1]}",
)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> AnyCase:
    cls, name = request.param
    return cls(name, tmp_path)


def import_case(case: AnyCase, folder: Path, worlds: Path, *overrides: str, **changes: Tensor) -> str:
    return published.import_case(case, folder, worlds, *overrides, state=case.state_dict(**changes)).url


def test_a_published_checkpoint_gives_its_logits_parity(case: AnyCase, tmp_path: Path, worlds: Path) -> None:
    run = import_case(case, tmp_path, worlds)
    shutil.rmtree(tmp_path / "teacher", ignore_errors=True)  # evaluation does not require the teacher
    method = published.load_run(run)
    with torch.no_grad():
        logits, base = method.logits(case.variant["in.images"]), case.variant.base
    case.variant.check_close("logits", f"out.eval_{case.logits_key}_base", logits[:, :base])
    case.variant.check_close("logits", f"out.eval_{case.logits_key}_novel", logits[:, base:])


def test_an_exported_checkpoint_equals_the_imported_one_parity(case: AnyCase, tmp_path: Path, worlds: Path) -> None:
    run = import_case(case, tmp_path, worlds, "training.epochs=7")
    card = Path(export_prompts(run, str(tmp_path / "out")).card).read_text()
    path = tmp_path / "out" / published.FOLDERS[case.method] / "model.pth.tar-7"
    state = torch.load(path, weights_only=True)["state_dict"]
    assert state.keys() == case.parameters.keys()
    assert all(torch.equal(tensor, case.parameters[name]) for name, tensor in state.items())
    config = re.search(r"```yaml\n(TRAINER.*?)```", card, re.DOTALL)
    assert config is not None
    assert yaml.safe_load(config[1]) == {f"TRAINER.{case.method.upper()}.{k}": v for k, v in case.config.items()}
    assert ("reads class vectors from teacher_model" in card) == isinstance(case, PromptKdCase)
    published.import_again(tmp_path / "out", run, tmp_path / "again")


def test_mmrl_checkpoints_with_another_number_of_blocks_are_an_error(tmp_path: Path, worlds: Path) -> None:
    case = MmrlCase("one", tmp_path)
    layers = [1, 2] if len(case.variant.settings["REP_LAYERS"]) == 1 else [1]
    with pytest.raises(UserError, match=r"to_\w+\.1\.\w+: (missing|.* expected none)"):
        import_case(case, tmp_path, worlds, f"methods.mmrl.layers={layers}")


def test_maple_and_mmrl_checkpoints_are_distinguished(tmp_path: Path, worlds: Path) -> None:
    with pytest.raises(UserError, match=r"not a checkpoint of 'maple' \(probably 'mmrl'\)"):
        import_case(MmrlCase("main", tmp_path), tmp_path, worlds, "training.method=maple")


def test_a_trained_student_is_exported_and_imported(
    tiny: TinyWorld, tiny_set: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = teach_here(zero_shot(tiny.recipe, tmp_path / "teacher"), tiny_set, str(tmp_path / "files")).url
    settings = ["training.method=promptkd", f"training.synthetic={tiny_set}"]
    recipe = Recipe.load(tiny.recipe, [*settings, f"training.teacher={teacher}"])
    run = jobs.run_here(recipe, str(tmp_path / "run"))
    export_prompts(run.url, str(tmp_path / "out"))
    monkeypatch.chdir(tmp_path)  # the teacher's path becomes relative
    recipe = Recipe.load(tiny.recipe, [*settings, "training.teacher=files"])
    imported = import_prompts(str(tmp_path / "out"), recipe, str(tmp_path / "again"))
    assert Recipe.load(str(tmp_path / "again" / "recipe.yaml")).training.teacher == teacher
    published.assert_same_prompts(imported.url, run.url)
    actual, expected = jobs.evaluate(imported.url).results, jobs.evaluate(run.url).results
    assert actual["counts"] == expected["counts"] and actual["all_classes_hm"] == expected["all_classes_hm"]


def test_a_student_requires_a_teacher_of_its_classes(tmp_path: Path, worlds: Path) -> None:
    case = PromptKdCase(distilled.VARIANTS[0], tmp_path)
    case.write_teacher(case.variant.classnames[::-1])
    first, last = case.variant.classnames[0], case.variant.classnames[-1]
    with pytest.raises(UserError, match=f"classes differ from the .* \\(class 0 is '{last}', not '{first}'\\)"):
        import_case(case, tmp_path, worlds)
    shutil.rmtree(case.teacher)
    with pytest.raises(UserError, match="the teacher files are missing or incomplete"):
        import_case(case, tmp_path, worlds)


WEIGHT = "VPT_image_trans.conv1.0.weight"
DIM, WIDTH = distilled.Distilled(distilled.VARIANTS[0]).settings["teacher"]["dim"], parity.tiny_clip().text.dim


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({WEIGHT: torch.zeros(DIM, WIDTH, 3, 3)}, rf"narrow\.weight: \({DIM}, {WIDTH}, 3, 3\), expected"),
        ({"VPT_image_trans.conv1.3.bias": torch.zeros(100_000)}, rf"have {DIM} dimensions, but .* has 100000"),
        ({"VPT_image_trans.conv1.1.running_var": -torch.ones(DIM)}, "running_var contains negative variances"),
        (
            {WEIGHT: torch.zeros(DIM, WIDTH, 1, 1).to_sparse_csr()},
            r"narrow\.weight must contain vectors of finite",
        ),
    ],
    ids=["shape", "teacher's dimension", "negative variance", "sparse"],
)
def test_an_invalid_projector_is_an_error(changes: dict[str, Any], message: str, tmp_path: Path, worlds: Path) -> None:
    with pytest.raises(UserError, match=message):
        import_case(PromptKdCase(distilled.VARIANTS[0], tmp_path), tmp_path, worlds, **changes)
