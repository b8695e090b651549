from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from syncclip import jobs
from syncclip.core.settings import UserError
from syncclip.interop.imports import ImportedRun, import_prompts
from syncclip.runs.resolve import finished_run
from tests.interop import published
from tests.interop.published import Case
from tests.methods import parity

IVLP, COOP, CSC = Case("ivlp"), Case("coop", "end."), Case("coop", "csc.")
BASE = (len(IVLP.fixture.classnames) + 1) // 2
LAYERS, CONTEXT = parity.tiny_clip().vision.layers, parity.tiny_clip().context


class Importer:
    """Imports checkpoints of published code into runs in a temporary folder."""

    def __init__(self, folder: Path, worlds: Path) -> None:
        self.folder, self.worlds, self.run = folder, worlds, folder / "run"

    def __call__(self, case: Case, *overrides: str, **options: Any) -> ImportedRun:
        return published.import_case(case, self.folder, self.worlds, *overrides, **options)

    def error(self, case: Case, *overrides: str, **options: Any) -> str:
        """The error message of an import, which must not write a run."""
        with pytest.raises(UserError) as caught:
            self(case, *overrides, **options)
        assert not self.run.exists()
        return str(caught.value)


@pytest.fixture
def importer(tmp_path: Path, worlds: Path) -> Importer:
    return Importer(tmp_path, worlds)


def changed(case: Case, **tensors: Tensor | None) -> dict[str, Tensor]:
    """The state dict with some tensors, whose names have `__` for `.`, replaced or (None) removed."""
    state = published.state_dict(case) | {name.replace("__", "."): tensor for name, tensor in tensors.items()}
    return {name: tensor for name, tensor in state.items() if tensor is not None}


def check_logits(run: ImportedRun, case: Case) -> None:
    with torch.no_grad():
        actual = published.load_run(run.url).logits(case.fixture["in.images"])
    parity.check_close("logits", str(case), actual, case.logits)


@pytest.mark.parametrize("case", published.cases(), ids=str)
def test_a_published_checkpoint_gives_its_logits_parity(case: Case, importer: Importer) -> None:
    run = importer(case)
    check_logits(run, case)
    assert run.notes == []


@pytest.mark.parametrize("case", [IVLP, COOP], ids=str)
def test_half_precision_is_converted_exactly(case: Case, importer: Importer) -> None:
    run = importer(case, state=published.state_dict(case, half=True))
    prompts = safetensors.torch.load_file(importer.run / "prompts.safetensors")
    assert torch.equal(prompts["text_prompts.0"], case.parameters["prompt_learner.ctx"].half().float())
    assert run.notes == []


def test_a_checkpoint_of_the_base_classes_is_used_for_all_classes(importer: Importer) -> None:
    run = importer(IVLP, state=published.state_dict(IVLP, classes=BASE))
    check_logits(run, IVLP)
    assert run.notes == []


def test_the_prefix_of_multi_gpu_training_is_removed(importer: Importer) -> None:
    state = {f"module.{name}": tensor for name, tensor in published.state_dict(COOP).items()}
    check_logits(importer(COOP, state=state), COOP)


def test_an_imported_run_can_be_evaluated(importer: Importer) -> None:
    run = importer(IVLP)
    results = jobs.evaluate(run.url).results
    assert results["run"] == "ivlp-imported"
    assert results["counts"]["all"] == len(IVLP.fixture.classnames)
    record = json.loads((importer.run / "run.json").read_text())
    assert record["status"] == "finished"
    assert record["origin"] == f"{run.source}, epoch 5"


def test_a_repeated_import_is_the_same_run_and_another_one_is_an_error(importer: Importer) -> None:
    assert importer(IVLP) == importer(IVLP)
    with pytest.raises(UserError, match=r"training.seed: 1 -> 7"):
        importer(IVLP, "training.seed=7")


def test_the_default_folder_is_in_the_storage_root(tmp_path: Path, worlds: Path) -> None:
    published.save(tmp_path, "ivlp", published.state_dict(IVLP))
    recipe = published.recipe(worlds, IVLP, f"storage.root={tmp_path / 'runs'}")
    assert import_prompts(str(tmp_path), recipe).url.startswith(f"{tmp_path}/runs/mine/runs/ivlp-imported-")


