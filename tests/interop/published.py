"""Checkpoints in the format of the methods' published code, with the parameters of the reference values, and the CLIP
and datasets of these values."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler

from syncclip.interop.imports import ImportedRun, import_prompts
from syncclip.methods.base import Method
from syncclip.recipe.recipe import Recipe
from syncclip.runs.build import build_parts
from syncclip.runs.resolve import finished_run
from syncclip.shards.writer import Sample, write_shard
from syncclip.training.loop import load_prompts
from tests.methods import parity
from tests.worlds.dataset import encoded, make_image

FOLDERS = {
    "coop": "prompt_learner",
    "cocoop": "prompt_learner",
    "kgcoop": "prompt_learner",
    "vpt": "prompt_learner",
    "ivlp": "VLPromptLearner",
    "maple": "MultiModalPromptLearner",
    "promptsrc": "VLPromptLearner",
    "syncclip": "SynCLIP",
    "mmrl": "MultiModalPromptLearner",
    "promptkd": "VLPromptLearner",
}
"""Method -> registered model of its trainer, the name of the checkpoint folder."""

PROMPT_LEARNERS = ("coop", "cocoop", "kgcoop")
"""Methods whose trainers register only the prompt learner; the others register the complete model."""

METHODS = {
    **{name: name for name in FOLDERS if name not in ("syncclip", "mmrl", "promptkd")},
    "synclip": "syncclip",
    "synclip_shallow": "syncclip",
}
"""File of reference values -> our name of its method."""

DEFAULT_WORDS = "a photo of a"


@dataclass(frozen=True)
class Case:
    """Learned parameters and their logits."""

    file: str
    variant: str = ""

    @property
    def fixture(self) -> parity.Fixture:
        return parity.load(self.file)

    @property
    def method(self) -> str:
        return METHODS[self.file]

    @property
    def config(self) -> dict[str, Any]:
        config = self.fixture.config
        return dict(config[self.variant.rstrip(".")]) if self.variant else config

    @property
    def parameters(self) -> dict[str, Tensor]:
        return self.fixture.under(f"{self.variant}param.")

    @property
    def logits(self) -> Tensor:
        """Over all classes."""
        key = f"{self.variant}out.logits"
        return self.fixture[key if key in self.fixture.tensors else "out.logits_open"]

    @property
    def overrides(self) -> list[str]:
        """Settings that a checkpoint's shapes do not determine, unless they are defaults."""
        config, section = self.config, f"methods.{self.method}"
        words, position = config.get("CTX_INIT"), config.get("CLASS_TOKEN_POSITION", "end")
        overrides = [f"{section}.position={position}"] if position != "end" else []
        if words not in (None, "", True, DEFAULT_WORDS):
            setting = f"template={words} {{}}." if self.method == "vpt" else f"initial_words={words}"
            overrides.append(f"{section}.{setting}")
        return overrides

    def __str__(self) -> str:
        return f"{self.file}-{self.variant.rstrip('.')}".rstrip("-")


def cases() -> list[Case]:
    """All cases with reference values."""
    cases = []
    for file in parity.names(*METHODS):
        config = parity.load(file).config
        variants = [f"{name}." for name, value in config.items() if isinstance(value, dict)]
        cases += [Case(file, variant) for variant in variants or [""]]
    return cases


def recipe(worlds: Path, case: Case, *overrides: str) -> Recipe:
    """A recipe with the CLIP, classes and method of the case; `worlds` is the fixture."""
    names = case.fixture.classnames
    dataset = worlds / f"dataset-{hashlib.sha256(repr(names).encode()).hexdigest()[:8]}"
    if not dataset.exists():
        write_dataset(dataset, names)
    settings = [f"backbone.name={worlds / 'clip'}", f"dataset.name={dataset}", f"training.method={case.method}"]
    (file := worlds / "mine.yaml").write_text("{}")
    return Recipe.load(str(file), [*settings, *case.overrides, *overrides])


