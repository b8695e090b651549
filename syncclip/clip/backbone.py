"""Loading a frozen CLIP: the embedded one, a folder, or any model of open_clip."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from PIL import Image

from syncclip.core.manifest import require_whole_folder
from syncclip.core.settings import Settings, UserError
from syncclip.core.text import nearest
from syncclip.embedded import CLIP

if TYPE_CHECKING:  # a set's plan names its backbone, and whoever reads it goes without torch
    from torch import Tensor, nn

Precision = Literal["fp32", "bf16", "fp16"]

EMBEDDED = "icons"
SCHEMAS = ("local-dir:", "hf-hub:")
CONFIG = "open_clip_config.json"


class BackboneSettings(Settings):
    """Section `backbone` of a recipe.

    `name` is "icons" (embedded), a folder in open_clip's own layout, "hf-hub:owner/name", or an open_clip model such as
    "ViT-B-16"; only the last needs `pretrained`, a tag of open_clip or the path of a weights file.
    """

    name: str = EMBEDDED
    """open_clip's name, such as `ViT-B-16`, `local-dir:FOLDER` or `hf-hub:REPOSITORY`; `icons` is the embedded CLIP."""
    pretrained: str | None = None
    """open_clip's tag of the weights, such as `openai`, or a file; None for models that bring theirs."""
    precision: Precision = "fp32"
    """Of the towers; prompts and losses stay in fp32. fp16: on GPUs, only for evaluation."""
    checkpoint_activations: bool = False
    """Recompute each block for the gradient: less memory, more time."""

    def placed(self) -> BackboneSettings:
        """The same CLIP with absolute paths of local files, for processes with another working folder."""
        folder, weights = Path(self.name.removeprefix("local-dir:")), Path(self.pretrained or "")
        return self.model_copy(
            update={  # links are kept: the hub's cache links to files without an extension
                "name": str(folder.absolute()) if self.name != EMBEDDED and folder.is_dir() else self.name,
                "pretrained": str(weights.absolute()) if weights.is_file() else self.pretrained,
            }
        )


@dataclass(frozen=True)
class Backbone:
    """A frozen CLIP with its tokenizer and preprocessing.

    Attributes:
        model: open_clip's model, in evaluation mode; no parameter requires a gradient.
        tokenizer: texts -> (n, context) token ids; takes `context_length`.
        preprocess: PIL image -> (3, image_size, image_size), for evaluation.
        mean, std: of the three channels, on a scale from 0 to 1.
        config: open_clip's `model_cfg`, from which it builds the towers.
    """

    name: str
    model: nn.Module
    tokenizer: Callable[..., Tensor]
    preprocess: Callable[[Image.Image], Tensor]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    image_size: int
    precision: Precision = "fp32"
    checkpoint_activations: bool = False
    config: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def logit_scale(self) -> float:
        """Factor of the cosines before the softmax."""
        scale: Any = self.model.logit_scale
        return float(scale.exp())

    @property
    def preprocess_settings(self) -> dict[str, Any]:
        """What `preprocess` does, as open_clip writes it: size, mean, std, interpolation, resize_mode."""
        visual: Any = self.model.visual
        settings: dict[str, Any] = json.loads(json.dumps(visual.preprocess_cfg))  # as a file has them: lists, no tuples
        return settings

    @cached_property
    def sha256(self) -> str:
        """Of all parameters and buffers, their names, types, shapes and bytes, and of the kinds of activation, which
        weights don't tell. It takes seconds for a large CLIP."""
        import torch  # late, as above

        kinds = {type(module).__name__ for module in self.model.modules()}
        digest = hashlib.sha256(" ".join(sorted(kind for kind in kinds if "gelu" in kind.lower())).encode())
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        return digest.hexdigest()


