"""Hyperparameters and defaults of every method: section `methods` of a recipe.

Each method is implemented in its own module; its settings are here, so that recipes are validated without torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import Field, StringConstraints, ValidationError, field_validator, model_validator

from syncclip.core.settings import Position, Settings, Template, UserError, added
from syncclip.core.text import did_you_mean
from syncclip.core.trust import module_of
from syncclip.core.validation_errors import explain

DataUse = Literal["real", "synthetic", "both"]
Negatives = Literal["hardest", "all"]
Phrase = Annotated[str, StringConstraints(strip_whitespace=True)]
Towers = Literal["both", "text", "vision"]
Projection = Literal["q", "k", "v", "out"]


class Optimisation(NamedTuple):
    """Method-specific optimiser and schedule, in place of the recipe's SGD with a cosine schedule per epoch."""

    optimizer: Literal["sgd", "adam", "adamw"] = "adamw"
    """SGD with the recipe's momentum, Adam (L2 penalty) or AdamW (decoupled weight decay)."""
    weight_decay: float = 0.01
    eps: float = 1e-8
    by_step: bool = False
    """Cosine schedule over steps, without warm-up, instead of over epochs."""
    last_rate: float = 0.0
    """Final learning rate of the schedule over steps, which it would reach one step after the last."""
    first_stage: float = 1.0
    """Fraction of the steps after which the schedule restarts for a second stage."""

    def switch(self, steps: int) -> int:
        """Return the first step of the second stage, given the total number of steps; fractions are rounded down."""
        return int(steps * self.first_stage)


class MethodSettings(Settings):
    """Base class for method settings; each method sets its attribute `Settings` to a subclass."""

    data: ClassVar[tuple[DataUse, ...]] = ("real", "synthetic", "both")
    """Training data that the method supports; empty for a method without training."""
    learning_rate: float = Field(0.0025, gt=0)
    """Peak SGD learning rate, after the warm-up."""

    @property
    def optimisation(self) -> Optimisation | None:
        """Optimiser and schedule of the method; None: the recipe's SGD."""
        return None

    @property
    def uses_teacher(self) -> bool:
        """Whether the method trains on a teacher's soft labels for the synthetic images."""
        return False

    @property
    def is_stochastic(self) -> bool:
        """Whether a step draws random numbers, which depend on the split into workers and micro-batches."""
        return False


class ContextSettings(MethodSettings):
    """Base class for methods with a learned context, initialised from words (one vector each) or at random."""

    learning_rate: float = Field(0.002, gt=0)
    """Peak SGD learning rate, after the warm-up."""
    initial_words: Phrase = ""
    """Words that initialise the learned vectors; empty: random initialisation."""
    text_tokens: int | None = Field(None, ge=1, le=1024)
    """Number of learned vectors; None: one per word of `initial_words` or, if that is empty, 16 (fewer if the context
    length requires it)."""

    @model_validator(mode="after")
    def _check_vector_count(self) -> ContextSettings:
        words = len(self.initial_words.split())
        if words and self.text_tokens not in (None, words):
            raise ValueError(
                f"text_tokens is {self.text_tokens}, but initial_words is {self.initial_words!r} ({words} word(s), one "
                f"vector each); set text_tokens=null, or set initial_words to {self.text_tokens} words or to ''"
            )
        return self


class ZeroShotSettings(MethodSettings):
    """Section `methods.zeroshot`."""

    data = ()
    templates: tuple[Template, ...] | None = Field(None, min_length=1)
    """Prompt templates whose features are averaged, with `{}` for the class name; None: the dataset's template."""


class CoOpSettings(ContextSettings):
    """Section `methods.coop`."""

    position: Position = "end"
    """Position of the class name relative to the learned vectors."""
    class_specific: bool = False
    """Learn separate vectors for each class instead of shared ones."""


