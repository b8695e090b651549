"""Export runs with a frozen image tower as checkpoints for open_clip and transformers."""

from __future__ import annotations

import json
from collections import Counter
from copy import deepcopy
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from tokenizers import AddedToken
from torch import Tensor, nn

from syncclip.clip.backbone import CONFIG, Backbone, BackboneSettings, load_backbone
from syncclip.clip.prompt_text import with_article
from syncclip.clip.text_tower import text_tower
from syncclip.clip.tokens import PromptTokens
from syncclip.clip.vision_tower import PlainVision, vision_tower
from syncclip.core.settings import UserError
from syncclip.core.text import readable_name
from syncclip.methods import Method

OPEN_CLIP, TRANSFORMERS, ZERO_SHOT = "open_clip_model.safetensors", "model.safetensors", "zero_shot.json"

TOLERANCE = 1e-4
"""Maximum absolute difference between the logits of the exported model and those of the run."""

_ARCHITECTURE = "the CLIP model's architecture differs from that of transformers' CLIP"

_NAMES = {
    "visual.transformer.resblocks": "vision_model.encoder.layers",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.conv1": "vision_model.embeddings.patch_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.ln_pre": "vision_model.pre_layrnorm",
    "visual.ln_post": "vision_model.post_layernorm",
    "visual.proj": "visual_projection.weight",
    "transformer.resblocks": "text_model.encoder.layers",
    "token_embedding": "text_model.embeddings.token_embedding",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final": "text_model.final_layer_norm",
    "text_projection": "text_projection.weight",
    "ln_": "layer_norm",
    ".attn.": ".self_attn.",
    "c_fc": "fc1",
    "c_proj": "fc2",
}
"""Substring of an open_clip weight name -> its counterpart in transformers' `CLIPModel`, replaced in this order."""


def write_open_clip(method: Method, folder: Path) -> None:
    """Write the frozen CLIP model for `open_clip.create_model_and_transforms("local-dir:FOLDER")`.

    Raises:
        UserError: the run's image tower is not frozen, or open_clip would load a different model.
    """
    _require_frozen_image_tower(method, "open_clip")
    backbone = method.clip.backbone
    tokenizer: Any = backbone.tokenizer
    config = {**deepcopy(backbone.config), "quick_gelu": _quick_gelu(backbone.model)}
    if hasattr(tokenizer, "save_pretrained"):
        tokenizer.save_pretrained(folder)
        config["text_cfg"]["hf_tokenizer_name"] = "."
    document = {"model_cfg": config, "preprocess_cfg": backbone.preprocess_settings}
    (folder / CONFIG).write_text(json.dumps(document, indent=1))
    _save(backbone.model.state_dict(), folder / OPEN_CLIP)
    loaded = load_backbone(BackboneSettings(name=str(folder)))
    if (loaded.sha256, loaded.preprocess_settings) != (backbone.sha256, backbone.preprocess_settings):
        raise UserError(
            f"--to open_clip: the model that open_clip loads from the export differs from {backbone.name!r}; use --to "
            "onnx"
        )


