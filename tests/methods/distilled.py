"""How PromptKD is held against the file of its published code: student, teacher, loss and steps."""

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
"""Of the published projector, by their place in it."""
ZERO_GRADIENT = "narrow.bias"
"""Batch norm takes away what it adds."""
COURSE_LIMITS = (5e-6, 5e-7)


def ours(theirs: str) -> str:
    """Our name of a parameter."""
    layer, _, kind = theirs.removeprefix("VPT_image_trans.conv1.").partition(".")
    return LAYERS[layer] + kind if theirs.startswith("VPT_image_trans.") else upstream.ours(theirs)


class Distilled(Variant):
    """A variant of the file, with 1x1 convolutions as the linear layers that they are."""

    def __init__(self, variant: str) -> None:
        super().__init__(FILE, variant)
        whole = parity.load(FILE).tensors
        self.replaced = {name: whole[f"teacher.{name}"] for name in ("visual.proj", "text_projection")}
        convolutions = [name for name, one in self.tensors.items() if "VPT_image_trans" in name and one.dim() > 1]
        self.tensors |= {name: self[name].flatten(1) for name in convolutions}

    def teacher(self) -> Ivlp:
        """The prompted CLIP, with a width and a scale of its own."""
        told, backbone = self.settings["teacher"], copy.deepcopy(parity.tiny_clip().backbone)
        model: Any = backbone.model
        model.visual.proj = Parameter(self.replaced["visual.proj"])
        model.text_projection = Parameter(self.replaced["text_projection"])
        model.logit_scale.data.fill_(told["logit_scale"])
        settings = Ivlp.Settings(
            visual_tokens=told["N_CTX_VISION"],
            text_tokens=told["N_CTX_TEXT"],
            visual_depth=told["depth"],
            text_depth=told["depth"],
            initial_words=told["CTX_INIT"],
        )
        method = Ivlp(PromptedClip(backbone), self.classnames, self.base, "", settings)
        method.load_state_dict(self.under("teacher.param.", upstream.ours))
        return method

    def student(self) -> PromptKd:
        """Ours with the file's parameters."""
        settings = PromptKd.Settings(
            visual_tokens=self.settings["N_CTX_VISION"],
            visual_depth=self.settings["PROMPT_DEPTH_VISION"],
            temperature=self.settings["TEMPERATURE"],
            distillation_weight=self.settings["KD_WEIGHT"],
            teacher_dim=self.settings["teacher"]["dim"],
        )
        method = PromptKd(parity.tiny_clip(), self.classnames, self.base, "", settings)
        teachers = {"class_vectors": self.teacher().text_features().detach()}
        running = {name: self[f"in.{name}"] for name in ("running_mean", "running_var")}
        method.load_state_dict(self.under("param.", ours) | running | teachers)
        return method

    def batch(self) -> parity.Batch:
        """All images as synthetic ones, with what the teacher says of them."""
        images, count = self["in.images"], len(self["in.images"])
        teacher = self.teacher().logits(images).detach().softmax(dim=1)
        labels = torch.zeros(count, dtype=torch.long)
        return parity.Batch(images, labels, torch.ones_like(labels), (0, count, 0), teacher)


def check(variant: str) -> None:
    """All that the file holds of a variant."""
    told = Distilled(variant)
    check_teacher(told)
    check_student(told)
    check_loss(told)
    check_steps(told)


def check_teacher(told: Distilled) -> None:
    teacher, images = told.teacher(), told["in.images"]
    parity.check_tokens(parity.Fixture(told.name, told.tensors, {}), teacher.tokens.ids)
    told.differs("normalised", "out.teacher_text_features", teacher.text_features())
    told.differs("normalised", "out.teacher_image_features", normalize(teacher.image_features(images), dim=-1))
    told.differs("logits", "out.teacher_logits", teacher.logits(images))


def check_student(told: Distilled) -> None:
    """Features and logits, in training and in evaluation."""
    student, images = told.student(), told["in.images"]
    told.differs("raw", "out.image_features_raw", student.raw_features(images))
    projected = student.training_features(images)
    told.differs("raw", "out.projected_features_raw", projected)
    told.differs("normalised", "out.projected_features", normalize(projected, dim=-1))
    told.differs("logits", "out.logits_train", student.scores(projected, student.text_features()))
    _check_evaluation(told, told.student(), "out.", features=True)


def check_loss(told: Distilled) -> None:
    student, batch = told.student(), told.batch()
    total = student.loss(batch)["total"]
    told.loss_differs("loss.total", total)
    told.loss_differs("loss.ukd", total / told.settings["KD_WEIGHT"])
    pairs = len(batch.images) * len(told.classnames)
    told.loss_differs("loss.kl_sum", total * pairs / told.settings["KD_WEIGHT"] / told.settings["TEMPERATURE"] ** 2)
    theirs = next(name for name in told.under("grad.") if ours(name) == ZERO_GRADIENT)
    zero = {f"grad.{theirs}": told.tensors.pop(f"grad.{theirs}")}
    found = parity.gradients(student, total)
    largest = float(found["narrow.weight"].abs().max())
    assert float(found[ZERO_GRADIENT].abs().max()) <= 1e-4 * largest, f"{told.name}: {ZERO_GRADIENT} is reached"
    told.tensors[f"grad.{theirs}"] = found[ZERO_GRADIENT].detach()
    told.check_gradients(student, total, ours)
    told.tensors |= zero


def check_steps(told: Distilled) -> None:
    """Five steps, and what evaluation sees afterwards."""
    student = told.student()
    told.check_optimisation(student.settings)
    told.check_course(student, student.settings.optimisation, ours, COURSE_LIMITS)
    for name in ("running_mean", "running_var"):
        gap = (getattr(student, name).detach() - told[f"traj.{name}"]).abs().max()
        assert float(gap) <= COURSE_LIMITS[0], f"{told.name}: traj.{name} differs by {gap}"
    assert torch.equal(student.class_vectors, told.student().class_vectors)
    _check_evaluation(told, student, "traj.")


def _check_evaluation(told: Distilled, student: PromptKd, prefix: str, features: bool = False) -> None:
    student.eval()
    with torch.no_grad():
        logits: Tensor = student.logits(told["in.images"])
        if features:
            found = normalize(student.image_features(told["in.images"]), dim=-1)
            told.differs("normalised", f"{prefix}eval_image_features", found)
            told.differs("logits", f"{prefix}eval_logits_base", logits[:, : told.base])
    told.differs("logits", f"{prefix}eval_logits_novel", logits[:, told.base :])
