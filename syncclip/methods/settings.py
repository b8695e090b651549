"""Hyperparameters and defaults of all methods (the recipe's `methods` section).

Each method is implemented in its own module. All settings are defined here, so that recipes can be validated
without torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import Field, StringConstraints, ValidationError, field_validator, model_validator

from syncclip.core.custom_code import custom_code_error
from syncclip.core.settings import Position, Settings, Template, UserError, added
from syncclip.core.text import did_you_mean
from syncclip.core.trust import module_of
from syncclip.core.validation_errors import explain

DataUse = Literal["real", "synthetic", "both"]
Negatives = Literal["hardest", "all"]
TestDomain = Literal["real", "synthetic", "both"]
"""Domain whose prompts encode test images; "both" averages the logits of both domains."""
Phrase = Annotated[str, StringConstraints(strip_whitespace=True)]
Towers = Literal["both", "text", "vision"]
Projection = Literal["q", "k", "v", "out"]


class Optimisation(NamedTuple):
    """Method-specific optimiser and schedule, used instead of the recipe's SGD and per-epoch cosine schedule."""

    optimizer: Literal["sgd", "adam", "adamw"] = "adamw"
    """Optimiser: SGD with the recipe's momentum, Adam (L2 penalty) or AdamW (decoupled weight decay)."""
    weight_decay: float = 0.01
    eps: float = 1e-8
    by_step: bool = False
    """Whether to use a per-step cosine schedule without warm-up instead of the per-epoch schedule."""
    last_rate: float = 0.0
    """Learning rate that the per-step schedule would reach one step after the last step."""
    first_stage: float = 1.0
    """Fraction of the steps after which the schedule restarts for a second stage."""

    def switch(self, steps: int) -> int:
        """Return the first step of the second stage for a total of `steps` steps, rounded down."""
        return int(steps * self.first_stage)


class MethodSettings(Settings):
    """Base class for method settings; each method sets its `Settings` attribute to a subclass."""

    data: ClassVar[tuple[DataUse, ...]] = ("real", "synthetic", "both")
    """Types of training data supported by the method; empty for methods without training."""
    learning_rate: float = Field(0.0025, gt=0)
    """Peak SGD learning rate (after warm-up)."""

    @property
    def optimisation(self) -> Optimisation | None:
        """The method's optimiser and schedule, or None for the recipe's SGD."""
        return None

    @property
    def uses_teacher(self) -> bool:
        """Whether the method trains on a teacher's soft labels for the synthetic images."""
        return False

    def test_domains(self, data: str) -> tuple[TestDomain, ...]:  # noqa: ARG002
        """Return the test domains whose prompts are trained on `data` (see `training.data`); by default none, for
        methods without domain-specific prompts."""
        return ()

    @property
    def trains(self) -> bool:
        """Whether the method runs training steps after its preparation."""
        return bool(self.data)

    @property
    def is_stochastic(self) -> bool:
        """Whether training steps draw random numbers, which makes results depend on workers and micro-batches."""
        return False


class ContextSettings(MethodSettings):
    """Base class for settings of methods with a learned context, initialised from words (one vector per word)
    or randomly."""

    learning_rate: float = Field(0.002, gt=0)
    """Peak SGD learning rate (after warm-up)."""
    initial_words: Phrase = ""
    """Words that initialise the learned vectors; an empty string selects random initialisation."""
    text_tokens: int | None = Field(None, ge=1, le=1024)
    """Number of learned vectors; by default, one per word of `initial_words`, or 16 without initial words (fewer if the
    context length requires it)."""

    @model_validator(mode="after")
    def _check_vector_count(self) -> ContextSettings:
        words = len(self.initial_words.split())
        if words and self.text_tokens not in (None, words):
            raise ValueError(
                f"text_tokens is {self.text_tokens}, but initial_words is {self.initial_words!r} and initialises one "
                f"vector per word; set text_tokens={words} or null, or set initial_words to '' or {self.text_tokens} "
                "words"
            )
        return self


