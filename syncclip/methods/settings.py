"""Section `methods` of a recipe: what is particular to each method.

It stands apart from the methods, so that a recipe is read without torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Protocol, cast

from pydantic import Field, StringConstraints, ValidationError, model_validator

from syncclip.core.settings import Position, Settings, Template, UserError, explain
from syncclip.core.text import did_you_mean
from syncclip.core.trust import module_of

DataUse = Literal["real", "synthetic", "both"]
Negatives = Literal["hardest", "all"]
Phrase = Annotated[str, StringConstraints(strip_whitespace=True)]


class Optimisation(NamedTuple):
    """How a method learns by its paper, where that is not the recipe's SGD with a cosine over the epochs."""

    optimizer: Literal["adam", "adamw"] = "adamw"
    """Adam with the decay in the gradient, or apart from it (arXiv 1711.05101)."""
    weight_decay: float = 0.01
    eps: float = 1e-8
    by_step: bool = False
    """The rate follows a cosine from step to step, from the first on, and not from epoch to epoch behind a warm-up."""
    last_rate: float = 0.0
    """What that cosine would reach one step after the last."""


class MethodSettings(Settings):
    """Settings of a method, which extends them in a class of its own, its attribute `Settings`.

    Attributes:
        data: what the method can learn from; empty if it learns nothing.
        optimisation: how it learns; None: by the recipe's SGD.
    """

    data: ClassVar[tuple[DataUse, ...]] = ("real", "synthetic", "both")
    optimisation: ClassVar[Optimisation | None] = None
    learning_rate: float = Field(0.0025, gt=0)
    """Of SGD, at its peak after the warm-up."""


class ContextSettings(MethodSettings):
    """Settings of a learned context, which starts as the words of a phrase, one vector a word, or at random."""

    learning_rate: float = Field(0.002, gt=0)
    """Of SGD, at its peak after the warm-up."""
    phrase: Phrase = ""
    """Words that the vectors start as; empty: random."""
    text_tokens: int | None = Field(None, ge=1)
    """Learned vectors; None: one for each word of the phrase; without a phrase 16, or as many as a short context has
    room for."""

    @model_validator(mode="after")
    def _one_vector_a_word(self) -> ContextSettings:
        words = len(self.phrase.split())
        if words and self.text_tokens not in (None, words):
            raise ValueError(
                f"text_tokens is {self.text_tokens}, but the phrase '{self.phrase}' has {words} word(s), each of which "
                f"starts one vector; set text_tokens=null, or a phrase of {self.text_tokens} words, or an empty one"
            )
        return self


class ZeroShotSettings(MethodSettings):
    """Section `methods.zeroshot`."""

    data = ()
    templates: tuple[Template, ...] | None = Field(None, min_length=1)
    """Sentences whose features are averaged, with `{}` for the class name; None: the dataset's own one."""


class CoOpSettings(ContextSettings):
    """Section `methods.coop`."""

    position: Position = "end"
    """Where the class name stands among the learned words."""
    class_specific: bool = False
    """Each class has vectors of its own."""


class CoCoOpSettings(ContextSettings):
    """Section `methods.cocoop`."""

    phrase: Phrase = "a photo of a"
    """Its words are what the learned vectors start as."""
    prompts_at_once: int | None = Field(256, ge=1)
    """Sentences in the text tower at a time; None: all. Larger numbers are encoded in turn, and recomputed for the
    gradient, so that memory depends neither on the batch nor on the number of classes."""


class KgCoOpSettings(CoOpSettings):
    """Section `methods.kgcoop`."""

    phrase: Phrase = "a photo of a"
    """Its words are what the learned vectors start as."""
    knowledge_weight: float = Field(8.0, ge=0)
    """lambda of the paper: how strongly the texts are kept near the hand-written sentences."""
    template: Template | None = None
    """The hand-written sentences, with `{}` for the class name; None: the dataset's own."""


class VptSettings(MethodSettings):
    """Section `methods.vpt`."""

    visual_tokens: int = Field(8, ge=1)
    """Learned vectors among the image tokens of each prompted block."""
    visual_depth: int | None = Field(None, ge=1)
    """Prompted blocks; 1: shallow; None: all."""
    template: Template | None = "a photo of a {}."
    """The frozen texts, with `{}` for the class name; None: the dataset's own."""


class IvlpSettings(MethodSettings):
    """Section `methods.ivlp`."""

    visual_tokens: int = Field(4, ge=1)
    """Learned vectors among the image tokens of each prompted block."""
    text_tokens: int = Field(4, ge=1)
    """Learned vectors among the text tokens of each prompted block."""
    visual_depth: int | None = Field(None, ge=1)
    """Prompted blocks; None: 9, or all of a tower that has fewer."""
    text_depth: int | None = Field(None, ge=1)
    """Prompted blocks of the text tower; None: 9, or all of a tower that has fewer."""
    phrase: str = "a photo of a"
    """The text prompt starts as its first words, if it has at most four tokens."""


