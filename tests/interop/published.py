"""Checkpoints as the methods' published code writes them, made of the reference numbers' parameters; and a world for
them: the CLIP and the classes that these numbers were made with."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler

from syncclip.recipe.recipe import Recipe
from syncclip.shards.writer import Sample, write_shard
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
"""What each trainer registers its model as, which is how the folder of its checkpoints is called."""

ALONE = ("coop", "cocoop", "kgcoop")
"""Trainers that register the prompt learner alone; the others register the whole model."""

METHODS = {
    **{name: name for name in FOLDERS if name not in ("syncclip", "mmrl", "promptkd")},
    "synclip": "syncclip",
    "synclip_shallow": "syncclip",
}
"""Our name of the method of each file of the first collection of reference numbers."""

USUAL = "a photo of a"


@dataclass(frozen=True)
class Case:
    """One set of learned parameters, and the logits that it gives."""

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
        """What a recipe must say beside method, backbone and dataset: what no shape tells, where it is not usual."""
        config, section = self.config, f"methods.{self.method}"
        phrase, position = config.get("CTX_INIT"), config.get("CLASS_TOKEN_POSITION", "end")
        asked = [f"{section}.position={position}"] if position != "end" else []
        if phrase in (None, "", True, USUAL):
            return asked
        return [
            *asked,
            f"{section}.template={phrase} {{}}." if self.method == "vpt" else f"{section}.initial_words={phrase}",
        ]

    def __str__(self) -> str:
        return f"{self.file}-{self.variant.rstrip('.')}".rstrip("-")


def cases() -> list[Case]:
    """All that there are reference numbers of."""
    actual = []
    for file in parity.names(*METHODS):
        config = parity.load(file).config
        variants = [f"{name}." for name, value in config.items() if isinstance(value, dict)]
        actual += [Case(file, variant) for variant in variants or [""]]
    return actual


def recipe(worlds: Path, case: Case, *overrides: str) -> Recipe:
    """A recipe of the reference numbers' CLIP and classes, and of the case's method.

    Args:
        worlds: see the fixture of this name.
    """
    names = case.fixture.classnames
    dataset = worlds / f"dataset-{hashlib.sha256(repr(names).encode()).hexdigest()[:8]}"
    if not dataset.exists():
        write_dataset(dataset, names)
    named = [f"backbone.name={worlds / 'clip'}", f"dataset.name={dataset}", f"training.method={case.method}"]
    (file := worlds / "mine.yaml").write_text("{}")
    return Recipe.load(str(file), [*named, *case.overrides, *overrides])


def write_clip(folder: Path) -> None:
    """The CLIP of the reference numbers, in open_clip's folder layout; all sizes follow from its tensors."""
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
    """One image of each class in each split."""
    for split in ("train", "val", "test"):
        samples = [
            Sample(index=i, label=i, image_bytes=encoded(make_image(i, 0)), text=name, provenance={})
            for i, name in enumerate(classnames)
        ]
        write_shard(str(folder / split), 0, samples)
    described = {"name": "published", "classnames": classnames, "template": "a photo of a {}."}
    counts = dict.fromkeys(("train", "val", "test"), len(classnames))
    (folder / "dataset.json").write_text(json.dumps({**described, "splits": counts}))


def state_dict(case: Case, half: bool = False, classes: int | None = None) -> dict[str, Tensor]:
    """What the trainer's registered model holds: learned parameters, words, and the frozen CLIP with the rest.

    Args:
        half: in the precision that the published code trains in on a GPU.
        classes: trained on so many first classes; None: on all.
    """
    whole = dict(case.parameters)
    if case.method != "vpt":
        whole |= _words(case, classes)
    if case.method not in ALONE:
        whole |= _frozen(case)
    if case.method == "kgcoop":  # built there and not used, as are SYNC-CLIP's projections
        width = whole["prompt_learner.ctx"].shape[-1]
        whole["prompt_learner.bias_vectors"] = torch.randn(1, width)
        whole["prompt_learner.meta_net.linear1.weight"] = torch.randn(width, width)
        whole["prompt_learner.meta_net.linear1.bias"] = torch.randn(width)
    if case.method in ALONE:
        whole = {name.removeprefix("prompt_learner."): tensor for name, tensor in whole.items()}
    return OrderedDict((name, tensor.half() if half else tensor) for name, tensor in whole.items())


def _words(case: Case, classes: int | None) -> dict[str, Tensor]:
    n = case.parameters["prompt_learner.ctx"].shape[-2]
    phrase = case.config["CTX_INIT"]
    if phrase is True:
        phrase = USUAL
    prefix = phrase if phrase and (n <= 4 or case.method in ALONE) else " ".join(["X"] * n)
    embedded = words([f"{prefix} {name}." for name in spoken(case)[:classes]])
    return {"prompt_learner.token_prefix": embedded[:, :1], "prompt_learner.token_suffix": embedded[:, 1 + n :]}


def words(sentences: list[str]) -> Tensor:
    """(n, context, width) token embeddings."""
    return parity.tiny_clip().model.token_embedding.weight[parity.tiny_clip().backbone.tokenizer(sentences)].detach()


def spoken(case: Case) -> list[str]:
    """The class names as they stand in sentences."""
    return [name.replace("_", " ") for name in case.fixture.classnames]


def _frozen(case: Case) -> dict[str, Tensor]:
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
    """Like Dassl's: it keeps the scheduler that follows the warm-up, which ends up in the checkpoint as a whole."""

    def __init__(self, optimizer: torch.optim.Optimizer, successor: LRScheduler) -> None:
        self.successor, self.warmup_epoch, self.cons_lr = successor, 1, 1e-5
        super().__init__(optimizer)

    def get_lr(self) -> list[float]:
        return [self.cons_lr for _ in self.base_lrs]


def checkpoint(state: dict[str, Tensor], epoch: int, **others: Any) -> dict[str, Any]:
    """The whole of a file, with an optimiser that has made a step, and its scheduler."""
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
        **others,
    }


def save(output: Path, method: str, state: dict[str, Tensor], epoch: int = 5, best: bool = False) -> Path:
    """Write the checkpoint into the trainer's output folder, as Dassl does; returns its path."""
    folder = output / FOLDERS[method]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"model.pth.tar-{epoch}"
    torch.save(checkpoint(state, epoch), path)
    (folder / "checkpoint").write_text(f"{path.name}\n")
    if best:
        (folder / "model-best.pth.tar").write_bytes(path.read_bytes())
    return path
