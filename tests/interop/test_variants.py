"""Checkpoints of the methods whose reference numbers are of the second collection, see `tests/methods/variants.py`."""

from __future__ import annotations

import hashlib
import re
import shutil
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import yaml
from safetensors.torch import load_file, save
from torch import Tensor

from syncclip import jobs, storage
from syncclip.core.settings import UserError
from syncclip.interop.exports import export_prompts
from syncclip.interop.imports import import_prompts
from syncclip.recipe.recipe import Recipe
from syncclip.runs import resolve
from syncclip.runs.build import build_parts
from syncclip.runs.resolve import finished_run
from syncclip.stream.teacher import TEACHER, VECTORS, TeacherFiles
from syncclip.training.loop import load_prompts
from tests.conftest import TinyWorld
from tests.interop import published
from tests.methods import distilled, parity
from tests.methods.test_mmrl import VARIANTS
from tests.methods.variants import Variant
from tests.worlds.teacher import teach_here, zero_shot


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
    load_prompts(finished_run(run)[1], method)
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
    again_prompts, run_prompts = (load_file(tmp_path / name / prompts) for name in ("again", "run"))
    assert again_prompts.keys() == run_prompts.keys()
    assert all(torch.equal(again_prompts[name], run_prompts[name]) for name in run_prompts)


def test_another_number_of_blocks_than_the_recipes_is_refused(tmp_path: Path, worlds: Path) -> None:
    case = MmrlCase("one")
    other = [1, 2] if len(case.variant.settings["REP_LAYERS"]) == 1 else [1]
    with pytest.raises(UserError, match=r"to_\w+\.1\.\w+ is (missing there|.* and unknown here)"):
        case.import_from(tmp_path, worlds, f"methods.mmrl.layers={other}")


def test_its_folder_is_maples_but_not_its_parameters(tmp_path: Path, worlds: Path) -> None:
    with pytest.raises(UserError, match="not the parameters of 'maple'; it looks like 'mmrl'; set training.method"):
        MmrlCase("main").import_from(tmp_path, worlds, "training.method=maple")


class PromptKdCase:
    """One variant of PromptKD's file, with the teacher's files, which hold its class vectors."""

    method = "promptkd"

    def __init__(self, name: str, folder: Path) -> None:
        self.variant = self.fixture = distilled.Distilled(name)
        # as the file has them: 1x1 convolutions, and batch norm's running statistics beside its parameters
        self.parameters = Variant("promptkd", name).under("param.") | {
            f"VPT_image_trans.conv1.1.{key}": self.variant[f"in.{key}"] for key in ("running_mean", "running_var")
        }
        self.teacher = str(folder / "teacher")
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

    @property
    def overrides(self) -> list[str]:
        return [f"training.teacher={self.teacher}"]

    def import_from(self, folder: Path, worlds: Path, *overrides: str, **changed: Tensor) -> str:
        state = {**self.parameters, **published._frozen(cast(Any, self)), **changed}
        state = {key: tensor for key, tensor in state.items() if not key.startswith("text_encoder.")}  # it has none
        state["VPT_image_trans.conv1.1.num_batches_tracked"] = torch.tensor(640)
        published.save(folder / "theirs", self.method, state)
        recipe = published.recipe(worlds, cast(Any, self), *overrides)
        return import_prompts(str(folder / "theirs"), recipe, str(folder / "run")).url


@pytest.mark.parametrize("name", distilled.VARIANTS)
def test_a_students_checkpoint_gives_its_logits_without_its_teacher_parity(
    name: str, tmp_path: Path, worlds: Path
) -> None:
    case = PromptKdCase(name, tmp_path)
    run = case.import_from(tmp_path, worlds)
    shutil.rmtree(case.teacher)
    method = build_parts(resolve.finished_run(run)[0]).method.eval()
    load_prompts(finished_run(run)[1], method)
    with torch.no_grad():
        logits, base = method.logits(case.variant["in.images"]), case.variant.base
    case.variant.differs("logits", "out.eval_logits_base", logits[:, :base])
    case.variant.differs("logits", "out.eval_logits_novel", logits[:, base:])