class ZeroShotSettings(MethodSettings):
    """Section `methods.zeroshot`."""

    data = ()
    templates: tuple[Template, ...] | None = Field(None, min_length=1)
    """Prompt templates with `{}` for the class name; their features are averaged (default: the dataset's template)."""


class CoOpSettings(ContextSettings):
    """Section `methods.coop`."""

    position: Position = "end"
    """Position of the class name relative to the learned vectors."""
    class_specific: bool = False
    """Learn separate vectors for each class instead of shared vectors."""


class CoCoOpSettings(ContextSettings):
    """Section `methods.cocoop`."""

    initial_words: Phrase = "a photo of a"
    """Words that initialise the learned vectors."""
    prompts_at_once: int | None = Field(256, ge=1)
    """Maximum number of prompts per forward pass of the text tower, or null for no limit. With several passes,
    activations are recomputed in the backward pass, so memory does not grow with the batch size or the number of
    classes."""


class KgCoOpSettings(CoOpSettings):
    """Section `methods.kgcoop`."""

    initial_words: Phrase = "a photo of a"
    """Words that initialise the learned vectors."""
    knowledge_weight: float = Field(8.0, ge=0)
    """Weight of the loss that keeps text features close to hand-written prompt features (λ in the paper)."""
    template: Template | None = None
    """Template for the hand-written prompts with `{}` for the class name; by default, the dataset's template."""


class TcpSettings(ContextSettings):
    """Section `methods.tcp`."""

    learning_rate: float = Field(0.002, gt=0)
    """Peak Adam learning rate (after warm-up)."""
    text_tokens: int = Field(4, ge=1, le=1024)
    """Number of learned vectors at the input, shared by all classes."""
    class_tokens: int = Field(4, ge=1, le=1024)
    """Number of class-specific vectors inserted before `block`."""
    block: int | None = Field(None, ge=2)
    """Block (1-based) before which the class-specific vectors are inserted; by default, block 9, or the last block of a
    shallower tower."""
    suffix: Template | None = None
    """Text after the learned vectors, with `{}` for the class name; by default, the part of the dataset's template from
    the class name onwards."""
    knowledge_weight: float = Field(8.0, ge=0)
    """Weight of the loss that keeps text features close to hand-written prompt features."""
    template: Template | None = None
    """Template for the hand-written prompts with `{}` for the class name; by default, the dataset's template."""

    @property
    def optimisation(self) -> Optimisation:
        """Adam with a large eps, as in the published code, which trains in half precision."""
        return Optimisation("adam", weight_decay=5e-4, eps=1e-3)


class VptSettings(MethodSettings):
    """Section `methods.vpt`."""

    visual_tokens: int = Field(8, ge=1, le=1024)
    """Number of learned tokens in each prompted block of the vision tower."""
    visual_depth: int | None = Field(None, ge=1)
    """Number of prompted blocks, by default all blocks; 1 selects shallow VPT."""
    template: Template | None = "a photo of a {}."
    """Template for the frozen prompts, with `{}` for the class name, or null for the dataset's template."""


class IvlpSettings(MethodSettings):
    """Section `methods.ivlp`."""

    visual_tokens: int = Field(4, ge=1, le=1024)
    """Number of learned tokens in each prompted block of the vision tower."""
    text_tokens: int = Field(4, ge=1, le=1024)
    """Number of learned tokens in each prompted block of the text tower."""
    visual_depth: int | None = Field(None, ge=1)
    """Number of prompted blocks in the vision tower; by default, 9, or all blocks if the tower has fewer."""
    text_depth: int | None = Field(None, ge=1)
    """Number of prompted blocks in the text tower; by default, 9, or all blocks if the tower has fewer."""
    initial_words: str = "a photo of a"
    """Words whose first tokens initialise the text prompt if the prompt has at most four tokens."""