DEEP = {
    f"image_encoder.transformer.resblocks.{block}.VPT_shallow": IVLP.parameters["image_encoder.VPT"]
    for block in range(1, LAYERS + 1)
}
WIDE = {"ctx": torch.zeros(4, 512), "token_prefix": torch.zeros(3, 1, 512), "token_suffix": torch.zeros(3, 9, 512)}
DEPTH = int(IVLP.config["PROMPT_DEPTH_TEXT"])


@pytest.mark.parametrize(
    ("case", "state", "message"),
    [
        (COOP, changed(COOP, **WIDE), r"shape mismatch for text_prompts.0: (4, 512), expected (4, 64)"),
        (IVLP, published.state_dict(IVLP) | DEEP, f"is {LAYERS + 1}, but the tower has {LAYERS} blocks"),
        (COOP, changed(COOP, ctx=torch.zeros(CONTEXT, 64)), f"exceeds the CLIP context length of {CONTEXT} tokens"),
        (
            IVLP,
            changed(IVLP, image_encoder__transformer__resblocks__1__VPT_shallow=None),
            "vision_prompts.1: missing",
        ),
        (CSC, changed(CSC, ctx=CSC.parameters["prompt_learner.ctx"][:BASE]), f"text_prompts.0: ({BASE}, "),
        (IVLP, published.state_dict(Case("maple")), "not a checkpoint of 'ivlp' (probably 'maple')"),
    ],
    ids=["width", "depth", "context", "missing block", "classes", "method"],
)
def test_a_checkpoint_of_another_model_is_an_error(
    case: Case, state: dict[str, Tensor], message: str, importer: Importer
) -> None:
    assert message in importer.error(case, state=state)


def test_a_checkpoint_of_other_classes_requires_transfer(importer: Importer) -> None:
    state = published.state_dict(IVLP, classes=2)
    message = f"trained on 2 classes, but dataset 'published' has {len(IVLP.fixture.classnames)}"
    assert message in importer.error(IVLP, state=state)
    check_logits(importer(IVLP, state=state, transfer=True), IVLP)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (f"methods.ivlp.text_depth={DEPTH + 1}", f"text_depth is {DEPTH}, but the recipe has methods.ivlp.text_depth="),
        ("training.method=zeroshot", "'zeroshot' has no learned parameters"),
    ],
)
def test_a_contradicting_setting_is_an_error(override: str, message: str, importer: Importer) -> None:
    assert message in importer.error(IVLP, override)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.full((4, 64), torch.nan),
        torch.zeros(4, 64, dtype=torch.long),
        torch.zeros(1, 1).expand(10**6, 64),
        torch.zeros(64),
        torch.zeros(4, 64).to_sparse(),
    ],
    ids=["nan", "integers", "expanded", "one vector", "sparse"],
)
def test_only_vectors_of_finite_numbers_are_accepted(tensor: Tensor, importer: Importer) -> None:
    assert "text_prompts.0 must contain vectors of finite numbers" in importer.error(
        COOP, state=changed(COOP, ctx=tensor)
    )


def test_a_checkpoint_without_initial_words_is_recognised(importer: Importer) -> None:
    n = int(IVLP.config["N_CTX_TEXT"])
    suffix = published.embed(IVLP, " ".join("X" * n))[:, 1 + n :]
    run = importer(IVLP, state=changed(IVLP, prompt_learner__token_suffix=suffix))
    assert run.notes == []
    assert finished_run(run.url)[0].methods.ivlp.initial_words == ""


def test_other_class_names_or_weights_are_noted(importer: Importer) -> None:
    state = published.state_dict(IVLP)
    suffix = state["prompt_learner.token_suffix"].clone()
    suffix[[1, 2]] = suffix[[2, 1]]
    token = -state["image_encoder.class_embedding"]
    state = changed(IVLP, prompt_learner__token_suffix=suffix, image_encoder__class_embedding=token)
    words, weights = importer(IVLP, state=state).notes
    assert f"for class 1 ({IVLP.fixture.classnames[1]!r})" in words
    assert weights.startswith("the checkpoint and backbone ") and " differ in the class token: " in weights
