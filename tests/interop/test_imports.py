from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from syncclip import jobs
from syncclip.core.settings import UserError
from syncclip.interop.imports import ImportedRun, import_prompts
from syncclip.runs import resolve
from syncclip.runs.build import build_parts
from syncclip.runs.resolve import finished_run
from syncclip.training.loop import load_prompts
from tests.interop import published
from tests.interop.published import Case
from tests.methods import parity

IVLP, COOP = Case("ivlp"), Case("coop", "end.")


class Road:
    """From a checkpoint of published code to a run, both below one folder."""

    def __init__(self, folder: Path, worlds: Path) -> None:
        self.output, self.run, self._worlds = folder / "output", folder / "run", worlds

    def __call__(
        self, case: Case, state: dict[str, Tensor] | None = None, *overrides: str, transfer: bool = False
    ) -> ImportedRun:
        """Save the state dict, by default the case's own, as the trainer would, and import it."""
        published.save(self.output, case.method, published.state_dict(case) if state is None else state)
        recipe = published.recipe(self._worlds, case, *overrides)
        return import_prompts(str(self.output), recipe, str(self.run), transfer=transfer)

    def refusal(self, case: Case, state: dict[str, Tensor] | None = None, *overrides: str) -> str:
        """The sentence with which the import is refused; nothing is left behind."""
        with pytest.raises(UserError) as caught:
            self(case, state, *overrides)
        assert not self.run.exists()
        return str(caught.value)


@pytest.fixture
def road(tmp_path: Path, worlds: Path) -> Road:
    return Road(tmp_path, worlds)


def check_logits(run: ImportedRun, case: Case) -> None:
    method = build_parts(resolve.finished_run(run.url)[0]).method
    load_prompts(finished_run(run.url)[1], method)
    with torch.no_grad():
        parity.differs("logits", str(case), method.logits(case.fixture["in.images"]), case.logits)


@pytest.mark.parametrize("case", published.cases(), ids=str)
def test_a_published_checkpoint_gives_its_logits_parity(case: Case, road: Road) -> None:
    run = road(case)
    check_logits(run, case)
    assert run.notes == []


@pytest.mark.parametrize("case", [IVLP, COOP], ids=str)
def test_half_precision_comes_in_as_it_is(case: Case, road: Road) -> None:
    run = road(case, published.state_dict(case, half=True))
    prompts = safetensors.torch.load_file(road.run / "prompts.safetensors")
    assert torch.equal(prompts["text_prompts.0"], case.parameters["prompt_learner.ctx"].half().float())
    assert run.notes == []