class CoCoOpSettings(ContextSettings):
    """Section `methods.cocoop`."""

    initial_words: Phrase = "a photo of a"
    """Words that initialise the learned vectors."""
    prompts_at_once: int | None = Field(256, ge=1)
    """Maximum number of prompts per forward pass of the text tower. With several passes, activations are recomputed
    in the backward pass, so that memory does not grow with the batch size or the number of classes; None: no limit."""


class KgCoOpSettings(CoOpSettings):
    """Section `methods.kgcoop`."""

    initial_words: Phrase = "a photo of a"
    """Words that initialise the learned vectors."""
    knowledge_weight: float = Field(8.0, ge=0)
    """Weight of the loss that keeps text features near those of the hand-written prompts (λ in the paper)."""
    template: Template | None = None
    """Template of the hand-written prompts, with `{}` for the class name; None: the dataset's template."""


class TcpSettings(ContextSettings):
    """Section `methods.tcp`."""

    learning_rate: float = Field(0.002, gt=0)
    """Peak Adam learning rate, after the warm-up."""
    text_tokens: int = Field(4, ge=1, le=1024)
    """Number of learned vectors at the input, shared by all classes."""
    class_tokens: int = Field(4, ge=1, le=1024)
    """Number of class-specific vectors, which are inserted before `block`."""
    block: int | None = Field(None, ge=2)
    """Block before which the class-specific vectors are inserted, counted from 1; None: 9, or the last block of a
    shallower tower."""
    suffix: Template | None = None
    """Text after the learned vectors, with `{}` for the class name; None: the part of the dataset's template from the
    class name on."""
    knowledge_weight: float = Field(8.0, ge=0)
    """Weight of the loss that keeps text features near those of the hand-written prompts."""
    template: Template | None = None
    """Template of the hand-written prompts, with `{}` for the class name; None: the dataset's template."""

    @property
    def optimisation(self) -> Optimisation:
        """Adam with a large eps, as in the published code, which trains in half precision."""
        return Optimisation("adam", weight_decay=5e-4, eps=1e-3)


class VptSettings(MethodSettings):
    """Section `methods.vpt`."""

    visual_tokens: int = Field(8, ge=1, le=1024)
    """Number of learned tokens in each prompted block of the vision tower."""
    visual_depth: int | None = Field(None, ge=1)
    """Number of prompted blocks; 1: shallow VPT, None: all blocks."""
    template: Template | None = "a photo of a {}."
    """Template of the frozen prompts, with `{}` for the class name; None: the dataset's template."""


class IvlpSettings(MethodSettings):
    """Section `methods.ivlp`."""

    visual_tokens: int = Field(4, ge=1, le=1024)
    """Number of learned tokens in each prompted block of the vision tower."""
    text_tokens: int = Field(4, ge=1, le=1024)
    """Number of learned tokens in each prompted block of the text tower."""
    visual_depth: int | None = Field(None, ge=1)
    """Number of prompted blocks of the vision tower; None: 9, or all blocks of a shallower tower."""
    text_depth: int | None = Field(None, ge=1)
    """Number of prompted blocks of the text tower; None: 9, or all blocks of a shallower tower."""
    initial_words: str = "a photo of a"
    """Words whose first tokens initialise the text prompt, unless it has more than four tokens."""


class MapleSettings(MethodSettings):
    """Section `methods.maple`."""

    learning_rate: float = Field(0.0035, gt=0)
    """Peak SGD learning rate, after the warm-up."""
    text_tokens: int = Field(2, ge=1, le=1024)
    """Number of learned tokens in each prompted block of both towers."""
    depth: int | None = Field(None, ge=1)
    """Number of prompted blocks of each tower; None: 9, or all blocks of a shallower tower."""
    initial_words: str = "a photo of a"
    """Words whose first tokens initialise the text prompt, unless it has more than four tokens."""


