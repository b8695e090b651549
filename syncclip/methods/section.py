"""Section `methods` of a recipe: the settings of every method, and of one outside the package."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol, cast

from pydantic import Field, ValidationError

from syncclip.core.settings import Settings, UserError, explain
from syncclip.core.text import did_you_mean
from syncclip.core.trust import module_of
from syncclip.methods.settings import (
    CoCoOpSettings,
    CoOpSettings,
    IvlpSettings,
    KgCoOpSettings,
    MapleSettings,
    MethodSettings,
    PromptSrcSettings,
    SyncClipSettings,
    TcpSettings,
    VptSettings,
    ZeroShotSettings,
)
from syncclip.methods.weight_settings import (
    ClipLoraSettings,
    MmaSettings,
    MmrlSettings,
    ProbeSettings,
    PromptKdSettings,
    TipSettings,
    TwoStageSettings,
)


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
    probe: ProbeSettings = ProbeSettings()
    """A learned vector for each class (arXiv 2312.12730)."""
    tip: TipSettings = TipSettings()
    """Zero-shot CLIP beside a cache of image features, trained or not (arXiv 2207.09519)."""
    cliplora: ClipLoraSettings = ClipLoraSettings()
    """Low-rank updates of the attention in both towers (arXiv 2405.18541)."""
    twostage: TwoStageSettings = TwoStageSettings()
    """Norms first, then a vector for each class that was seen (2SFS, arXiv 2503.11609)."""
    mma: MmaSettings = MmaSettings()
    """Adapters beside the higher blocks of both towers, with a shared inner layer (MMA, CVPR 2024)."""
    mmrl: MmrlSettings = MmrlSettings()
    """Tokens of a space that both towers share, in their later blocks (arXiv 2503.08497)."""
    tcp: TcpSettings = TcpSettings()
    """CoOp whose words become each class's own inside the text tower (arXiv 2311.18231)."""
    promptkd: PromptKdSettings = PromptKdSettings()
    """Visual tokens and a projector that learn a teacher's probabilities (arXiv 2403.02781)."""
    custom: dict[str, Any] = Field(default={})
    """Of a method outside the package, named by `training.method: package.module:Class`."""

    def of(self, name: str) -> MethodSettings:
        """The settings of a method by name.

        Raises:
            UserError: there is no such method, or `own` is invalid for it.
        """
        if name != "custom" and name in type(self).model_fields:
            settings: MethodSettings = getattr(self, name)
            return settings
        method = own_method(name)
        try:
            return method.Settings.model_validate(self.custom)
        except ValidationError as error:
            key, reason = explain(error, method.Settings)
            raise UserError(
                f"{'.'.join(filter(None, ('methods.custom', key)))}: {reason} ({method.__name__})"
            ) from error


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
        known = [known for known in MethodsSettings.model_fields if known != "custom"]
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