def test_a_checkpoint_of_the_base_classes_serves_all(road: Road) -> None:
    run = road(IVLP, published.state_dict(IVLP, classes=(len(IVLP.fixture.classnames) + 1) // 2))
    check_logits(run, IVLP)
    assert run.notes == []


def test_names_that_several_gpus_left_are_understood(road: Road) -> None:
    state = {f"module.{name}": tensor for name, tensor in published.state_dict(COOP).items()}
    check_logits(road(COOP, state), COOP)


def test_the_run_is_evaluated_like_a_trained_one(road: Road) -> None:
    run = road(IVLP)
    results = jobs.evaluate(run.url).results
    assert results["run"] == "ivlp-imported"
    assert results["counts"]["all"] == len(IVLP.fixture.classnames)
    record = json.loads((road.run / "run.json").read_text())
    assert record["status"] == "finished"
    assert record["origin"] == f"{run.source}, epoch 5"


def test_the_same_import_twice_is_the_same_run_and_another_is_refused(road: Road) -> None:
    first = road(IVLP)
    assert road(IVLP) == first
    with pytest.raises(UserError, match=r"training.seed: 1 -> 7.*choose another folder"):
        road(IVLP, None, "training.seed=7")


def test_a_run_goes_below_the_recipes_folder_by_itself(tmp_path: Path, worlds: Path) -> None:
    published.save(tmp_path, "ivlp", published.state_dict(IVLP))
    recipe = published.recipe(worlds, IVLP, f"storage.root={tmp_path / 'runs'}")
    assert import_prompts(str(tmp_path), recipe).url.startswith(f"{tmp_path}/runs/mine/runs/ivlp-imported-")


def changed(case: Case, **tensors: Tensor | None) -> dict[str, Tensor]:
    """The state dict with some tensors replaced, or left out, by their names with `__` for `.`."""
    state = published.state_dict(case) | {name.replace("__", "."): tensor for name, tensor in tensors.items()}
    return {name: tensor for name, tensor in state.items() if tensor is not None}


def test_another_width_is_another_backbone(road: Road) -> None:
    text = road.refusal(COOP, changed(COOP, ctx=torch.zeros(4, 512)))
    assert "its text prompts are 512 wide, and the text tower of" in text
    assert text.endswith("set backbone.name")


def test_more_prompted_blocks_than_the_tower_has_are_another_backbone(road: Road) -> None:
    layers = parity.tiny_clip().vision.layers
    blocks = {
        f"image_encoder.transformer.resblocks.{block}.VPT_shallow": IVLP.parameters["image_encoder.VPT"]
        for block in range(1, layers + 1)
    }
    text = road.refusal(IVLP, published.state_dict(IVLP) | blocks)
    assert f"{layers + 1} blocks have vision prompts" in text
    assert f"has {layers} blocks" in text


def test_a_block_that_is_missing_is_named(road: Road) -> None:
    text = road.refusal(IVLP, changed(IVLP, image_encoder__transformer__resblocks__1__VPT_shallow=None))
    assert "vision_prompts.1 is missing there" in text


def test_another_number_of_classes_is_refused_unless_it_is_meant(road: Road) -> None:
    state = published.state_dict(IVLP, classes=2)
    text = road.refusal(IVLP, state)
    assert f"trained on 2 classes, but dataset 'published' has {len(IVLP.fixture.classnames)}" in text
    check_logits(road(IVLP, state, transfer=True), IVLP)


def test_vectors_of_each_class_serve_these_classes_only(road: Road) -> None:
    case = Case("coop", "csc.")
    base = (len(case.fixture.classnames) + 1) // 2
    state = published.state_dict(case, classes=base)
    assert f"text_prompts.0 is ({base}, " in road.refusal(case, state | {"ctx": state["ctx"][:base]})


def test_a_setting_that_the_checkpoint_contradicts_is_refused(road: Road) -> None:
    depth = int(IVLP.config["PROMPT_DEPTH_TEXT"])
    text = road.refusal(IVLP, None, f"methods.ivlp.text_depth={depth + 1}")
    assert f"has text_depth {depth}, but the recipe has methods.ivlp.text_depth={depth + 1}" in text


def test_the_parameters_of_another_method_are_recognised(road: Road) -> None:
    text = road.refusal(IVLP, published.state_dict(Case("maple")))
    assert "not the parameters of 'ivlp'; it looks like 'maple'; set training.method" in text


def test_a_method_that_learns_nothing_has_no_checkpoints(road: Road) -> None:
    assert "'zeroshot' learns nothing" in road.refusal(IVLP, None, "training.method=zeroshot")


def test_more_vectors_than_the_context_holds_are_refused(road: Road) -> None:
    context = parity.tiny_clip().context
    vectors = torch.zeros(context, COOP.parameters["prompt_learner.ctx"].shape[-1])
    assert f"has {context} text vectors, more than" in road.refusal(COOP, changed(COOP, ctx=vectors))


@pytest.mark.parametrize(
    "tensor",
    [
        torch.full((4, 64), torch.nan),
        torch.zeros(4, 64, dtype=torch.long),
        torch.zeros(1, 1).expand(10**6, 64),
        torch.zeros(64),
        torch.zeros(4, 64).to_sparse(),
    ],
    ids=["nan", "integers", "a claim", "one vector", "sparse"],
)
def test_what_is_no_vectors_of_finite_numbers_is_refused(tensor: Tensor, road: Road) -> None:
    assert "text_prompts.0 must be vectors of finite numbers" in road.refusal(COOP, changed(COOP, ctx=tensor))


def test_words_without_a_phrase_are_noticed(road: Road) -> None:
    n = int(IVLP.config["N_CTX_TEXT"])
    words = published.words([f"{' '.join('X' * n)} {name}." for name in published.spoken(IVLP)])[:, 1 + n :]
    run = road(IVLP, changed(IVLP, prompt_learner__token_suffix=words))
    assert run.notes == []
    assert resolve.finished_run(run.url)[0].methods.ivlp.initial_words == ""


def test_other_class_names_are_told_with_the_first_that_differs(road: Road) -> None:
    words = published.state_dict(IVLP)["prompt_learner.token_suffix"].clone()
    words[[1, 2]] = words[[2, 1]]
    (note,) = road(IVLP, changed(IVLP, prompt_learner__token_suffix=words)).notes
    assert f"for class 1, {IVLP.fixture.classnames[1]!r}" in note


def test_other_weights_are_told(road: Road) -> None:
    other = -published.state_dict(IVLP)["image_encoder.class_embedding"]
    (note,) = road(IVLP, changed(IVLP, image_encoder__class_embedding=other)).notes
    assert note.startswith("the class token of the checkpoint differs from that of backbone")