class PromptSrcSettings(IvlpSettings):
    """Section `methods.promptsrc`."""

    text_weight: float = Field(25.0, ge=0)
    """Weight of the distance between prompted and frozen text features (w_t in the paper)."""
    image_weight: float = Field(10.0, ge=0)
    """Weight of the distance between prompted and frozen image features (w_v in the paper)."""
    logits_weight: float = Field(1.0, ge=0)
    """Weight of the divergence between prompted and frozen logits (w_l in the paper)."""
    templates: tuple[Template, ...] | None = Field(None, min_length=1)
    """Templates of the frozen prompts; None: the published templates that fit the context length of the CLIP model."""
    aggregation_mean: float = 15.0
    """Mean of the Gaussian weights with which prompts are averaged over epochs, in epochs counted from 1."""
    aggregation_std: float = Field(1.0, gt=0)
    """Standard deviation of the Gaussian weights with which prompts are averaged over epochs, in epochs."""


class SyncClipSettings(IvlpSettings):
    """Section `methods.syncclip`."""

    domain_tokens: int = Field(2, ge=0, le=1024)
    """Number of domain-specific tokens among the visual tokens (k in the paper); 0: none."""
    synthetic_weight: float = Field(0.4, ge=0)
    """Weight of the cross entropies on synthetic images of base and novel classes (L_SCE); 0 disables them."""
    alignment_weight: float = Field(0.1, ge=0)
    """Weight of the loss that aligns the features of both domains (L_FS); 0 disables it."""
    negatives: Negatives = "hardest"
    """Negatives in the alignment loss: only the hardest, or all real features of other classes."""
    distillation_weight: float = added(0.0, ge=0)
    """Weight of the KL divergence from the teacher (`training.teacher`) on synthetic images; 0 disables it."""
    temperature: float = added(1.0, gt=0)
    """Distillation temperature for teacher and student."""

    @property
    def uses_teacher(self) -> bool:
        return self.distillation_weight > 0

    @model_validator(mode="after")
    def _check_domain_tokens(self) -> SyncClipSettings:
        if self.domain_tokens > self.visual_tokens:
            raise ValueError(
                f"domain_tokens is {self.domain_tokens}, but can be at most visual_tokens={self.visual_tokens}, which "
                "include them; lower domain_tokens or raise visual_tokens"
            )
        return self


class ProbeSettings(MethodSettings):
    """Section `methods.probe`."""

    learning_rate: float = Field(0.1, gt=0)
    """Peak learning rate of SGD without weight decay, after the warm-up."""
    templates: tuple[Template, ...] | None = Field(None, min_length=1)
    """Prompt templates whose mean feature initialises the vector of a class, with `{}` for the class name; None: the
    dataset's template."""
    constraint: bool = False
    """Penalise the distance of each class's vector from its initial value, in proportion to the zero-shot probability
    of the class (CLAP)."""

    @property
    def optimisation(self) -> Optimisation:
        """SGD without weight decay, so that the vector of a class without images does not change."""
        return Optimisation("sgd", weight_decay=0.0)


class TipSettings(MethodSettings):
    """Section `methods.tip`."""

    learning_rate: float = Field(0.001, gt=0)
    """Initial AdamW learning rate."""
    finetune: bool = True
    """Fine-tune the cache keys (Tip-Adapter-F); false: training-free Tip-Adapter."""
    alpha: float = Field(1.17, ge=0)
    """Weight of the cache scores relative to the zero-shot scores (α in the paper)."""
    beta: float = Field(1.0, ge=0)
    """Sharpness of the cache affinity (β in the paper)."""
    cache_size: int = Field(16, ge=1, le=1024)
    """Number of cache keys per class. If a class has more images, several share a key, which is their mean feature."""
    views: int = Field(10, ge=1)
    """Number of augmented views of each training image; the mean of their features is its cache key."""
    templates: tuple[Template, ...] | None = Field(None, min_length=1)
    """Prompt templates whose features are averaged, with `{}` for the class name; None: the dataset's template."""

    @property
    def optimisation(self) -> Optimisation:
        """AdamW with a cosine learning-rate schedule over steps."""
        return Optimisation("adamw", weight_decay=0.01, eps=1e-4, by_step=True)


