"""Folders that open_clip and transformers load by their own means, for runs whose image tower is the frozen one."""

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
from syncclip.clip.prompt_text import spoken, with_article
from syncclip.clip.text_tower import text_tower
from syncclip.clip.tokens import PromptTokens
from syncclip.clip.vision_tower import PlainVision, vision_tower
from syncclip.core.settings import UserError
from syncclip.methods import Method

OPEN_CLIP, TRANSFORMERS, ZERO_SHOT = "open_clip_model.safetensors", "model.safetensors", "zero_shot.json"

EXACT = 1e-4
"""How much a logit may differ from the run's."""

_FORM = "this CLIP's towers have not the form of transformers' CLIP"

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
"""Parts of open_clip's names of weights, and what transformers' `CLIPModel` has in their place, in this order."""


def write_open_clip(method: Method, folder: Path) -> None:
    """The frozen CLIP as `open_clip.create_model_and_transforms("local-dir:FOLDER")` loads it.

    Raises:
        UserError: the run's logits are not those of the frozen image tower, or open_clip loads another model.
    """
    _require_frozen_images(method, "open_clip")
    backbone = method.clip.backbone
    tokenizer: Any = backbone.tokenizer
    config = {**deepcopy(backbone.config), "quick_gelu": _quick_gelu(backbone.model)}
    if hasattr(tokenizer, "save_pretrained"):
        tokenizer.save_pretrained(folder)
        config["text_cfg"]["hf_tokenizer_name"] = "."
    whole = {"model_cfg": config, "preprocess_cfg": backbone.preprocess_settings}
    (folder / CONFIG).write_text(json.dumps(whole, indent=1))
    _save(backbone.model.state_dict(), folder / OPEN_CLIP)
    found = load_backbone(BackboneSettings(name=str(folder)))
    if (found.sha256, found.preprocess_settings) != (backbone.sha256, backbone.preprocess_settings):
        raise UserError(
            f"--to open_clip: from its folder, open_clip loads another model than {backbone.name!r}; use --to onnx"
        )


def write_transformers(method: Method, possible: list[int], folder: Path) -> None:
    """The frozen CLIP as `transformers.pipeline("zero-shot-image-classification", FOLDER)` loads it.

    Learned words become words of its vocabulary. `zero_shot.json` has the pipeline's other arguments: the names of the
    classes and the sentence around them.

    Args:
        possible: labels that an image may have.

    Raises:
        UserError: CLIP as transformers has it can't represent the run; the message says why.
    """
    from transformers import CLIPModel

    _require_frozen_images(method, "transformers")
    backbone = method.clip.backbone
    if text_tower(backbone.model) is None or not isinstance(vision_tower(backbone.model), PlainVision):
        raise UserError(f"--to transformers: {_FORM}; use --to open_clip")
    processor, (texts, words) = _image_processor(backbone), _sentences(method)
    tokenizer = _tokenizer(backbone, folder)
    known = len(tokenizer)
    learned = words.flatten(0, -2)
    tokenizer.add_tokens([AddedToken(f"<learned-{i}>", normalized=False) for i in range(len(learned))])
    tokenizer.save_pretrained(folder)
    places = torch.arange(known, len(tokenizer)).view(words.shape[:-1]).expand(texts.slots.shape)
    ids = texts.ids.scatter(1, texts.slots, places)
    rows = [row[: end + 1] for row, end in zip(ids.tolist(), texts.read.tolist(), strict=True)]
    labels, template = _labels(tokenizer, rows, method.classnames)
    told = {"candidate_labels": [labels[label] for label in possible], "hypothesis_template": template}
    (folder / ZERO_SHOT).write_text(json.dumps(told, indent=1, ensure_ascii=False), encoding="utf-8")

    weights = _renamed(backbone.model)
    embeddings = "text_model.embeddings.token_embedding.weight"
    weights[embeddings] = torch.cat([weights[embeddings][:known], learned])
    config = _config(backbone.model, tokenizer)
    try:
        model = CLIPModel(config).eval()
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(f"--to transformers: {_FORM}; use --to open_clip") from error
    images = _images(backbone)
    inputs = tokenizer([template.format(label) for label in labels], padding=True, return_tensors="pt")
    difference = (model(pixel_values=images, **inputs).logits_per_image - method.logits(images)).abs().max()
    if difference > EXACT:
        raise UserError(
            f"--to transformers: its logits would differ from the run's by {difference:.1g}, so its CLIP has other "
            "towers or another tokenizer; use --to open_clip"
        )
    _save(model.state_dict(), folder / TRANSFORMERS)
    config.save_pretrained(folder)
    processor.save_pretrained(folder)


def _require_frozen_images(method: Method, to: str) -> None:
    """Refuse a run whose logits are not the scaled cosines of open_clip's own image features with its class vectors."""
    images = _images(method.clip.backbone)
    features, vectors = method.clip.model.encode_image(images), method.text_features()
    same_space = features.shape[-1] == vectors.shape[-1]
    if not same_space or (Method.scores(method, features, vectors) - method.logits(images)).abs().max() > EXACT:
        raise UserError(
            f"--to {to}: the image tower has learned prompts or parts, and {to} has no place for them; use --to onnx "
            "or torch"
        )


