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
from syncclip.methods.ivlp import Ivlp
from syncclip.recipe.recipe import Recipe
from syncclip.runs.resolve import finished_run
from tests.conftest import TinyWorld
from tests.interop import published
from tests.interop.published import Case, import_case

IVLP = Case("ivlp")


@pytest.fixture
def exported(tmp_path: Path, worlds: Path) -> ExportedRun:
    """An evaluated run of IVLP, exported to another folder."""
    run = import_case(IVLP, tmp_path, worlds).url
    jobs.evaluate(run)
    return export_prompts(run, str(tmp_path / "out"))


class PublishedModel(nn.Module):
    """A model with the parameters of the published code."""

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
def test_an_exported_checkpoint_equals_the_imported_one_parity(case: Case, tmp_path: Path, worlds: Path) -> None:
    expected = published.state_dict(case)
    run = import_case(case, tmp_path, worlds, "training.epochs=7").url
    export_prompts(run, str(tmp_path / "out"))
    path = tmp_path / "out" / published.FOLDERS[case.method] / "model.pth.tar-7"
    state = torch.load(path, weights_only=True)["state_dict"]
    assert state.keys() <= expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in state.items())
    published.import_again(tmp_path / "out", run, tmp_path / "again")

    root = "prompt_learner." if case.method in published.PROMPT_LEARNERS else ""
    for name in ("token_prefix", "token_suffix"):  # published code removes them before loading
        state.pop(f"{'' if root else 'prompt_learner.'}{name}", None)
    model = PublishedModel(expected)
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert unexpected == []
    assert not {f"{root}{name}" for name in missing} & case.parameters.keys()
    loaded = model.state_dict()
    assert all(torch.equal(loaded[name.removeprefix(root)], value) for name, value in case.parameters.items())


def test_an_export_is_a_run(exported: ExportedRun, tmp_path: Path) -> None:
    assert jobs.evaluate(exported.url).results == json.loads(storage.read_bytes(str(tmp_path / "run" / "results.json")))
    for name in ("recipe.yaml", "prompts.safetensors", "run.json"):
        assert Path(exported.url, name).read_bytes() == (tmp_path / "run" / name).read_bytes()


def test_the_default_folder_is_the_runs(tmp_path: Path, worlds: Path) -> None:
    run = import_case(IVLP, tmp_path, worlds).url
    prompts = Path(run, "prompts.safetensors").read_bytes()
    exported = export_prompts(run)
    assert exported.card == f"{run}/README.md"
    assert exported.checkpoint == f"{run}/VLPromptLearner/model.pth.tar-10"
    assert Path(run, "prompts.safetensors").read_bytes() == prompts
    assert "Not evaluated yet." in Path(exported.card).read_text()
    assert ModelCard.load(exported.card).data.eval_results is None


def test_the_card_has_metadata_for_the_hub(exported: ExportedRun, tmp_path: Path) -> None:
    data = ModelCard.load(exported.card).data
    results = json.loads(storage.read_bytes(str(tmp_path / "run" / "results.json")))
    assert (data.library_name, data.model_name) == ("syncclip", "ivlp-imported")
    assert "ivlp" in data.tags
    metrics = {result.metric_name: result.metric_value for result in data.eval_results}
    assert metrics["accuracy (all), %"] == round(results["all_classes_accuracy"], 4)
    assert {result.dataset_name for result in data.eval_results} == {"published"}


def test_the_card_contains_recipe_classes_origin_and_published_settings(exported: ExportedRun, tmp_path: Path) -> None:
    text = Path(exported.card).read_text()
    blocks = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    config = {f"TRAINER.IVLP.{key}": value for key, value in IVLP.config.items() if key != "PREC"}
    assert yaml.safe_load(blocks[0]) == config
    (tmp_path / "card.yaml").write_text(blocks[1])
    assert Recipe.load(str(tmp_path / "card.yaml")) == finished_run(exported.url)[0]
    base = (len(IVLP.fixture.classnames) + 1) // 2
    assert f"Base: {', '.join(IVLP.fixture.classnames[:base])}." in text
    assert "VLPromptLearner/model.pth.tar-5, epoch 5" in text
    learned = safetensors.torch.load_file(Path(exported.url, "prompts.safetensors"))
    assert f"{sum(tensor.numel() for tensor in learned.values()):,} values in {len(learned)} tensors" in text


def test_the_card_of_a_trained_run_contains_its_numbers_of_images(
    tiny: TinyWorld, tiny_set: str, tmp_path: Path
) -> None:
    recipe = Recipe.load(tiny.recipe, [f"training.synthetic={tiny_set}", "training.epochs=1"])
    text = Path(export_prompts(jobs.run_here(recipe, str(tmp_path / "run")).url).card).read_text()
    assert "| from | 4 real images per base class and 2 synthetic images per class |" in text


def test_a_folder_with_another_run_is_an_error(exported: ExportedRun, tmp_path: Path, worlds: Path) -> None:
    other = import_case(Case("vpt"), tmp_path / "other", worlds).url
    card = Path(exported.card).read_bytes()
    with pytest.raises(UserError, match="contains run 'ivlp-imported'"):
        export_prompts(other, exported.url)
    assert Path(exported.card).read_bytes() == card


def test_domain_tokens_can_not_be_exported(tiny: TinyWorld, tiny_set: str, tmp_path: Path) -> None:
    values = ["training.method=mmrl", "methods.mmrl.domain_tokens=2", "training.epochs=1"]
    run = jobs.run_here(Recipe.load(tiny.recipe, [f"training.synthetic={tiny_set}", *values]), str(tmp_path / "run"))
    with pytest.raises(UserError, match=r"mmrl can't represent synthetic_tokens"):
        export_prompts(run.url, str(tmp_path / "out"))


def test_a_custom_method_is_exported_without_a_checkpoint(
    tmp_path: Path, worlds: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "syncclip.methods.ivlp:Ivlp"
    monkeypatch.setattr(Ivlp, "__doc__", None)
    recipe = published.recipe(worlds, IVLP, f"training.method={name}", "training.data=real", "training.epochs=1")
    exported = export_prompts(jobs.run_here(recipe, str(tmp_path / "run")).url)
    assert exported.checkpoint is None
    card = Path(exported.card).read_text()
    assert "published code" not in card
    assert f"| method | `{name}`, " in card


def test_a_method_that_learns_nothing_is_an_error(tmp_path: Path, worlds: Path) -> None:
    recipe = published.recipe(worlds, IVLP, "training.method=zeroshot")
    run = jobs.run_here(recipe, str(tmp_path / "run"))
    with pytest.raises(UserError, match="'zeroshot' has no learned parameters"):
        export_prompts(run.url)


def test_a_position_that_the_published_code_does_not_support_is_an_error(tmp_path: Path, worlds: Path) -> None:
    run = import_case(Case("kgcoop"), tmp_path, worlds, "methods.kgcoop.position=middle").url
    with pytest.raises(UserError, match=r"methods\.kgcoop\.position is 'middle'"):
        export_prompts(run)