def write_clip(folder: Path) -> None:
    """Write the CLIP of the reference values in open_clip's folder layout."""
    model = parity.tiny_clip().model
    weights = model.state_dict()
    width, _, patch, _ = weights["visual.conv1.weight"].shape
    context, text_width = weights["positional_embedding"].shape
    side = round((len(weights["visual.positional_embedding"]) - 1) ** 0.5)
    vision = {
        "layers": len(model.visual.transformer.resblocks),
        "width": width,
        "patch_size": patch,
        "image_size": side * patch,
        "head_width": 64,
    }
    text = {
        "context_length": context,
        "vocab_size": len(weights["token_embedding.weight"]),
        "width": text_width,
        "heads": text_width // 64,
        "layers": len(model.transformer.resblocks),
    }
    config = {
        "model_cfg": {
            "embed_dim": weights["text_projection"].shape[1],
            "quick_gelu": True,
            "vision_cfg": vision,
            "text_cfg": text,
        },
        "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]},
    }
    folder.mkdir(parents=True)
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, folder / "open_clip_model.safetensors")


def write_dataset(folder: Path, classnames: list[str]) -> None:
    """Write a packed dataset with one image of each class in each split."""
    for split in ("train", "val", "test"):
        samples = [Sample(i, i, encoded(make_image(i, 0)), name) for i, name in enumerate(classnames)]
        write_shard(str(folder / split), 0, samples)
    description = {"name": "published", "classnames": classnames, "template": "a photo of a {}."}
    counts = dict.fromkeys(("train", "val", "test"), len(classnames))
    (folder / "dataset.json").write_text(json.dumps({**description, "splits": counts}))


def state_dict(case: Case, half: bool = False, classes: int | None = None) -> dict[str, Tensor]:
    """State dict of the trainer's registered model: learned parameters, fixed words, frozen CLIP and unused modules.

    Args:
        half: use half precision, as published code on a GPU.
        classes: number of classes that it was trained on; None: all.
    """
    state = dict(case.parameters)
    if case.method != "vpt":
        state |= _fixed_words(case, classes)
    if case.method not in PROMPT_LEARNERS:
        state |= frozen_clip(case)
    if case.method == "kgcoop":  # unused modules of the published code
        width = state["prompt_learner.ctx"].shape[-1]
        state["prompt_learner.bias_vectors"] = torch.randn(1, width)
        state["prompt_learner.meta_net.linear1.weight"] = torch.randn(width, width)
        state["prompt_learner.meta_net.linear1.bias"] = torch.randn(width)
    if case.method in PROMPT_LEARNERS:
        state = {name.removeprefix("prompt_learner."): tensor for name, tensor in state.items()}
    return OrderedDict((name, tensor.half() if half else tensor) for name, tensor in state.items())


def _fixed_words(case: Case, classes: int | None) -> dict[str, Tensor]:
    words = case.config["CTX_INIT"]
    if words is True:
        words = DEFAULT_WORDS
    n = case.parameters["prompt_learner.ctx"].shape[-2]
    if not words or (n > 4 and case.method not in PROMPT_LEARNERS):
        words = " ".join(["X"] * n)
    embeddings = embed(case, words, classes)
    return {"prompt_learner.token_prefix": embeddings[:, :1], "prompt_learner.token_suffix": embeddings[:, 1 + n :]}


def embed(case: Case, words: str, classes: int | None = None) -> Tensor:
    """(classes, context, width) token embeddings of the prompts `<words> <class name>.`"""
    prompts = [f"{words} {name.replace('_', ' ')}." for name in case.fixture.classnames[:classes]]
    return parity.tiny_clip().model.token_embedding.weight[parity.tiny_clip().backbone.tokenizer(prompts)].detach()