def _images(backbone: Backbone) -> Tensor:
    """Images (8, 3, S, S) of noise, on which two models are compared."""
    size = backbone.image_size
    return torch.randn(8, 3, size, size, generator=torch.Generator().manual_seed(0))


def _save(weights: dict[str, Tensor], file: Path) -> None:
    whole = {name: value.contiguous() for name, value in weights.items()}
    safetensors.torch.save_file(whole, file, metadata={"format": "pt"})


def _quick_gelu(model: nn.Module) -> bool:
    return any(type(module).__name__ == "QuickGELU" for module in model.modules())


def _sentences(method: Method) -> tuple[PromptTokens, Tensor]:
    """A class's sentence, and the learned words (n, width) or (C, n, width) in it.

    Raises:
        UserError: class vectors come from several sentences, or from learned words beyond the input.
    """
    texts = [module for module in method.modules() if isinstance(module, PromptTokens)]
    words = list(getattr(method, "text_prompts", ()))
    others = len(list(method.parameters())) - len(words)  # the image tower is frozen, so they are the text tower's
    if len(texts) != 1 or len(words) > 1 or others:
        raise UserError(
            "--to transformers: a class's vector is not that of one sentence with learned words at the input, which is "
            "all that a vocabulary can hold; use --to open_clip"
        )
    return texts[0], words[0] if words else torch.empty(0, texts[0].embeddings.shape[-1])


def _tokenizer(backbone: Backbone, folder: Path) -> Any:
    """transformers' tokenizer with the tokens of open_clip's."""
    from transformers import AutoTokenizer

    own: Any = backbone.tokenizer
    if hasattr(own, "tokenizer"):
        own.tokenizer.save_pretrained(folder)
    else:  # open_clip's own, which has no files to be saved
        start, end = own.all_special_ids
        (folder / "vocab.json").write_text(json.dumps(own.encoder), encoding="utf-8")
        merges = "\n".join(["#version: 0.2", *map(" ".join, own.bpe_ranks), ""])
        (folder / "merges.txt").write_text(merges, encoding="utf-8")
        special = {"bos_token": own.decoder[start], "eos_token": own.decoder[end], "unk_token": own.decoder[end]}
        told = {**special, "pad_token": own.decoder[end], "model_max_length": own.context_length}
        (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer", **told}))
    return AutoTokenizer.from_pretrained(folder)


def _labels(tokenizer: Any, rows: list[list[int]], classnames: list[str]) -> tuple[list[str], str]:
    """Words that name the classes and the sentence around them, which together have the tokens of `rows`.

    Names where one sentence serves all; else, as with words of each class's own, whole sentences.
    """
    names = [spoken(name) for name in classnames]
    sentences = [tokenizer.decode(row[1:-1]) for row in rows]
    for labels in (names, [with_article(name) for name in names]):
        read = [tokenizer.decode(ids[1:-1]) for ids in tokenizer(labels).input_ids]
        around = ("{}".join(text.rsplit(name, 1)) for text, name in zip(sentences, read, strict=True))
        template = Counter(around).most_common(1)[0][0].replace(" .", ".")  # ")." is one token, ") ." are two
        braces = template.count("{"), template.count("{}")
        if braces == (1, 1) and tokenizer([template.format(label) for label in labels]).input_ids == rows:
            return labels, template
    return sentences, "{}"


def _renamed(model: Any) -> dict[str, Tensor]:
    """open_clip's weights under transformers' names."""
    weights: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        name = name.removeprefix("text.")
        for ours, theirs in _NAMES.items():
            name = name.replace(ours, theirs)
        if "in_proj_" in name:
            for part, each in zip("qkv", value.chunk(3), strict=True):
                weights[name.replace("in_proj_", f"{part}_proj.")] = each
        else:
            weights[name] = value.T if name.endswith("_projection.weight") else value
    weights["logit_scale"] = weights["logit_scale"].reshape(())
    return weights


def _config(model: Any, tokenizer: Any) -> Any:
    """transformers' configuration of towers of these sizes."""
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
    """What resizes, crops and normalises images as the backbone's `preprocess`.

    Raises:
        UserError: transformers' CLIP doesn't resize images like this.
    """
    from transformers import CLIPImageProcessor

    told, size = backbone.preprocess_settings, backbone.image_size
    square, shortest = {"height": size, "width": size}, told["resize_mode"] == "shortest"
    resample = {"bilinear": 2, "bicubic": 3}.get(told["interpolation"])
    if told["size"] not in (size, [size, size]) or told["resize_mode"] == "longest" or resample is None:
        raise UserError(f"--to transformers: its CLIP doesn't prepare images by {told}; use --to open_clip")
    return CLIPImageProcessor(
        size={"shortest_edge": size} if shortest else square,
        crop_size=square,
        do_center_crop=shortest,
        resample=resample,
        image_mean=told["mean"],
        image_std=told["std"],
    )
