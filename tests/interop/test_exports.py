from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import safetensors.torch
import torch
import yaml
from huggingface_hub import ModelCard
from torch import Tensor, nn

from syncclip import jobs, storage
from syncclip.core.settings import UserError
from syncclip.interop.exports import ExportedRun, export_prompts
from syncclip.interop.imports import import_prompts
from syncclip.methods.ivlp import Ivlp
from syncclip.recipe.recipe import Recipe
from syncclip.runs import resolve
from tests.conftest import TinyWorld
from tests.interop import published
from tests.interop.published import Case

IVLP = Case("ivlp")


@pytest.fixture
def exported(tmp_path: Path, worlds: Path) -> ExportedRun:
    """An evaluated run of IVLP, exported into another folder."""
    run = import_case(IVLP, tmp_path, worlds)
    jobs.evaluate(run)
    return export_prompts(run, str(tmp_path / "out"))


def import_case(case: Case, folder: Path, worlds: Path, *overrides: str) -> str:
    published.save(folder / "theirs", case.method, published.state_dict(case))
    recipe = published.recipe(worlds, case, *overrides)
    return import_prompts(str(folder / "theirs"), recipe, str(folder / "run")).url


class StandIn(nn.Module):
    """A model with the parameters that the published code's has, by their names."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        super().__init__()
        for name, tensor in state.items():
            module: nn.Module = self
            *path, last = name.split(".")
            for part in path:
                if part not in module._modules:
                    module.add_module(part, nn.Module())
                module = module.get_submodule(part)
            module.register_buffer(last, torch.zeros_like(tensor))


@pytest.mark.parametrize("case", published.cases(), ids=str)
def test_what_came_in_goes_out_and_comes_back_equal_parity(case: Case, tmp_path: Path, worlds: Path) -> None:
    theirs = published.state_dict(case)
    run = import_case(case, tmp_path, worlds, "training.epochs=7")
    export_prompts(run, str(tmp_path / "out"))

    path = tmp_path / "out" / published.FOLDERS[case.method] / "model.pth.tar-7"
    state = torch.load(path, weights_only=True)["state_dict"]
    assert state.keys() <= theirs.keys()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in state.items())

    again = import_prompts(str(tmp_path / "out"), resolve.finished_run(run)[0], str(tmp_path / "again"))
    assert again.notes == []
    name = "prompts.safetensors"
    assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "run" / name).read_bytes()


@pytest.mark.parametrize("case", published.cases(), ids=str)
def test_the_published_code_finds_all_that_it_learns_parity(case: Case, tmp_path: Path, worlds: Path) -> None:
    out = export_prompts(import_case(case, tmp_path, worlds)).checkpoint
    assert out is not None
    model, state = StandIn(published.state_dict(case)), torch.load(out, weights_only=True)["state_dict"]
    root = "prompt_learner." if case.method in published.ALONE else ""
    for word in ("token_prefix", "token_suffix"):  # which that code drops, whatever they are
        state.pop(f"{'' if root else 'prompt_learner.'}{word}", None)

    missing, unexpected = model.load_state_dict(state, strict=False)

    assert unexpected == []
    assert not {f"{root}{name}" for name in missing} & case.parameters.keys()
    loaded = model.state_dict()
    assert all(torch.equal(loaded[name.removeprefix(root)], value) for name, value in case.parameters.items())


def test_what_is_exported_is_a_run(exported: ExportedRun, tmp_path: Path) -> None:
    assert jobs.evaluate(exported.url).results == json.loads(storage.read_bytes(str(tmp_path / "run" / "results.json")))
    for name in ("recipe.yaml", "prompts.safetensors", "run.json"):
        assert Path(exported.url, name).read_bytes() == (tmp_path / "run" / name).read_bytes()


def test_without_a_place_it_goes_beside_the_runs_results(tmp_path: Path, worlds: Path) -> None:
    run = import_case(IVLP, tmp_path, worlds)
    prompts = Path(run, "prompts.safetensors").read_bytes()
    exported = export_prompts(run)
    assert exported.card == f"{run}/README.md"
    assert exported.checkpoint == f"{run}/VLPromptLearner/model.pth.tar-10"
    assert Path(run, "prompts.safetensors").read_bytes() == prompts


def test_the_card_has_the_head_that_the_hub_reads(exported: ExportedRun, tmp_path: Path) -> None:
    data = ModelCard.load(exported.card).data
    results = json.loads(storage.read_bytes(str(tmp_path / "run" / "results.json")))
    assert (data.library_name, data.model_name) == ("syncclip", "ivlp-imported")
    assert "ivlp" in data.tags
    told = {result.metric_name: result.metric_value for result in data.eval_results}
    assert told["accuracy (all), %"] == round(results["all_classes_accuracy"], 4)
    assert {result.dataset_name for result in data.eval_results} == {"published"}


def test_the_card_tells_recipe_classes_origin_and_their_settings(exported: ExportedRun, tmp_path: Path) -> None:
    text = Path(exported.card).read_text()
    blocks = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    config = {f"TRAINER.IVLP.{key}": value for key, value in IVLP.config.items() if key != "PREC"}
    assert yaml.safe_load(blocks[0]) == config
    (tmp_path / "told.yaml").write_text(blocks[1])
    assert Recipe.load(str(tmp_path / "told.yaml")) == resolve.finished_run(exported.url)[0]
    base = (len(IVLP.fixture.classnames) + 1) // 2
    assert f"Base: {', '.join(IVLP.fixture.classnames[:base])}." in text
    assert "VLPromptLearner/model.pth.tar-5, epoch 5" in text
    learned = safetensors.torch.load_file(Path(exported.url, "prompts.safetensors"))
    assert f"{sum(tensor.numel() for tensor in learned.values()):,} values in {len(learned)} tensors" in text


def test_the_card_of_a_trained_run_tells_its_images(tiny: TinyWorld, tiny_set: str, tmp_path: Path) -> None:
    recipe = Recipe.load(tiny.recipe, [f"training.synthetic={tiny_set}", "training.epochs=1"])
    text = Path(export_prompts(jobs.run_here(recipe, str(tmp_path / "run")).url).card).read_text()
    assert "| from | 4 real images per base class and 2 synthetic images per class |" in text


def test_a_folder_with_another_run_is_left_alone(exported: ExportedRun, tmp_path: Path, worlds: Path) -> None:
    (tmp_path / "other").mkdir()
    other = import_case(Case("vpt"), tmp_path / "other", worlds)
    before = Path(exported.card).read_bytes()
    with pytest.raises(UserError, match="contains run 'ivlp-imported'"):
        export_prompts(other, exported.url)
    assert Path(exported.card).read_bytes() == before


def test_a_run_that_was_not_evaluated_has_a_card_without_numbers(tmp_path: Path, worlds: Path) -> None:
    card = export_prompts(import_case(IVLP, tmp_path, worlds)).card
    assert "Not evaluated yet." in Path(card).read_text()
    assert ModelCard.load(card).data.eval_results is None


def test_tokens_of_a_domain_have_no_place_in_the_published_code(tiny: TinyWorld, tiny_set: str, tmp_path: Path) -> None:
    values = ["training.method=mmrl", "methods.mmrl.domain_tokens=2", "training.epochs=1"]
    run = jobs.run_here(Recipe.load(tiny.recipe, [f"training.synthetic={tiny_set}", *values]), str(tmp_path / "run"))
    with pytest.raises(UserError, match=r"mmrl can't represent synthetic_tokens; train without domain tokens"):
        export_prompts(run.url, str(tmp_path / "out"))


def test_a_method_without_published_code_has_its_card_alone(tmp_path: Path, worlds: Path) -> None:
    recipe = published.recipe(worlds, IVLP, "training.method=syncclip.methods.ivlp:Ivlp", "training.data=real")
    run = jobs.run_here(recipe.with_values({"training.epochs": 1}), str(tmp_path / "run"))
    exported = export_prompts(run.url)
    assert exported.checkpoint is None
    assert "published code" not in Path(exported.card).read_text()


def test_a_method_may_be_without_a_docstring(tmp_path: Path, worlds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ivlp, "__doc__", None)
    card = export_prompts(import_case(IVLP, tmp_path, worlds)).card
    assert "| method | `ivlp`, " in Path(card).read_text()


def test_a_method_that_learns_nothing_has_nothing_to_export(tmp_path: Path, worlds: Path) -> None:
    recipe = published.recipe(worlds, IVLP, "training.method=zeroshot")
    run = jobs.run_here(recipe, str(tmp_path / "run"))
    with pytest.raises(UserError, match="'zeroshot' learns nothing"):
        export_prompts(run.url)


@pytest.mark.parametrize("position", ["middle", "front"])
def test_vectors_that_the_published_code_would_read_elsewhere_stay_here(
    position: str, tmp_path: Path, worlds: Path
) -> None:
    run = import_case(Case("kgcoop"), tmp_path, worlds, f"methods.kgcoop.position={position}")
    with pytest.raises(UserError, match=rf"methods\.kgcoop\.position is '{position}', but the published code"):
        export_prompts(run)