def write_transformers(method: Method, possible: list[int], folder: Path) -> None:
    """Write the frozen CLIP model for `transformers.pipeline("zero-shot-image-classification", FOLDER)`.

    Learned vectors become tokens. `zero_shot.json` contains the pipeline's other arguments: class names and template.

    Args:
        possible: ids of the candidate classes.

    Raises:
        UserError: the run cannot be converted to a transformers CLIP model.
    """
    from transformers import CLIPModel

    _require_frozen_image_tower(method, "transformers")
    backbone = method.clip.backbone
    if text_tower(backbone.model) is None or not isinstance(vision_tower(backbone.model), PlainVision):
        raise UserError(f"--to transformers: {_ARCHITECTURE}; use --to open_clip")
    processor, (texts, words) = _image_processor(backbone), _sentences(method)
    tokenizer = _tokenizer(backbone, folder)
    vocabulary_size = len(tokenizer)
    learned = words.flatten(0, -2)
    tokenizer.add_tokens([AddedToken(f"<learned-{i}>", normalized=False) for i in range(len(learned))])
    tokenizer.save_pretrained(folder)
    new_ids = torch.arange(vocabulary_size, len(tokenizer)).view(words.shape[:-1]).expand(texts.slots.shape)
    ids = texts.ids.scatter(1, texts.slots, new_ids)
    rows = [row[: end + 1] for row, end in zip(ids.tolist(), texts.read.tolist(), strict=True)]
    labels, template = _labels(tokenizer, rows, method.classnames)
    arguments = {"candidate_labels": [labels[label] for label in possible], "hypothesis_template": template}
    (folder / ZERO_SHOT).write_text(json.dumps(arguments, indent=1, ensure_ascii=False), encoding="utf-8")

    weights = _renamed(backbone.model)
    embeddings = "text_model.embeddings.token_embedding.weight"
    weights[embeddings] = torch.cat([weights[embeddings][:vocabulary_size], learned])
    config = _config(backbone.model, tokenizer)
    try:
        model = CLIPModel(config).eval()
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(f"--to transformers: {_ARCHITECTURE}; use --to open_clip") from error
    images = _images(backbone)
    inputs = tokenizer([template.format(label) for label in labels], padding=True, return_tensors="pt")
    difference = (model(pixel_values=images, **inputs).logits_per_image - method.logits(images)).abs().max()
    if difference > TOLERANCE:
        raise UserError(
            f"--to transformers: the exported logits differ from the run's by {difference:.1g}, because the CLIP model "
            "has a different architecture or tokenizer; use --to open_clip"
        )
    _save(model.state_dict(), folder / TRANSFORMERS)
    config.save_pretrained(folder)
    processor.save_pretrained(folder)


def _require_frozen_image_tower(method: Method, to: str) -> None:
    """Raise a `UserError` unless logits are scaled cosine similarities of class vectors and frozen image features."""
    images = _images(method.clip.backbone)
    features, vectors = method.clip.model.encode_image(images), method.text_features()
    same_space = features.shape[-1] == vectors.shape[-1]
    if not same_space or (Method.scores(method, features, vectors) - method.logits(images)).abs().max() > TOLERANCE:
        raise UserError(
            f"--to {to}: the image tower has learned prompts or weights, which {to} can't represent; use --to onnx or "
            "torch"
        )


def _images(backbone: Backbone) -> Tensor:
    """Return random images (8, 3, S, S) for comparing two models."""
    size = backbone.image_size
    return torch.randn(8, 3, size, size, generator=torch.Generator().manual_seed(0))


def _save(weights: dict[str, Tensor], file: Path) -> None:
    contiguous = {name: value.contiguous() for name, value in weights.items()}
    safetensors.torch.save_file(contiguous, file, metadata={"format": "pt"})


def _quick_gelu(model: nn.Module) -> bool:
    return any(type(module).__name__ == "QuickGELU" for module in model.modules())


def _sentences(method: Method) -> tuple[PromptTokens, Tensor]:
    """Return one prompt per class, and the learned vectors in these prompts, (n, width) or (C, n, width).

    Raises:
        UserError: a class has several prompts, or the method learns parameters other than input vectors.
    """
    texts = [module for module in method.modules() if isinstance(module, PromptTokens)]
    words = list(getattr(method, "text_prompts", ()))
    others = len(list(method.parameters())) - len(words)  # parameters of the text tower
    if len(texts) != 1 or len(words) > 1 or others:
        raise UserError(
            "--to transformers: the run must have one prompt per class and learn only input vectors of the text tower; "
            "use --to open_clip"
        )
    return texts[0], words[0] if words else torch.empty(0, texts[0].embeddings.shape[-1])


