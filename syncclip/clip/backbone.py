"""Load a frozen CLIP model: the bundled model, a model in a folder, or any open_clip model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from PIL import Image

from syncclip import storage
from syncclip.core.manifest import verify_folder
from syncclip.core.settings import Settings, UserError
from syncclip.core.text import nearest
from syncclip.embedded import CLIP
from syncclip.embedded.towers import TOWERS, load_tower
from syncclip.storage.local_copies import local_copy, remote_files
from syncclip.storage.urls import is_web

if TYPE_CHECKING:  # plans contain a backbone and are read without torch
    from torch import Tensor, nn

Precision = Literal["fp32", "bf16", "fp16"]

EMBEDDED = "icons"
SCHEMAS = ("local-dir:", "hf-hub:")
CONFIG = "open_clip_config.json"


class BackboneSettings(Settings):
    """Section `backbone` of a recipe: the frozen CLIP model and its precision."""

    name: str = EMBEDDED
    """CLIP model: an open_clip name such as `ViT-B-16`, a folder, `hf-hub:owner/name`, or `icons` (bundled model)."""
    pretrained: str | None = None
    """Weights of an open_clip model: a tag such as `openai`, a file or a URL such as `s3://bucket/model.safetensors`;
    None for folders and `hf-hub:…`. For `icons`, a text tower with less knowledge of the class names in the suite
    `symbols`, such as `names-3` (default: `names-all`)."""
    precision: Precision = "fp32"
    """Precision of both towers; prompts and losses stay in fp32. fp16 requires a GPU and is for evaluation only."""
    checkpoint_activations: bool = False
    """Recompute activations in the backward pass (gradient checkpointing), which saves memory at the cost of
    compute."""

    def placed(self) -> BackboneSettings:
        """Return the settings with absolute paths, for processes with a different working directory."""
        folder, weights = Path(self.name.removeprefix("local-dir:")), Path(self.pretrained or "")
        return self.model_copy(
            update={  # links are not resolved, since the Hub's cache links to files without an extension
                "name": str(folder.absolute()) if self.name != EMBEDDED and folder.is_dir() else self.name,
                "pretrained": str(weights.absolute()) if weights.is_file() else self.pretrained,
            }
        )


@dataclass(frozen=True)
class Backbone:
    """A frozen CLIP model with its tokenizer and preprocessing.

    Attributes:
        model: open_clip model in evaluation mode, with frozen parameters.
        tokenizer: function that converts texts to token ids (n, context) and accepts `context_length`.
        preprocess: evaluation transform that converts a PIL image to a (3, image_size, image_size) tensor.
        mean, std: per-channel mean and standard deviation for normalising pixel values in [0, 1].
        config: open_clip's `model_cfg`.
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
        """Scale of the cosine similarities before the softmax."""
        scale: Any = self.model.logit_scale
        return float(scale.exp())

    @property
    def preprocess_settings(self) -> dict[str, Any]:
        """Parameters of `preprocess` in open_clip's format: size, mean, std, interpolation, resize_mode."""
        visual: Any = self.model.visual
        settings: dict[str, Any] = json.loads(json.dumps(visual.preprocess_cfg))  # lists instead of tuples
        return settings

    @cached_property
    def sha256(self) -> str:
        """Checksum of all parameters, buffers and activation functions (takes seconds to compute for a large model)."""
        import torch

        classes = {type(module).__name__ for module in self.model.modules()}
        digest = hashlib.sha256(" ".join(sorted(name for name in classes if "gelu" in name.lower())).encode())
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        return digest.hexdigest()