def load_backbone(settings: BackboneSettings) -> Backbone:
    """Load a CLIP on the CPU.

    Raises:
        UserError: the name or tag is unknown, or the weights are neither here nor available; or it is a folder of
            `syncclip export` that is damaged or unfinished.
    """
    import open_clip  # late: it takes seconds, which reading settings should not
    from transformers import dynamic_module_utils

    dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0  # refuse a model's own code instead of asking at the terminal
    name = _source(settings)
    try:
        model, _, preprocess = open_clip.create_model_and_transforms(
            name, pretrained=settings.pretrained, require_pretrained=True, force_quick_gelu=_quick_gelu(settings)
        )
        architecture = _config(name)
        tokenizer = open_clip.get_tokenizer(name)
    except UserError:
        raise
    except Exception as error:  # whatever the reason, the remedy is the same
        reason = str(error).strip().partition("\n")[0][:200]
        weights = f" with the weights '{settings.pretrained}'" if settings.pretrained else ""
        raise UserError(
            f"backbone.name: '{settings.name}'{weights} could not be loaded ({reason}); check the name and "
            f"the network, or use the embedded '{EMBEDDED}'"
        ) from error
    config: dict[str, Any] = model.visual.preprocess_cfg
    size = config["size"] if isinstance(config["size"], int) else config["size"][0]
    return Backbone(
        name=settings.name,
        model=model.eval().requires_grad_(False),
        tokenizer=tokenizer,
        preprocess=preprocess,
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        image_size=size,
        precision=settings.precision,
        checkpoint_activations=settings.checkpoint_activations,
        config=architecture,
    )


def _config(name: str) -> dict[str, Any]:
    """open_clip's `model_cfg` of a model, whose files are here by now.

    Raises:
        UserError: the model would have code of its own run for its tokenizer.
    """
    import open_clip
    from huggingface_hub import hf_hub_download

    scheme, _, place = name.partition(":")
    if scheme == "local-dir":
        file = Path(place) / CONFIG
    elif scheme == "hf-hub":
        file = Path(hf_hub_download(place, CONFIG, local_files_only=True))
    else:
        own: dict[str, Any] = open_clip.get_model_config(name.replace("/", "-"))
        return own
    whole: dict[str, Any] = json.loads(file.read_bytes())
    config: dict[str, Any] = whole.get("model_cfg", whole)
    if config.get("text_cfg", {}).get("tokenizer_kwargs", {}).get("trust_remote_code"):
        raise UserError(f"backbone.name: {file} asks for code of its own to be run, which no model may; choose another")
    return config


def _source(settings: BackboneSettings) -> str:
    """The model's name for open_clip; an unknown one is refused before anything is downloaded."""
    import open_clip

    name = settings.name
    if name == EMBEDDED:
        return _local(CLIP, "run `make icons` to build it, or install the package again")
    if name.startswith("local-dir:") or Path(name).is_dir():
        folder = Path(name.removeprefix("local-dir:"))
        require_whole_folder(folder)
        return _local(folder, "give a folder with open_clip_config.json and weights")
    if name.startswith(SCHEMAS):
        return name
    known = open_clip.list_models()
    if name.replace("/", "-") not in known:
        near = nearest(name, [EMBEDDED, *known]) or EMBEDDED
        raise UserError(
            f"backbone.name: no CLIP is called '{name}'; did you mean '{near}'? "
            f"Known are '{EMBEDDED}', a folder, 'hf-hub:owner/name' and open_clip's models"
        )
    tags = open_clip.list_pretrained_tags_by_model(name.replace("/", "-"))
    if settings.pretrained not in tags and not Path(settings.pretrained or "").is_file():
        wrong = (
            f"'{settings.pretrained}' is neither a tag of {name} nor a file" if settings.pretrained else "is not set"
        )
        choice = f"choose one of {', '.join(tags)}" if tags else "give a file, as none are published"
        raise UserError(f"backbone.pretrained: {wrong}; {choice}")
    return name


def _quick_gelu(settings: BackboneSettings) -> bool:
    """Whether the weights were trained with QuickGELU, as OpenAI's were; open_clip only warns about a model's GELU."""
    import open_clip

    published = open_clip.get_pretrained_cfg(settings.name.replace("/", "-"), settings.pretrained or "")
    return bool(published.get("quick_gelu", False))


def _local(path: Path, remedy: str) -> str:
    if not (path / CONFIG).is_file():
        raise UserError(f"backbone.name: there is no CLIP in {path}; {remedy}")
    return f"local-dir:{path}"