class ClipLoraSettings(MethodSettings):
    """Section `methods.cliplora`."""

    learning_rate: float = Field(2e-4, gt=0)
    """Initial AdamW learning rate."""
    rank: int = Field(2, ge=1)
    """Rank of the low-rank updates (r in the paper)."""
    alpha: float = Field(1.0, gt=0)
    """Scale of the low-rank updates, which are multiplied by alpha / sqrt(rank)."""
    dropout: float = Field(0.25, ge=0, lt=1)
    """Dropout probability for the inputs of the low-rank updates."""
    projections: tuple[Projection, ...] = Field(("q", "k", "v"), min_length=1)
    """Attention matrices to adapt: query ("q"), key ("k"), value ("v") and output projection ("out")."""
    towers: Towers = "both"
    """Towers to adapt."""
    domain_rank: int = Field(0, ge=0, le=16384)
    """Rank of additional domain-specific updates in the vision tower, trained with the losses of SYNC-CLIP; 0: no such
    updates and a single cross entropy, as published."""
    synthetic_weight: float = Field(0.4, ge=0)
    """Weight of the cross entropies on synthetic images, as in `methods.syncclip`; used if `domain_rank` > 0."""
    alignment_weight: float = Field(0.1, ge=0)
    """Weight of the alignment loss, as in `methods.syncclip`; used if `domain_rank` > 0."""
    negatives: Negatives = "hardest"
    """Negatives in the alignment loss, as in `methods.syncclip`; used if `domain_rank` > 0."""

    @model_validator(mode="after")
    def _check_domain_rank(self) -> ClipLoraSettings:
        if self.domain_rank and self.towers == "text":
            raise ValueError(
                f"domain_rank is {self.domain_rank}, but its domain-specific updates are in the vision tower, which "
                "towers=text excludes; set towers=both or domain_rank=0"
            )
        return self

    @property
    def optimisation(self) -> Optimisation:
        return Optimisation("adamw", weight_decay=0.01, by_step=True, last_rate=1e-6)

    @property
    def is_stochastic(self) -> bool:
        return self.dropout > 0


class TwoStageSettings(MethodSettings):
    """Section `methods.twostage`."""

    learning_rate: float = Field(2e-4, gt=0)
    """Initial AdamW learning rate of each stage."""
    first_stage: float = Field(0.6, gt=0, lt=1)
    """Fraction of the steps that train the layer norms; the remaining steps train the class vectors."""
    towers: Towers = "both"
    """Towers whose layer norms are trained."""
    first_visual_block: int = Field(1, ge=1)
    """First block of the vision tower whose layer norms are trained, counted from 1."""
    first_text_block: int = Field(1, ge=1)
    """First block of the text tower whose layer norms are trained, counted from 1."""

    @property
    def optimisation(self) -> Optimisation:
        return Optimisation("adamw", weight_decay=0.01, by_step=True, last_rate=1e-6, first_stage=self.first_stage)


class MmaSettings(MethodSettings):
    """Section `methods.mma`."""

    learning_rate: float = Field(0.0015, gt=0)
    """Peak SGD learning rate, after the warm-up."""
    width: int = Field(32, ge=1, le=16384)
    """Width of the adapters' inner layers."""
    scale: float = Field(0.001, gt=0)
    """Factor by which an adapter's output is multiplied before it is added to its block's output."""
    first_block: int | None = Field(None, ge=1)
    """First block with an adapter, counted from 1; None: 5, or 1 in a tower with fewer than five blocks."""
    last_block: int | None = Field(None, ge=1)
    """Last block with an adapter; None: the last block of the shallower tower."""
    template: Template | None = "a photo of a {}."
    """Prompt template, with `{}` for the class name; None: the dataset's template."""