class MapleSettings(MethodSettings):
    """Section `methods.maple`."""

    learning_rate: float = Field(0.0035, gt=0)
    """Peak SGD learning rate (after warm-up)."""
    text_tokens: int = Field(2, ge=1, le=1024)
    """Number of learned tokens in each prompted block of both towers."""
    depth: int | None = Field(None, ge=1)
    """Number of prompted blocks per tower; by default, 9, or all blocks if the tower has fewer."""
    initial_words: str = "a photo of a"
    """Words whose first tokens initialise the text prompt if the prompt has at most four tokens."""


class PromptSrcSettings(IvlpSettings):
    """Section `methods.promptsrc`."""

    text_weight: float = Field(25.0, ge=0)
    """Weight of the distance between prompted and frozen text features (w_t in the paper)."""
    image_weight: float = Field(10.0, ge=0)
    """Weight of the distance between prompted and frozen image features (w_v in the paper)."""
    logits_weight: float = Field(1.0, ge=0)
    """Weight of the divergence between prompted and frozen logits (w_l in the paper)."""
    templates: tuple[Template, ...] | None = Field(None, min_length=1)
    """Templates for the frozen prompts; by default, the published templates that fit the CLIP model's context
    length."""
    aggregation_mean: float = 15.0
    """Mean of the Gaussian weights for averaging prompts over epochs, as a 1-based epoch number."""
    aggregation_std: float = Field(1.0, gt=0)
    """Standard deviation, in epochs, of the Gaussian weights for averaging prompts."""


class SyncClipSettings(IvlpSettings):
    """Section `methods.syncclip`."""

    domain_tokens: int = Field(2, ge=0, le=1024)
    """Number of domain-specific visual tokens (k in the paper); 0 shares all tokens between domains."""
    synthetic_weight: float = Field(0.4, ge=0)
    """Weight of the cross-entropy losses on synthetic images of base and novel classes (L_SCE); 0 disables these
    losses."""
    alignment_weight: float = Field(0.1, ge=0)
    """Weight of the loss that aligns real and synthetic features (L_FS); 0 disables the loss."""
    negatives: Negatives = "hardest"
    """Negatives in the alignment loss: the hardest real feature from a different class, or all real features from other
    classes."""
    distillation_weight: float = added(0.0, ge=0)
    """Weight of the KL divergence from the teacher (`training.teacher`) on synthetic images; 0 disables
    distillation."""
    temperature: float = added(1.0, gt=0)
    """Distillation temperature for teacher and student."""
    class_vectors: bool = added(False)
    """Instead of text prompts, learn one vector per class, initialised with the normalised text feature of the
    dataset's template (an extension)."""
    test_domain: TestDomain = added("real")
    """Domain whose visual prompts are used to encode test images: "real" as published, "synthetic", or "both", which
    averages the logits of both domains (an extension)."""

    @property
    def uses_teacher(self) -> bool:
        return self.distillation_weight > 0

    def test_domains(self, data: str) -> tuple[TestDomain, ...]:
        """Return the trained domains and "real", whose prompts keep their initial values without real images."""
        synthetic: tuple[TestDomain, ...] = ("synthetic",) if data in ("synthetic", "both") else ()
        return ("real", *synthetic, "both") if data == "both" else ("real", *synthetic)

    @model_validator(mode="after")
    def _check_domain_tokens(self) -> SyncClipSettings:
        if self.domain_tokens > self.visual_tokens:
            raise ValueError(
                f"domain_tokens is {self.domain_tokens}, but must not exceed visual_tokens={self.visual_tokens}; lower "
                "domain_tokens or raise visual_tokens"
            )
        return self


class ProbeSettings(MethodSettings):
    """Section `methods.probe`."""

    learning_rate: float = Field(0.1, gt=0)
    """Peak SGD learning rate (after warm-up); no weight decay is used."""
    templates: tuple[Template, ...] | None = Field(None, min_length=1)
    """Prompt templates with `{}` for the class name; their mean feature initialises each class vector. By default, the
    dataset's template."""
    constraint: bool = False
    """Penalise each class vector's distance from its initial value in proportion to the class's zero-shot probability
    (CLAP)."""

    @property
    def optimisation(self) -> Optimisation:
        """SGD without weight decay, so the vectors of classes without images stay unchanged."""
        return Optimisation("sgd", weight_decay=0.0)