def frozen_clip(case: Case) -> dict[str, Tensor]:
    """Weights of CLIP and of unused modules in a checkpoint of the complete model."""
    weights = dict(parity.load("clip_tiny").tensors)
    visual = {name.removeprefix("visual."): w.float() for name, w in weights.items() if name.startswith("visual.")}
    text = ("transformer.", "positional_embedding", "ln_final.", "text_projection")
    frozen = {f"image_encoder.{name}": w for name, w in visual.items()}
    frozen |= {f"text_encoder.{name}": w.float() for name, w in weights.items() if name.startswith(text)}
    frozen["logit_scale"] = weights["logit_scale"].float()
    if case.method == "promptsrc":
        frozen |= {f"prompt_learner.ZS_image_encoder.{name}": w for name, w in visual.items()}
    if case.method == "syncclip":
        for name, prompts in case.parameters.items():
            if name.startswith("image_encoder.") and name.endswith(".VPT_shallow"):
                width = prompts.shape[-1]
                block = name.removesuffix("VPT_shallow")
                frozen[f"{block}syn_projection.0.weight"] = torch.randn(width, width)
                frozen[f"{block}syn_projection.0.bias"] = torch.randn(width)
    return frozen


class WarmUp(LRScheduler):
    """A scheduler like Dassl's, whose state in a checkpoint contains the scheduler that follows the warm-up."""

    def __init__(self, optimizer: torch.optim.Optimizer, successor: LRScheduler) -> None:
        self.successor, self.warmup_epoch, self.cons_lr = successor, 1, 1e-5
        super().__init__(optimizer)

    def get_lr(self) -> list[float]:
        return [self.cons_lr for _ in self.base_lrs]


def checkpoint(state: dict[str, Tensor], epoch: int, **values: Any) -> dict[str, Any]:
    """Content of a checkpoint with the states of an optimiser and a scheduler after a step."""
    parameter = torch.nn.Parameter(torch.ones(2, 3))
    optimizer = torch.optim.SGD([parameter], lr=0.002, momentum=0.9, weight_decay=5e-4)
    scheduler = WarmUp(optimizer, CosineAnnealingLR(optimizer, 50.0))
    parameter.sum().backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    scheduler.step()
    return {
        "state_dict": state,
        "epoch": epoch,
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "val_result": None,
        **values,
    }


def save(output: Path, method: str, state: dict[str, Tensor], epoch: int = 5, best: bool = False) -> Path:
    """Write a checkpoint into the trainer's output folder; return its path."""
    folder = output / FOLDERS[method]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"model.pth.tar-{epoch}"
    torch.save(checkpoint(state, epoch), path)
    (folder / "checkpoint").write_text(f"{path.name}\n")
    if best:
        (folder / "model-best.pth.tar").write_bytes(path.read_bytes())
    return path


def import_case(
    case: Any,
    folder: Path,
    worlds: Path,
    *overrides: str,
    state: dict[str, Tensor] | None = None,
    transfer: bool = False,
) -> ImportedRun:
    """Save a checkpoint, by default that of the case, to `folder/published`, and import it to `folder/run`."""
    save(folder / "published", case.method, state_dict(case) if state is None else state)
    source, out = str(folder / "published"), str(folder / "run")
    return import_prompts(source, recipe(worlds, case, *overrides), out, transfer=transfer)


def import_again(exported: Path, run: str, out: Path) -> ImportedRun:
    """Import an exported checkpoint, and require the prompts of the original run."""
    imported = import_prompts(str(exported), finished_run(run)[0], str(out))
    assert imported.notes == []
    assert_same_prompts(imported.url, run)
    return imported


def assert_same_prompts(url: str, expected: str) -> None:
    first, second = (load_file(Path(folder, "prompts.safetensors")) for folder in (url, expected))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in second)


def load_run(url: str) -> Method:
    """The method of a run with its prompts, in evaluation mode."""
    recipe, folder = finished_run(url)
    method = build_parts(recipe).method.eval()
    load_prompts(folder, method)
    return method