def load_backbone(settings: BackboneSettings) -> Backbone:
    """Load a CLIP model on the CPU.

    Raises:
        UserError: the name or tag is unknown, the weights are not available, or the folder is corrupt.
    """
    if _is_remote(settings.pretrained):
        assert settings.pretrained is not None
        _source(settings)  # unknown names are an error before the download
        with local_copy(settings.pretrained, remote_files(settings.pretrained)) as file:
            return load_backbone(settings.model_copy(update={"pretrained": str(file)}))
    import open_clip  # slow to import
    from transformers import dynamic_module_utils

    dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0  # reject remote code without asking the user
    name, bundled = _source(settings), settings.name == EMBEDDED
    try:
        model, _, preprocess = open_clip.create_model_and_transforms(
            name,
            pretrained=None if bundled else settings.pretrained,
            require_pretrained=True,
            force_quick_gelu=_quick_gelu(settings),
        )
        if bundled and settings.pretrained:
            load_tower(model, settings.pretrained)
        architecture = _config(name)
        tokenizer = open_clip.get_tokenizer(name)
    except UserError:
        raise
    except Exception as error:  # raised by open_clip, transformers, huggingface_hub or torch
        reason = str(error).strip().partition("\n")[0][:200]
        weights = f" with the weights '{settings.pretrained}'" if settings.pretrained else ""
        raise UserError(
            f"backbone.name: '{settings.name}'{weights} could not be loaded ({reason}); check the name and "
            f"the network connection, or use the bundled model '{EMBEDDED}'"
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


def is_local(settings: BackboneSettings) -> bool:
    """Return whether a CLIP model's weights are on this machine, so that loading needs no download.

    Raises:
        UserError: the name or tag is unknown, or the folder is corrupt.
    """
    import open_clip
    from huggingface_hub import try_to_load_from_cache
    from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME

    name, tag = _source(settings), settings.pretrained or ""
    if name.startswith("local-dir:") or Path(tag).is_file():
        return True
    published = open_clip.get_pretrained_cfg(name.replace("/", "-"), tag).get("hf_hub", "")
    repository = name.removeprefix("hf-hub:") if name.startswith("hf-hub:") else published
    owner, _, rest = repository.rstrip("/").partition("/")
    model, _, file = rest.partition("/")
    names = (file,) if file else (HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME)
    return any(isinstance(try_to_load_from_cache(f"{owner}/{model}", each), str) for each in names if model)


def _config(name: str) -> dict[str, Any]:
    """Return the `model_cfg` of a model that open_clip has loaded.

    Raises:
        UserError: the tokenizer requires remote code.
    """
    import open_clip
    from huggingface_hub import hf_hub_download

    scheme, _, path = name.partition(":")
    if scheme == "local-dir":
        file = Path(path) / CONFIG
    elif scheme == "hf-hub":
        file = Path(hf_hub_download(path, CONFIG, local_files_only=True))
    else:
        builtin: dict[str, Any] = open_clip.get_model_config(name.replace("/", "-"))
        return builtin
    content: dict[str, Any] = json.loads(file.read_bytes())
    config: dict[str, Any] = content.get("model_cfg", content)
    if config.get("text_cfg", {}).get("tokenizer_kwargs", {}).get("trust_remote_code"):
        raise UserError(f"backbone.name: {file} requires remote code, which is not supported; choose a different model")
    return config


def _source(settings: BackboneSettings) -> str:
    """Return the model name to pass to open_clip; raise a `UserError` for an unknown name before any download."""
    import open_clip

    name = settings.name
    if name == EMBEDDED:
        if settings.pretrained not in (None, *TOWERS):
            raise UserError(
                f"backbone.pretrained: the bundled model has no text tower '{settings.pretrained}'; choose one of "
                f"{', '.join(TOWERS)}, or omit the setting"
            )
        return _local(CLIP, "run `make icons` to build the model, or reinstall syncclip")
    if name.startswith("local-dir:") or Path(name).is_dir():
        folder = Path(name.removeprefix("local-dir:"))
        verify_folder(folder)
        return _local(folder, "specify a folder that contains open_clip_config.json and weights")
    if name.startswith(SCHEMAS):
        return name
    models = open_clip.list_models()
    if name.replace("/", "-") not in models:
        near = nearest(name, [EMBEDDED, *models]) or EMBEDDED
        raise UserError(
            f"backbone.name: unknown CLIP model '{name}'; did you mean '{near}'? "
            f"Use '{EMBEDDED}', a folder, 'hf-hub:owner/name' or an open_clip model"
        )
    tags = open_clip.list_pretrained_tags_by_model(name.replace("/", "-"))
    tag = settings.pretrained or ""
    if tag not in tags and not Path(tag).is_file() and not _is_remote(tag):
        cause = f"'{tag}' is neither a tag of {name} nor a file" if tag else "no weights are specified"
        choice = f"choose one of {', '.join(tags)}" if tags else "specify a weights file (none are published)"
        raise UserError(f"backbone.pretrained: {cause}; {choice}")
    return name


def _is_remote(pretrained: str | None) -> bool:
    """Return whether the weights are a file in remote storage; web servers, which have no versions, are excluded."""
    return pretrained is not None and not storage.is_local(pretrained) and not is_web(pretrained)


def _quick_gelu(settings: BackboneSettings) -> bool:
    """Return whether the weights were trained with QuickGELU, like OpenAI's; open_clip only warns about a mismatch."""
    import open_clip

    published = open_clip.get_pretrained_cfg(settings.name.replace("/", "-"), settings.pretrained or "")
    return bool(published.get("quick_gelu", False))


def _local(path: Path, remedy: str) -> str:
    if not (path / CONFIG).is_file():
        raise UserError(f"backbone.name: {path} contains no CLIP model; {remedy}")
    return f"local-dir:{path}"