class TipSettings(MethodSettings):
    """Section `methods.tip`."""

    learning_rate: float = Field(0.001, gt=0)
    """Initial AdamW learning rate."""
    finetune: bool = True
    """Fine-tune the cache keys (Tip-Adapter-F); false selects the training-free Tip-Adapter."""
    alpha: float = Field(1.17, ge=0)
    """Weight of the cache scores relative to the zero-shot scores (α in the paper)."""
    beta: float = Field(1.0, ge=0)
    """Sharpness of the cache affinity (β in the paper)."""
    cache_size: int = Field(16, ge=1, le=1024)
    """Number of cache keys per class. If a class has more images than keys, several images share a key, which is the
    mean of their features."""
    views: int = Field(10, ge=1)
    """Number of augmented views per training image; an image's cache key is the mean feature of its views."""
    templates: tuple[Template, ...] | None = Field(None, min_length=1)
    """Prompt templates with `{}` for the class name; their features are averaged (default: the dataset's template)."""

    @property
    def optimisation(self) -> Optimisation:
        """AdamW with a per-step cosine learning-rate schedule."""
        return Optimisation("adamw", weight_decay=0.01, eps=1e-4, by_step=True)

    @property
    def trains(self) -> bool:
        return self.finetune


class ClassMeansSettings(MethodSettings):
    """Section `methods.classmeans`."""

    text_weight: float = Field(0.5, ge=0, le=1)
    """Weight w of a class's text feature in its class vector; the mean image feature has weight 1 - w."""
    views: int = Field(10, ge=1)
    """Number of augmented views per training image."""
    templates: tuple[Template, ...] | None = Field(None, min_length=1)
    """Prompt templates with `{}` for the class name; their features are averaged (default: the dataset's template)."""

    @property
    def trains(self) -> bool:
        return False


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
    """Rank of additional domain-specific updates in the vision tower, trained with the SYNC-CLIP losses. With rank 0,
    there are no domain-specific updates, and training uses a single cross-entropy loss, as published."""
    synthetic_weight: float = Field(0.4, ge=0)
    """Weight of the cross-entropy losses on synthetic images, as in `methods.syncclip`; used only if `domain_rank` >
    0."""
    alignment_weight: float = Field(0.1, ge=0)
    """Weight of the alignment loss, as in `methods.syncclip`; used only if `domain_rank` > 0."""
    negatives: Negatives = "hardest"
    """Negatives in the alignment loss, as in `methods.syncclip`; used only if `domain_rank` > 0."""

    @model_validator(mode="after")
    def _check_domain_rank(self) -> ClipLoraSettings:
        if self.domain_rank and self.towers == "text":
            raise ValueError(
                f"domain_rank is {self.domain_rank}, which requires the vision tower, but towers is 'text'; set "
                "towers=both or domain_rank=0"
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
    """Fraction of steps that train the layer norms; the remaining steps train the class vectors."""
    towers: Towers = "both"
    """Towers whose layer norms are trained."""
    first_visual_block: int = Field(1, ge=1)
    """First block with trained layer norms in the vision tower (1-based)."""
    first_text_block: int = Field(1, ge=1)
    """First block with trained layer norms in the text tower (1-based)."""

    @property
    def optimisation(self) -> Optimisation:
        return Optimisation("adamw", weight_decay=0.01, by_step=True, last_rate=1e-6, first_stage=self.first_stage)


class MmaSettings(MethodSettings):
    """Section `methods.mma`."""

    learning_rate: float = Field(0.0015, gt=0)
    """Peak SGD learning rate (after warm-up)."""
    width: int = Field(32, ge=1, le=16384)
    """Width of the adapters' inner layers."""
    scale: float = Field(0.001, gt=0)
    """Scale factor applied to an adapter's output before adding it to the block's output."""
    first_block: int | None = Field(None, ge=1)
    """First block with an adapter (1-based); by default, 5, or 1 if a tower has fewer than five blocks."""
    last_block: int | None = Field(None, ge=1)
    """Last block with an adapter (1-based); by default, the last block of the shallower tower."""
    template: Template | None = "a photo of a {}."
    """Prompt template with `{}` for the class name, or null for the dataset's template."""


class MmrlSettings(MethodSettings):
    """Section `methods.mmrl`."""

    learning_rate: float = Field(0.001, gt=0)
    """Peak AdamW learning rate (after warm-up)."""
    layers: tuple[int, ...] | None = Field(None, min_length=1)
    """Blocks (1-based) into which the tokens are inserted; by default, blocks 6 to L, where L is the last block of the
    shallower tower (only block L if L < 6)."""
    tokens: int = Field(5, ge=1, le=1024)
    """Number of learned tokens, shared by all layers and both towers (K in the paper)."""
    dim: int = Field(512, ge=1, le=16384)
    """Dimension of the shared token space, which each layer projects to its tower's width."""
    class_weight: float = Field(0.7, ge=0, le=1)
    """Weight w of the class token in the loss and in the scores of base classes (α in the paper); the learned tokens
    have weight 1 - w."""
    regularisation_weight: float = Field(0.5, ge=0)
    """Weight of the losses that keep class-token and text features close to frozen features (λ in the paper). Published
    values range from 0.01 to 7, depending on the dataset (0.5 for ImageNet)."""
    domain_tokens: int = Field(0, ge=0, le=1024)
    """Number of `tokens` that are domain-specific in the vision tower and trained with the SYNC-CLIP losses; 0 trains
    MMRL as published."""
    synthetic_weight: float = Field(0.4, ge=0)
    """Weight of the cross-entropy losses on synthetic images, as in `methods.syncclip`; used only if `domain_tokens` >
    0."""
    alignment_weight: float = Field(0.1, ge=0)
    """Weight of the alignment loss, as in `methods.syncclip`; used only if `domain_tokens` > 0."""
    negatives: Negatives = "hardest"
    """Negatives in the alignment loss, as in `methods.syncclip`; used only if `domain_tokens` > 0."""

    @model_validator(mode="after")
    def _check_domain_tokens(self) -> MmrlSettings:
        if self.domain_tokens > self.tokens:
            raise ValueError(
                f"domain_tokens is {self.domain_tokens}, but must not exceed tokens={self.tokens}; lower domain_tokens "
                "or raise tokens"
            )
        return self

    @field_validator("layers")
    @classmethod
    def _check_layers(cls, layers: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if layers is not None and (layers[0] < 1 or list(layers) != sorted({*layers})):
            raise ValueError(f"{list(layers)} must be distinct block numbers (1 or higher) in ascending order")
        return layers

    @property
    def optimisation(self) -> Optimisation:
        """AdamW with a weight decay of 5e-4, as published."""
        return Optimisation("adamw", weight_decay=5e-4)


class PromptKdSettings(MethodSettings):
    """Section `methods.promptkd`."""

    data = ("synthetic", "both")
    learning_rate: float = Field(0.005, gt=0)
    """Peak SGD learning rate (after warm-up)."""
    visual_tokens: int = Field(4, ge=1, le=1024)
    """Number of learned tokens in each prompted block of the vision tower."""
    visual_depth: int | None = Field(None, ge=1)
    """Number of prompted blocks in the vision tower; by default, 9, or all blocks if the tower has fewer."""
    temperature: float = Field(1.0, gt=0)
    """Distillation temperature for teacher and student."""
    distillation_weight: float = Field(1000.0, gt=0)
    """Weight of the KL divergence from the teacher. For datasets with few or fine-grained classes, the paper uses
    200."""
    teacher_dim: int | None = Field(None, ge=1)
    """Dimension of the teacher's class vectors, by default as stored in `training.teacher`."""

    @property
    def uses_teacher(self) -> bool:
        return True


class MethodsSettings(Settings):
    """The `methods` section of a recipe: settings for all methods, since a study can compare and tune several."""

    zeroshot: ZeroShotSettings = ZeroShotSettings()
    """Frozen CLIP with hand-written prompts."""
    coop: CoOpSettings = CoOpSettings()
    """Learned context around the class name (arXiv 2109.01134)."""
    cocoop: CoCoOpSettings = CoCoOpSettings()
    """CoOp with an image-conditional context (arXiv 2203.05557)."""
    kgcoop: KgCoOpSettings = KgCoOpSettings()
    """CoOp regularised towards hand-written prompts (arXiv 2303.13283)."""
    vpt: VptSettings = VptSettings()
    """Learned tokens in the vision tower (arXiv 2203.12119)."""
    ivlp: IvlpSettings = IvlpSettings()
    """Independent learned tokens in both towers (arXiv 2210.03117)."""
    maple: MapleSettings = MapleSettings()
    """Visual tokens projected from text tokens (arXiv 2210.03117)."""
    promptsrc: PromptSrcSettings = PromptSrcSettings()
    """IVLP regularised towards the frozen CLIP model, with prompts averaged over epochs (arXiv 2307.06948)."""
    syncclip: SyncClipSettings = SyncClipSettings()
    """IVLP with domain-specific visual tokens and aligned features (arXiv 2312.03805)."""
    probe: ProbeSettings = ProbeSettings()
    """Linear probe: a learned vector for each class (arXiv 2312.12730)."""
    tip: TipSettings = TipSettings()
    """Zero-shot CLIP with a cache of image features, optionally fine-tuned (arXiv 2207.09519)."""
    classmeans: ClassMeansSettings = added(ClassMeansSettings())
    """Training-free combination of each class's mean image feature and its prompt feature."""
    cliplora: ClipLoraSettings = ClipLoraSettings()
    """Low-rank updates (LoRA) of the attention matrices in both towers (arXiv 2405.18541)."""
    twostage: TwoStageSettings = TwoStageSettings()
    """Two-stage training: layer norms first, then a vector for each training class (2SFS, arXiv 2503.11609)."""
    mma: MmaSettings = MmaSettings()
    """Parallel adapters in the later blocks of both towers, with a shared inner layer (MMA, CVPR 2024)."""
    mmrl: MmrlSettings = MmrlSettings()
    """Tokens from a space shared by both towers, inserted into later blocks (arXiv 2503.08497)."""
    tcp: TcpSettings = TcpSettings()
    """CoOp with class-specific vectors inside the text tower (arXiv 2311.18231)."""
    promptkd: PromptKdSettings = PromptKdSettings()
    """Visual tokens and a projector distilled from a teacher (arXiv 2403.02781)."""
    custom: dict[str, Any] = Field(default={})
    """Settings for a custom method, selected by `training.method: package.module:Class`."""

    def of(self, name: str) -> MethodSettings:
        """Return a method's settings, given its name.

        Raises:
            UserError: the method does not exist, or its settings in `custom` are invalid.
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
    """Import a custom method, "package.module:Class", from an installed package or the working directory.

    Raises:
        UserError: the method is unknown or not trusted (see `core.trust`), or its import fails.
    """
    if ":" not in name:
        names = [field for field in MethodsSettings.model_fields if field != "custom"]
        raise UserError(f"unknown method {name!r}; {did_you_mean(name, names)}")
    try:
        method = getattr(module_of(name), name.partition(":")[2])
    except UserError:
        raise
    except SyntaxError as error:
        raise UserError(f"{error.filename}, line {error.lineno}: {error.msg}") from error
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        if (in_module := custom_code_error(error)) is not None:
            raise in_module from error
        raise UserError(
            f"no method {name!r} ({error}); use package.module:Class with a module that can be imported from "
            f"{Path.cwd()}"
        ) from error
    settings = getattr(method, "Settings", None)
    if not (isinstance(method, type) and isinstance(settings, type) and issubclass(settings, MethodSettings)):
        raise UserError(f"{name} is not a method; derive the class from syncclip.methods.Method")
    return method