class MapleSettings(MethodSettings):
    """Section `methods.maple`."""

    learning_rate: float = Field(0.0035, gt=0)
    """Of SGD, at its peak after the warm-up."""
    text_tokens: int = Field(2, ge=1)
    """Learned vectors in each prompted block, of either tower."""
    depth: int | None = Field(None, ge=1)
    """Prompted blocks of each tower; None: 9, or all of one that has fewer."""
    phrase: str = "a photo of a"
    """The text prompt starts as its first words, if it has at most four tokens."""


class PromptSrcSettings(IvlpSettings):
    """Section `methods.promptsrc`."""

    text_weight: float = Field(25.0, ge=0)
    """w_t of the paper: how strongly text features are kept near the frozen ones."""
    image_weight: float = Field(10.0, ge=0)
    """w_v of the paper: how strongly image features are kept near the frozen ones."""
    logits_weight: float = Field(1.0, ge=0)
    """w_l of the paper: how strongly logits are kept near the frozen ones."""
    templates: tuple[Template, ...] | None = Field(None, min_length=1)
    """Of the frozen texts; None: the published ones that are not too long for this CLIP."""
    aggregation_mean: float = 15.0
    """Epoch with the largest weight in the final prompts; the first epoch is 1."""
    aggregation_std: float = Field(1.0, gt=0)
    """Spread of those weights, in epochs."""


class SyncClipSettings(IvlpSettings):
    """Section `methods.syncclip`."""

    domain_tokens: int = Field(2, ge=0)
    """k of the paper: how many of the visual tokens each domain has of its own; 0: none."""
    synthetic_weight: float = Field(0.4, ge=0)
    """Of both cross entropies on synthetic images (L_SCE); 0 leaves them out."""
    alignment_weight: float = Field(0.1, ge=0)
    """Of the loss that aligns the features of both domains (L_FS); 0 leaves it out."""
    negatives: Negatives = "hardest"
    """Real features of other classes that a synthetic one is pushed away from."""

    @model_validator(mode="after")
    def _domain_within_visual(self) -> SyncClipSettings:
        if self.domain_tokens > self.visual_tokens:
            raise ValueError(
                f"domain_tokens is {self.domain_tokens}, but they are part of the visual_tokens, of which there "
                f"are only {self.visual_tokens}; lower domain_tokens or raise visual_tokens"
            )
        return self


class MethodsSettings(Settings):
    """Section `methods` of a recipe: the settings of every method, so that a study has those chosen for each."""

    zeroshot: ZeroShotSettings = ZeroShotSettings()
    """The frozen CLIP with hand-written sentences."""
    coop: CoOpSettings = CoOpSettings()
    """Learned words around the class name (arXiv 2109.01134)."""
    cocoop: CoCoOpSettings = CoCoOpSettings()
    """CoOp whose words each image shifts (arXiv 2203.05557)."""
    kgcoop: KgCoOpSettings = KgCoOpSettings()
    """CoOp kept near the hand-written sentences (arXiv 2303.13283)."""
    vpt: VptSettings = VptSettings()
    """Learned tokens among the patches (arXiv 2203.12119)."""
    ivlp: IvlpSettings = IvlpSettings()
    """Learned tokens in both towers, independent of each other (arXiv 2210.03117)."""
    maple: MapleSettings = MapleSettings()
    """Visual tokens that are projections of text tokens (arXiv 2210.03117)."""
    promptsrc: PromptSrcSettings = PromptSrcSettings()
    """IVLP kept near the frozen CLIP and averaged over epochs (arXiv 2307.06948)."""
    syncclip: SyncClipSettings = SyncClipSettings()
    """IVLP with visual tokens of each domain, whose features are aligned (arXiv 2312.03805)."""
    own: dict[str, Any] = Field(default={})
    """Of a method outside the package, named by `training.method: package.module:Class`."""

    def of(self, name: str) -> MethodSettings:
        """The settings of a method by name.

        Raises:
            UserError: there is no such method, or `own` is invalid for it.
        """
        if name != "own" and name in type(self).model_fields:
            settings: MethodSettings = getattr(self, name)
            return settings
        method = own_method(name)
        try:
            return method.Settings.model_validate(self.own)
        except ValidationError as error:
            key, reason = explain(error, method.Settings)
            raise UserError(f"{'.'.join(filter(None, ('methods.own', key)))}: {reason} ({method.__name__})") from error


class OwnMethod(Protocol):
    """What is known of a method's class before torch is imported."""

    __name__: str
    Settings: type[MethodSettings]


def own_method(name: str) -> OwnMethod:
    """The class of a method outside the package, "package.module:Class"; modules are also found in the working folder.

    Raises:
        UserError: the name is unknown or not trusted (see `core.trust`), or there is no such module or class, or it is
            no method.
    """
    if ":" not in name:
        known = [known for known in MethodsSettings.model_fields if known != "own"]
        raise UserError(f"there is no method {name!r}; {did_you_mean(name, known)}")
    try:
        found = getattr(module_of(name), name.partition(":")[2])
    except UserError:
        raise
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise UserError(
            f"no method {name!r} ({error}); give package.module:Class as it is imported from {Path.cwd()}"
        ) from error
    settings = getattr(found, "Settings", None)
    if not (isinstance(found, type) and isinstance(settings, type) and issubclass(settings, MethodSettings)):
        raise UserError(f"{name} is not a method; derive it from syncclip.methods.Method")
    return cast(OwnMethod, found)
