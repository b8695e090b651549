"""Checks of PromptKD against the file of its published code: teacher, student, loss and steps."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.nn.functional import normalize

from syncclip.clip.prompted import PromptedClip
from syncclip.methods.ivlp import Ivlp
from syncclip.methods.promptkd import PromptKd
from tests.methods import parity, upstream
from tests.methods.variants import Variant, variants_of

FILE = "promptkd"
VARIANTS = variants_of(FILE)
LAYERS = {"0": "narrow.", "1": "norm_", "3": "last."}
"""Layers of the published projector by index."""
ZERO_GRADIENT = "narrow.bias"
"""A bias that batch norm removes."""
LIMITS = (5e-6, 5e-7)


def ours(theirs: str) -> str:
    """Our name of a parameter."""
    layer, _, kind = theirs.removeprefix("VPT_image_trans.conv1.").partition(".")
    return LAYERS[layer] + kind if theirs.startswith("VPT_image_trans.") else upstream.ours(theirs)


class Distilled(Variant):
    """A variant of the file, whose 1x1 convolutions are flattened to linear layers."""

    def __init__(self, variant: str) -> None:
        super().__init__(FILE, variant)
        file = parity.load(FILE).tensors
        self.replaced = {name: file[f"teacher.{name}"] for name in ("visual.proj", "text_projection")}
        convolutions = [name for name, value in self.tensors.items() if "VPT_image_trans" in name and value.dim() > 1]
        self.tensors |= {name: self[name].flatten(1) for name in convolutions}

    def teacher(self) -> Ivlp:
        """The teacher, a prompted CLIP with another dimension and logit scale."""
        published, backbone = self.settings["teacher"], copy.deepcopy(parity.tiny_clip().backbone)
        model: Any = backbone.model
        model.visual.proj = Parameter(self.replaced["visual.proj"])
        model.text_projection = Parameter(self.replaced["text_projection"])
        model.logit_scale.data.fill_(published["logit_scale"])
        settings = Ivlp.Settings(
            visual_tokens=published["N_CTX_VISION"],
            text_tokens=published["N_CTX_TEXT"],
            visual_depth=published["depth"],
            text_depth=published["depth"],
            initial_words=published["CTX_INIT"],
        )
        method = Ivlp(PromptedClip(backbone), self.classnames, self.base, "", settings)
        method.load_state_dict(self.under("teacher.param.", upstream.ours))
        return method

    def student(self) -> PromptKd:
        """The student with the parameters of the file."""
        settings = PromptKd.Settings(
            visual_tokens=self.settings["N_CTX_VISION"],
            visual_depth=self.settings["PROMPT_DEPTH_VISION"],
            temperature=self.settings["TEMPERATURE"],
            distillation_weight=self.settings["KD_WEIGHT"],
            teacher_dim=self.settings["teacher"]["dim"],
        )
        method = PromptKd(parity.tiny_clip(), self.classnames, self.base, "", settings)
        vectors = {"class_vectors": self.teacher().text_features().detach()}
        running = {name: self[f"in.{name}"] for name in ("running_mean", "running_var")}
        method.load_state_dict(self.under("param.", ours) | running | vectors)
        return method

    def batch(self) -> parity.Batch:
        """All images as synthetic ones, with the teacher's soft labels."""
        images, count = self["in.images"], len(self["in.images"])
        teacher = self.teacher().logits(images).detach().softmax(dim=1)
        labels = torch.zeros(count, dtype=torch.long)
        return parity.Batch(images, labels, torch.ones_like(labels), (0, count, 0), teacher)


def check(variant: Distilled) -> None:
    """Check everything that the file contains about a variant."""
    check_teacher(variant)
    check_student(variant)
    check_loss(variant)
    check_steps(variant)


def check_teacher(variant: Distilled) -> None:
    teacher, images = variant.teacher(), variant["in.images"]
    parity.check_ids(teacher.tokens.ids, variant["in.tokenized_prompts"])
    variant.check_close("normalised", "out.teacher_text_features", teacher.text_features())
    variant.check_close("normalised", "out.teacher_image_features", normalize(teacher.image_features(images), dim=-1))
    variant.check_close("logits", "out.teacher_logits", teacher.logits(images))


def check_student(variant: Distilled) -> None:
    """Features and logits, in training and in evaluation."""
    student, images = variant.student(), variant["in.images"]
    variant.check_close("raw", "out.image_features_raw", student.raw_features(images))
    projected = student.training_features(images)
    variant.check_close("raw", "out.projected_features_raw", projected)
    variant.check_close("normalised", "out.projected_features", normalize(projected, dim=-1))
    variant.check_close("logits", "out.logits_train", student.scores(projected, student.text_features()))
    student = variant.student()
    logits = check_evaluation(variant, student, "out.")
    with torch.no_grad():
        features = normalize(student.image_features(images), dim=-1)
    variant.check_close("normalised", "out.eval_image_features", features)
    variant.check_close("logits", "out.eval_logits_base", logits[:, : variant.base])


def check_loss(variant: Distilled) -> None:
    student, batch, weight = variant.student(), variant.batch(), variant.settings["KD_WEIGHT"]
    total = student.loss(batch)["total"]
    variant.loss_differs("loss.total", total)
    variant.loss_differs("loss.ukd", total / weight)
    pairs = len(batch.images) * len(variant.classnames)
    variant.loss_differs("loss.kl_sum", total * pairs / weight / variant.settings["TEMPERATURE"] ** 2)
    theirs = next(name for name in variant.under("grad.") if ours(name) == ZERO_GRADIENT)
    reference = {f"grad.{theirs}": variant.tensors.pop(f"grad.{theirs}")}
    gradients = parity.gradients(student, total)
    largest = float(gradients["narrow.weight"].abs().max())
    assert float(gradients[ZERO_GRADIENT].abs().max()) <= 1e-4 * largest, f"{variant.name}: {ZERO_GRADIENT} differs"
    variant.tensors[f"grad.{theirs}"] = gradients[ZERO_GRADIENT].detach()
    variant.check_gradients(student, total, ours)
    variant.tensors |= reference


def check_steps(variant: Distilled) -> None:
    """Five steps, and the evaluation after them."""
    student = variant.student()
    variant.check_optimisation(student.settings)
    variant.check_trajectory(student, student.settings.optimisation, ours, LIMITS)
    for name in ("running_mean", "running_var"):
        gap = (getattr(student, name).detach() - variant[f"traj.{name}"]).abs().max()
        assert float(gap) <= LIMITS[0], f"{variant.name}: traj.{name} differs by {gap}"
    assert torch.equal(student.class_vectors, variant.student().class_vectors)
    check_evaluation(variant, student, "traj.")


def check_evaluation(variant: Distilled, student: PromptKd, prefix: str) -> Tensor:
    """Logits of novel classes in evaluation; returns the logits of all classes."""
    student.eval()
    with torch.no_grad():
        logits: Tensor = student.logits(variant["in.images"])
    variant.check_close("logits", f"{prefix}eval_logits_novel", logits[:, variant.base :])
    return logits