def _tokenizer(backbone: Backbone, folder: Path) -> Any:
    """Return transformers' tokenizer with open_clip's vocabulary."""
    from transformers import AutoTokenizer

    tokenizer: Any = backbone.tokenizer
    if hasattr(tokenizer, "tokenizer"):
        tokenizer.tokenizer.save_pretrained(folder)
    else:  # open_clip's own tokenizer has no files
        start, end = tokenizer.all_special_ids
        (folder / "vocab.json").write_text(json.dumps(tokenizer.encoder), encoding="utf-8")
        merges = "\n".join(["#version: 0.2", *map(" ".join, tokenizer.bpe_ranks), ""])
        (folder / "merges.txt").write_text(merges, encoding="utf-8")
        first, last = tokenizer.decoder[start], tokenizer.decoder[end]
        special = {"bos_token": first, "eos_token": last, "unk_token": last, "pad_token": last}
        config = {"tokenizer_class": "CLIPTokenizer", **special, "model_max_length": tokenizer.context_length}
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return AutoTokenizer.from_pretrained(folder)


def _labels(tokenizer: Any, rows: list[list[int]], classnames: list[str]) -> tuple[list[str], str]:
    """Return class names and a template that tokenize to `rows`, or full prompts and `{}` if no template fits."""
    names = [readable_name(name) for name in classnames]
    sentences = [tokenizer.decode(row[1:-1]) for row in rows]
    for labels in (names, [with_article(name) for name in names]):
        decoded = [tokenizer.decode(ids[1:-1]) for ids in tokenizer(labels).input_ids]
        templates = ("{}".join(text.rsplit(name, 1)) for text, name in zip(sentences, decoded, strict=True))
        template = Counter(templates).most_common(1)[0][0].replace(" .", ".")  # ")." is one token, ") ." are two
        braces = template.count("{"), template.count("{}")
        if braces == (1, 1) and tokenizer([template.format(label) for label in labels]).input_ids == rows:
            return labels, template
    return sentences, "{}"


def _renamed(model: Any) -> dict[str, Tensor]:
    """Return the open_clip weights, renamed to match transformers."""
    weights: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        name = name.removeprefix("text.")
        for part, replacement in _NAMES.items():
            name = name.replace(part, replacement)
        if "in_proj_" in name:
            for letter, chunk in zip("qkv", value.chunk(3), strict=True):
                weights[name.replace("in_proj_", f"{letter}_proj.")] = chunk
        else:
            weights[name] = value.T if name.endswith("_projection.weight") else value
    weights["logit_scale"] = weights["logit_scale"].reshape(())
    return weights


def _config(model: Any, tokenizer: Any) -> Any:
    """Return the `CLIPConfig` of the two towers."""
    from transformers import CLIPConfig

    def sizes(tower: Any) -> dict[str, Any]:
        block = tower.transformer.resblocks[0]
        return {
            "hidden_size": block.attn.embed_dim,
            "intermediate_size": block.mlp.c_fc.out_features,
            "num_hidden_layers": len(tower.transformer.resblocks),
            "num_attention_heads": block.attn.num_heads,
            "hidden_act": "quick_gelu" if _quick_gelu(tower.transformer) else "gelu",
            "layer_norm_eps": block.ln_1.eps,
        }

    text, visual = getattr(model, "text", model), model.visual
    special = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    words = {"vocab_size": len(tokenizer), "max_position_embeddings": text.context_length, **special}
    patches = {"image_size": visual.image_size[0], "patch_size": visual.patch_size[0]}
    return CLIPConfig(
        text_config={**sizes(text), **words},
        vision_config={**sizes(visual), **patches},
        projection_dim=visual.output_dim,
        architectures=["CLIPModel"],
    )


def _image_processor(backbone: Backbone) -> Any:
    """Return an image processor equivalent to the backbone's `preprocess`.

    Raises:
        UserError: transformers has no equivalent image processor.
    """
    from transformers import CLIPImageProcessor

    settings, size = backbone.preprocess_settings, backbone.image_size
    square, shortest = {"height": size, "width": size}, settings["resize_mode"] == "shortest"
    resample = {"bilinear": 2, "bicubic": 3}.get(settings["interpolation"])
    if settings["size"] not in (size, [size, size]) or settings["resize_mode"] == "longest" or resample is None:
        raise UserError(f"--to transformers: transformers can't preprocess images with {settings}; use --to open_clip")
    return CLIPImageProcessor(
        size={"shortest_edge": size} if shortest else square,
        crop_size=square,
        do_center_crop=shortest,
        resample=resample,
        image_mean=settings["mean"],
        image_std=settings["std"],
    )