@pytest.mark.parametrize("name", distilled.VARIANTS)
def test_a_student_goes_out_as_it_came_in_parity(name: str, tmp_path: Path, worlds: Path) -> None:
    case = PromptKdCase(name, tmp_path)
    run = case.import_from(tmp_path, worlds, "training.epochs=7")
    card = Path(export_prompts(run, str(tmp_path / "out")).card).read_text()

    path = tmp_path / "out" / published.FOLDERS["promptkd"] / "model.pth.tar-7"
    state = torch.load(path, weights_only=True)["state_dict"]
    assert state.keys() == case.parameters.keys()
    assert all(torch.equal(tensor, case.parameters[name]) for name, tensor in state.items())
    told = case.variant.settings
    shape = {f"TRAINER.PROMPTKD.{key}": told[key] for key in ("N_CTX_VISION", "PROMPT_DEPTH_VISION")}
    config = re.search(r"```yaml\n(TRAINER.*?)```", card, re.DOTALL)
    assert config is not None and yaml.safe_load(config[1]) == shape
    assert (
        "It contains the learned parameters, in single precision. It lacks" in card
        and "the teacher, from whose checkpoint" in card
    )

    again = import_prompts(str(tmp_path / "out"), resolve.finished_run(run)[0], str(tmp_path / "again"))
    assert again.notes == [] and again.settings["teacher_dim"] == told["teacher"]["dim"]
    prompts = "prompts.safetensors"
    again_prompts, run_prompts = (load_file(tmp_path / name / prompts) for name in ("again", "run"))
    assert again_prompts.keys() == run_prompts.keys()
    assert all(torch.equal(again_prompts[name], run_prompts[name]) for name in run_prompts)


def test_a_trained_student_comes_back_with_the_same_teacher(
    tiny: TinyWorld, tiny_set: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = teach_here(zero_shot(tiny.recipe, tmp_path / "teacher"), tiny_set, str(tmp_path / "said")).url
    named = ["training.method=promptkd", f"training.synthetic={tiny_set}", f"training.teacher={teacher}"]
    run = jobs.run_here(Recipe.load(tiny.recipe, named), str(tmp_path / "run"))
    export_prompts(run.url, str(tmp_path / "out"))
    monkeypatch.chdir(tmp_path)  # from where the teacher's files have a shorter name
    recipe = Recipe.load(tiny.recipe, [*named[:-1], "training.teacher=said"])
    again = import_prompts(str(tmp_path / "out"), recipe, str(tmp_path / "again"))
    assert Recipe.load(str(tmp_path / "again" / "recipe.yaml")).training.teacher == teacher
    prompts = "prompts.safetensors"
    again_prompts, run_prompts = (load_file(tmp_path / name / prompts) for name in ("again", "run"))
    assert again_prompts.keys() == run_prompts.keys()
    assert all(torch.equal(again_prompts[name], run_prompts[name]) for name in run_prompts)
    actual, expected = jobs.evaluate(again.url).results, jobs.evaluate(run.url).results
    assert actual["counts"] == expected["counts"] and actual["all_classes_hm"] == expected["all_classes_hm"]


def test_a_student_needs_the_files_of_a_teacher_of_its_classes(tmp_path: Path, worlds: Path) -> None:
    case = PromptKdCase(distilled.VARIANTS[0], tmp_path)
    case.write_teacher(case.variant.classnames[::-1])
    count, first, last = len(case.variant.classnames), case.variant.classnames[0], case.variant.classnames[-1]
    sentence = f"{count} classes are not the {count} of .* \\(class 0 is '{last}', not '{first}'\\)"
    with pytest.raises(UserError, match=sentence):
        case.import_from(tmp_path, worlds)
    shutil.rmtree(case.teacher)
    with pytest.raises(UserError, match="teacher: the teacher's files are missing or incomplete"):
        case.import_from(tmp_path, worlds)


def test_a_projector_of_another_shape_or_to_another_width_is_named(tmp_path: Path, worlds: Path) -> None:
    case = PromptKdCase(distilled.VARIANTS[0], tmp_path)
    dim, width = case.variant.settings["teacher"]["dim"], parity.tiny_clip().text.dim
    layer, last = "VPT_image_trans.conv1.0.weight", "VPT_image_trans.conv1.3.bias"
    with pytest.raises(UserError, match=rf"narrow\.weight is \({dim}, {width}, 3, 3\) there and \({dim}, {width}\)"):
        case.import_from(tmp_path, worlds, **{layer: torch.zeros(dim, width, 3, 3)})
    other = rf"this teacher's class vectors have {dim} dimensions, but the student in .* has 100000"
    with pytest.raises(UserError, match=other):  # before anything of that size is made
        case.import_from(tmp_path, worlds, **{last: torch.zeros(100_000)})
    with pytest.raises(
        UserError, match=r"running_var must be variances, which are not negative; use another checkpoint"
    ):
        case.import_from(tmp_path, worlds, **{"VPT_image_trans.conv1.1.running_var": -torch.ones(dim)})
    with pytest.raises(UserError, match=r"narrow\.weight must be vectors of finite numbers; use another checkpoint"):
        case.import_from(tmp_path, worlds, **{layer: torch.zeros(dim, width, 1, 1).to_sparse_csr()})
    with pytest.raises(UserError, match=r"has teacher_dim \d+, but the recipe has methods\.promptkd\.teacher_dim=5"):
        case.import_from(tmp_path, worlds, "methods.promptkd.teacher_dim=5")
