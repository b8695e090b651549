"""Layouts of the methods' published checkpoints: parameter names and fixed token embeddings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

from torch import Tensor

from syncclip.clip.prompted import PromptedClip
from syncclip.core.settings import UserError
from syncclip.methods import find_method
from syncclip.methods.prompts import context_tokens
from syncclip.methods.settings import ContextSettings

Tensors = Mapping[str, Tensor]
Reading = Callable[[Tensors], int | bool]

BLOCKS = range(1, 100)
"""Numbers of all blocks except the first (block 0); the range covers every tower in open_clip."""

LEARNER = "prompt_learner."
"""Prefix of the names of text prompts and fixed token embeddings in published checkpoints."""

FIXED_WORDS = "token_prefix", "token_suffix"

CLIP_WEIGHTS = "the frozen CLIP weights, which the published code loads from a separate file"


def tokens(prompts: str) -> Reading:
    """Return a function that counts the vectors per block."""
    return lambda learned: learned[f"{prompts}.0"].shape[-2]


def depth(prompts: str) -> Reading:
    """Return a function that counts the prompted blocks."""
    return lambda learned: sum(name.startswith(f"{prompts}.") for name in learned)


@dataclass(frozen=True)
class Layout:
    """Checkpoint layout of a method's published code.

    Attributes:
        repository: GitHub repository of the published code.
        folder: subfolder of the output folder, named after the trainer's registered model.
        names: mapping from published parameter names in the complete model to syncclip names. `{block}` stands for a
            block number (1, 2, ...), and `{below}` for the number of the previous block.
        shape: mapping from method settings to functions that infer their values from tensors with syncclip names.
        config: syncclip settings keyed by the published `TRAINER` settings that determine the model's shape.
        root: prefix of the saved submodule, omitted from names in a file; empty if the complete model is saved.
        left_out: parts of published checkpoints, or inputs of published code, that exports omit.
        convolutions: linear-layer weights that the published code stores as 1x1 convolutions, with two additional
            dimensions.
        given: name of the tensor that published checkpoints omit (a teacher's class vectors), if any.
    """

    repository: str
    folder: str
    names: Mapping[str, str]
    shape: Mapping[str, Reading]
    config: Mapping[str, str]
    root: str = ""
    left_out: tuple[str, ...] = (CLIP_WEIGHTS,)
    convolutions: tuple[str, ...] = ()
    given: str | None = None

    @cached_property
    def pairs(self) -> dict[str, str]:
        """The mapping `names` with its placeholders replaced by block numbers."""
        return {
            theirs.format(block=block, below=block - 1): ours.format(block=block, below=block - 1)
            for theirs, ours in self.names.items()
            for block in (BLOCKS if "{" in theirs else BLOCKS[:1])
        }

    def qualified(self, state: Tensors) -> dict[str, Tensor]:
        """Return a file's tensors, keyed by their names in the complete model."""
        # multi-GPU training may have added the prefix "module."
        names = {name: name.removeprefix("module.") for name in state}
        return {name if name.startswith(self.root) else self.root + name: state[saved] for saved, name in names.items()}

    def learned(self, state: Tensors) -> dict[str, Tensor]:
        """Return a file's learned tensors, keyed by syncclip names, or {} if a required tensor is missing."""
        tensors = self.qualified(state)
        if not all(theirs in tensors for theirs in self.names if "{" not in theirs):
            return {}
        return {ours: tensors[theirs] for theirs, ours in self.pairs.items() if theirs in tensors}

    def as_ours(self, name: str, tensor: Tensor) -> Tensor:
        """Convert a file's tensor to the syncclip shape: a convolution's (out, in, 1, 1) becomes (out, in)."""
        return tensor[..., 0, 0] if name in self.convolutions and tensor.shape[2:] == (1, 1) else tensor

    def fixed_words(self, state: Tensors) -> FixedWords | None:
        """Return the fixed token embeddings for all classes, or None if the file does not contain them."""
        tensors = self.qualified(state)
        prefix, suffix = (tensors.get(f"{LEARNER}{name}") for name in FIXED_WORDS)
        if prefix is None or suffix is None or prefix.dim() != 3 or prefix.shape[::2] != suffix.shape[::2]:
            return None
        return FixedWords(prefix, suffix)

    def saved(self, learned: Tensors, words: FixedWords | None) -> dict[str, Tensor]:
        """Return the tensors to save for the given learned tensors and fixed token embeddings."""
        saved = {
            theirs: learned[ours][..., None, None] if ours in self.convolutions else learned[ours]
            for theirs, ours in self.pairs.items()
            if ours in learned
        }
        if words is not None:
            saved |= {f"{LEARNER}{name}": tensor for name, tensor in zip(FIXED_WORDS, words, strict=True)}
        return {name.removeprefix(self.root): tensor for name, tensor in saved.items()}


CONTEXT = {"prompt_learner.ctx": "text_prompts.0"}
TEXT = {**CONTEXT, "text_encoder.transformer.resblocks.{block}.VPT_shallow": "text_prompts.{block}"}
VISION = {
    "image_encoder.VPT": "vision_prompts.0",
    "image_encoder.transformer.resblocks.{block}.VPT_shallow": "vision_prompts.{block}",
}
TEXT_SHAPE = {"text_tokens": tokens("text_prompts"), "text_depth": depth("text_prompts")}
VISION_SHAPE = {"visual_tokens": tokens("vision_prompts"), "visual_depth": depth("vision_prompts")}
VISION_CONFIG = {"N_CTX_VISION": "visual_tokens", "PROMPT_DEPTH_VISION": "visual_depth"}
BOTH_CONFIG = {
    "N_CTX_TEXT": "text_tokens",
    "PROMPT_DEPTH_TEXT": "text_depth",
    "CTX_INIT": "initial_words",
    **VISION_CONFIG,
}


def _below(trainer: str, config: Mapping[str, str]) -> dict[str, str]:
    return {f"{trainer}.{theirs}": ours for theirs, ours in config.items()}


COOP = Layout(
    repository="KaiyangZhou/CoOp",
    folder="prompt_learner",
    root=LEARNER,
    names=CONTEXT,
    shape={
        "text_tokens": tokens("text_prompts"),
        "class_specific": lambda learned: learned["text_prompts.0"].dim() == 3,
    },
    config={
        "COOP.N_CTX": "text_tokens",
        "COOP.CTX_INIT": "initial_words",
        "COOP.CSC": "class_specific",
        "COOP.CLASS_TOKEN_POSITION": "position",
    },
    left_out=(),
)
IVLP = Layout(
    repository="muzairkhattak/multimodal-prompt-learning",
    folder="VLPromptLearner",
    names={**TEXT, **VISION},
    shape={**TEXT_SHAPE, **VISION_SHAPE},
    config=_below("IVLP", BOTH_CONFIG),
)

LAYOUTS = {
    "coop": COOP,
    "cocoop": Layout(
        repository="KaiyangZhou/CoOp",
        folder="prompt_learner",
        root=LEARNER,
        names={
            **CONTEXT,
            "prompt_learner.meta_net.linear1.weight": "meta_net.linear1.weight",
            "prompt_learner.meta_net.linear1.bias": "meta_net.linear1.bias",
            "prompt_learner.meta_net.linear2.weight": "meta_net.linear2.weight",
            "prompt_learner.meta_net.linear2.bias": "meta_net.linear2.bias",
        },
        shape={"text_tokens": tokens("text_prompts")},
        config={"COCOOP.N_CTX": "text_tokens", "COCOOP.CTX_INIT": "initial_words"},
        left_out=(),
    ),
    "kgcoop": replace(
        COOP,
        repository="htyao89/KgCoOp",
        left_out=("the unused modules `bias_vectors` and `meta_net`",),
    ),
    "vpt": Layout(
        repository="muzairkhattak/multimodal-prompt-learning",
        folder="prompt_learner",
        names=VISION,
        shape=VISION_SHAPE,
        config=_below("VPT", VISION_CONFIG),
    ),
    "ivlp": IVLP,
    "maple": Layout(
        repository="muzairkhattak/multimodal-prompt-learning",
        folder="MultiModalPromptLearner",
        names={
            **CONTEXT,
            "prompt_learner.proj.weight": "projections.0.weight",
            "prompt_learner.proj.bias": "projections.0.bias",
            "prompt_learner.compound_prompts_text.{below}": "text_prompts.{block}",
            "prompt_learner.compound_prompt_projections.{below}.weight": "projections.{block}.weight",
            "prompt_learner.compound_prompt_projections.{below}.bias": "projections.{block}.bias",
        },
        shape={"text_tokens": tokens("text_prompts"), "depth": depth("text_prompts")},
        config={"MAPLE.N_CTX": "text_tokens", "MAPLE.PROMPT_DEPTH": "depth", "MAPLE.CTX_INIT": "initial_words"},
    ),
    "promptsrc": replace(IVLP, repository="muzairkhattak/PromptSRC", config=_below("PROMPTSRC", BOTH_CONFIG)),
    "syncclip": Layout(
        repository="XiaoBuL/SYNC-CLIP",
        folder="SynCLIP",
        names={
            **IVLP.names,
            "image_encoder.SYN_VPT": "synthetic_prompts.0",
            "syn_prompt.{below}": "synthetic_prompts.{block}",
        },
        shape={**IVLP.shape, "domain_tokens": tokens("synthetic_prompts")},
        config=_below("SynCLIP", {**BOTH_CONFIG, "N_CTX_VISION_SYN": "domain_tokens"}),
        left_out=(CLIP_WEIGHTS, "the unused module `syn_projection` of each visual block"),
    ),
    "mmrl": Layout(
        repository="yunncheng/MMRL",
        folder="MultiModalPromptLearner",
        names={
            "representation_learner.compound_rep_tokens": "shared_tokens",
            "image_encoder.proj_rep": "projection",
            "representation_learner.compound_rep_tokens_r2vproj.{below}.weight": "to_vision.{below}.weight",
            "representation_learner.compound_rep_tokens_r2vproj.{below}.bias": "to_vision.{below}.bias",
            "representation_learner.compound_rep_tokens_r2tproj.{below}.weight": "to_text.{below}.weight",
            "representation_learner.compound_rep_tokens_r2tproj.{below}.bias": "to_text.{below}.bias",
        },
        shape={
            "tokens": lambda learned: learned["shared_tokens"].shape[0],
            "dim": lambda learned: learned["shared_tokens"].shape[1],
        },
        config=_below(
            "MMRL", {"REP_LAYERS": "layers", "N_REP_TOKENS": "tokens", "REP_DIM": "dim", "SCALE": "class_weight"}
        ),
    ),
    "promptkd": Layout(
        repository="zhengli97/PromptKD",
        folder="VLPromptLearner",
        names={
            **VISION,
            "VPT_image_trans.conv1.0.weight": "narrow.weight",
            "VPT_image_trans.conv1.0.bias": "narrow.bias",
            "VPT_image_trans.conv1.1.weight": "norm_weight",
            "VPT_image_trans.conv1.1.bias": "norm_bias",
            "VPT_image_trans.conv1.1.running_mean": "running_mean",
            "VPT_image_trans.conv1.1.running_var": "running_var",
            "VPT_image_trans.conv1.3.weight": "last.weight",
            "VPT_image_trans.conv1.3.bias": "last.bias",
        },
        shape={**VISION_SHAPE, "teacher_dim": lambda learned: learned["last.bias"].shape[0]},
        config=_below("PROMPTKD", VISION_CONFIG),
        left_out=(
            CLIP_WEIGHTS,
            "the teacher (the published code reads class vectors from teacher_model/<dataset>/VLPromptLearner/"
            "model-best.pth.tar and supports only ViT-B-16 students and 768-dimensional class vectors)",
        ),
        convolutions=("narrow.weight", "last.weight"),
        given="class_vectors",
    ),
}
"""Layout of each method's published checkpoints."""


def find_layout(method: str) -> Layout:
    """Return the layout of a method's published checkpoints.

    Raises:
        UserError: the method has no learned parameters, or its published code is not supported.
    """
    if method not in LAYOUTS:
        reason = "is not supported" if find_method(method).Settings.data else "has no learned parameters"
        raise UserError(f"training.method: {method!r} {reason}; use one of these methods: {', '.join(LAYOUTS)}")
    return LAYOUTS[method]


class FixedWords(NamedTuple):
    """Token embeddings of all class prompts, without the learned vectors.

    Published code ignores these embeddings when it loads a checkpoint. Imports compare them with those of
    the recipe to detect prompts trained with different classes, initial words or weights.
    """

    prefix: Tensor  # (C, 1, width), the start token
    suffix: Tensor  # (C, context - 1 - n, width), any other initial words, class name, full stop, end and padding

    @classmethod
    def of(cls, clip: PromptedClip, classnames: Sequence[str], settings: Any) -> FixedWords:
        """Return a method's fixed token embeddings for these settings, with the class name at the end.

        Raises:
            UserError: a prompt exceeds the context length.
        """
        if isinstance(settings, ContextSettings):
            tokens = context_tokens(clip, classnames, settings)
        else:
            tokens = clip.text_context(classnames, settings.initial_words, settings.text_tokens)
        n, length = tokens.slots.shape[1], tokens.embeddings.shape[1]
        padding = clip.text.token_embedding.weight[0].detach()  # CLIP's tokenizer pads with token 0
        embeddings = padding.expand(len(classnames), clip.context, -1).cpu().clone()
        embeddings[:, :length] = tokens.embeddings.cpu()
        return cls(embeddings[:, :1], embeddings[:, 1 + n :])