class MmrlSettings(MethodSettings):
    """Section `methods.mmrl`."""

    learning_rate: float = Field(0.001, gt=0)
    """Peak AdamW learning rate, after the warm-up."""
    layers: tuple[int, ...] | None = Field(None, min_length=1)
    """Blocks into which the tokens are inserted, counted from 1; None: from block 6 to the last block of the shallower
    tower (only the last block if that tower has fewer than six)."""
    tokens: int = Field(5, ge=1, le=1024)
    """Number of learned tokens, shared by all layers and both towers (K in the paper)."""
    dim: int = Field(512, ge=1, le=16384)
    """Dimension of the shared token space, which each layer maps to its tower's width."""
    class_weight: float = Field(0.7, ge=0, le=1)
    """Weight w of the class token in the loss and in the scores of base classes (α in the paper); the learned tokens
    have the weight 1 - w."""
    regularisation_weight: float = Field(0.5, ge=0)
    """Weight of the losses that keep class-token and text features near the frozen features (λ in the paper).
    Published values range from 0.01 to 7, depending on the dataset (0.5 for ImageNet)."""
    domain_tokens: int = Field(0, ge=0, le=1024)
    """Number of `tokens` that are domain-specific in the vision tower, trained with the losses of SYNC-CLIP; 0: none,
    as published."""
    synthetic_weight: float = Field(0.4, ge=0)
    """Weight of the cross entropies on synthetic images, as in `methods.syncclip`; used if `domain_tokens` > 0."""
    alignment_weight: float = Field(0.1, ge=0)
    """Weight of the alignment loss, as in `methods.syncclip`; used if `domain_tokens` > 0."""
    negatives: Negatives = "hardest"
    """Negatives in the alignment loss, as in `methods.syncclip`; used if `domain_tokens` > 0."""

    @model_validator(mode="after")
    def _check_domain_tokens(self) -> MmrlSettings:
        if self.domain_tokens > self.tokens:
            raise ValueError(
                f"domain_tokens is {self.domain_tokens}, but can be at most tokens={self.tokens}, which include them; "
                "lower domain_tokens or raise tokens"
            )
        return self

    @field_validator("layers")
    @classmethod
    def _check_layers(cls, layers: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if layers is not None and (layers[0] < 1 or list(layers) != sorted({*layers})):
            raise ValueError(f"{list(layers)} must be distinct block numbers in ascending order, counted from 1")
        return layers

    @property
    def optimisation(self) -> Optimisation:
        """AdamW with a weight decay of 5e-4, as published."""
        return Optimisation("adamw", weight_decay=5e-4)


class PromptKdSettings(MethodSettings):
    """Section `methods.promptkd`."""

    data = ("synthetic", "both")
    learning_rate: float = Field(0.005, gt=0)
    """Peak SGD learning rate, after the warm-up."""
    visual_tokens: int = Field(4, ge=1, le=1024)
    """Number of learned tokens in each prompted block of the vision tower."""
    visual_depth: int | None = Field(None, ge=1)
    """Number of prompted blocks; None: 9, or all blocks of a shallower tower."""
    temperature: float = Field(1.0, gt=0)
    """Distillation temperature for teacher and student."""
    distillation_weight: float = Field(1000.0, gt=0)
    """Weight of the KL divergence from the teacher. For datasets with few or fine-grained classes, the paper uses
    200."""
    teacher_dim: int | None = Field(None, ge=1)
    """Dimension of the teacher's class vectors; None: read from `training.teacher`."""

    @property
    def uses_teacher(self) -> bool:
        return True


class MethodsSettings(Settings):
    """Section `methods` of a recipe: the settings of all methods, so that a study can compare and tune methods."""

    zeroshot: ZeroShotSettings = ZeroShotSettings()
    """Frozen CLIP with hand-written prompts."""
    coop: CoOpSettings = CoOpSettings()
    """Learned context around the class name (arXiv 2109.01134)."""
    cocoop: CoCoOpSettings = CoCoOpSettings()
    """CoOp with a context that is conditioned on the image (arXiv 2203.05557)."""
    kgcoop: KgCoOpSettings = KgCoOpSettings()
    """CoOp regularised towards the hand-written prompts (arXiv 2303.13283)."""
    vpt: VptSettings = VptSettings()
    """Learned tokens in the vision tower (arXiv 2203.12119)."""
    ivlp: IvlpSettings = IvlpSettings()
    """Independent learned tokens in both towers (arXiv 2210.03117)."""
    maple: MapleSettings = MapleSettings()
    """Visual tokens projected from text tokens (arXiv 2210.03117)."""
    promptsrc: PromptSrcSettings = PromptSrcSettings()
    """IVLP regularised towards the frozen CLIP model and averaged over epochs (arXiv 2307.06948)."""
    syncclip: SyncClipSettings = SyncClipSettings()
    """IVLP with domain-specific visual tokens and aligned features (arXiv 2312.03805)."""
    probe: ProbeSettings = ProbeSettings()
    """Linear probe: a learned vector for each class (arXiv 2312.12730)."""
    tip: TipSettings = TipSettings()
    """Zero-shot CLIP with a cache of image features, optionally fine-tuned (arXiv 2207.09519)."""
    cliplora: ClipLoraSettings = ClipLoraSettings()
    """Low-rank updates of the attention in both towers (arXiv 2405.18541)."""
    twostage: TwoStageSettings = TwoStageSettings()
    """Two-stage training: layer norms first, then a vector for each training class (2SFS, arXiv 2503.11609)."""
    mma: MmaSettings = MmaSettings()
    """Adapters parallel to the higher blocks of both towers, with a shared inner layer (MMA, CVPR 2024)."""
    mmrl: MmrlSettings = MmrlSettings()
    """Tokens from a space shared by both towers, inserted into later blocks (arXiv 2503.08497)."""
    tcp: TcpSettings = TcpSettings()
    """CoOp with class-specific vectors inside the text tower (arXiv 2311.18231)."""
    promptkd: PromptKdSettings = PromptKdSettings()
    """Visual tokens and a projector distilled from a teacher (arXiv 2403.02781)."""
    custom: dict[str, Any] = Field(default={})
    """Settings for a custom method, which is given as `training.method: package.module:Class`."""

    def of(self, name: str) -> MethodSettings:
        """Return the settings of a method, given its name.

        Raises:
            UserError: there is no such method, or `custom` is invalid for it.
        """
        if name != "custom" and name in type(self).model_fields:
            settings: MethodSettings = getattr(self, name)
            return settings
        method = custom_method(name)
        schema: type[MethodSettings] = method.Settings
        try:
            return schema.model_validate(self.custom)
        except ValidationError as error:
            key, reason = explain(error, schema)
            path = f"methods.custom.{key}" if key else "methods.custom"
            raise UserError(f"{path}: {reason} ({method.__name__})") from error


def custom_method(name: str) -> type[Any]:
    """Import a custom method, given as "package.module:Class", from an installed package or the working folder.

    Raises:
        UserError: the name is unknown or not trusted (see `core.trust`), or the import fails.
    """
    if ":" not in name:
        names = [field for field in MethodsSettings.model_fields if field != "custom"]
        raise UserError(f"there is no method {name!r}; {did_you_mean(name, names)}")
    try:
        method = getattr(module_of(name), name.partition(":")[2])
    except UserError:
        raise
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise UserError(
            f"no method {name!r} ({error}); use the form package.module:Class, with a module that can be imported from "
            f"{Path.cwd()}"
        ) from error
    settings = getattr(method, "Settings", None)
    if not (isinstance(method, type) and isinstance(settings, type) and issubclass(settings, MethodSettings)):
        raise UserError(f"{name} is not a method; derive it from syncclip.methods.Method")
    return method
