"""Tiny CLIPs of each family with random weights, built by open_clip and timm from small configs."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import save_file
from timm.models import eva, is_model, register_model, vision_transformer, vision_transformer_hybrid
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, RobertaConfig

from tests.worlds.clip import write_tokenizer

LAYERS, WIDTH, DIM, CONTEXT, VOCABULARY = 3, 32, 24, 16, 2048
LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORDS = ("a", "photo", "of", "cat", "golden", "retriever", "blue", "car")


def timm_tower(entry: Callable[..., Any]) -> str:
    """Register a tiny version of a timm model; returns its name."""

    def build(pretrained: bool = False, **settings: Any) -> Any:
        tiny = {"img_size": 32, "patch_size": 8, "embed_dim": WIDTH, "depth": LAYERS, "num_heads": 2}
        return entry(pretrained, **settings, **tiny)

    build.__name__ = f"tiny_{entry.__name__}"
    if not is_model(build.__name__):
        register_model(build)
    return build.__name__


def vit_mci(pretrained: bool = False, **settings: Any) -> Any:
    """MobileCLIP-B's tower; timm's entry does not allow another width of the stem."""
    stem = vision_transformer_hybrid.ConvStem(
        channels=(8, 8, WIDTH), stride=(2, 2, 2), kernel_size=(2, 2, 2), padding=0, act_layer=torch.nn.GELU
    )
    return vision_transformer_hybrid._create_vision_transformer_hybrid(
        "vit_base_mci_224", stem, {"proj": False}, pretrained, **{**settings, "patch_size": 1, "no_embed_class": True}
    )


@dataclass(frozen=True)
class Family:
    """Differences from the default config.

    Attributes:
        vision, text, rest: entries of `vision_cfg`, `text_cfg` and `model_cfg`.
        tokenizer: writes the tokenizer into a folder.
        start: number of tokens before the words.
    """

    vision: dict[str, Any] = field(default_factory=dict)
    text: dict[str, Any] = field(default_factory=dict)
    rest: dict[str, Any] = field(default_factory=dict)
    dim: int = DIM
    tokenizer: Callable[[Path], None] = lambda folder: write_tokenizer(folder, CONTEXT, VOCABULARY)
    start: int = 1


def make_family_folder(folder: Path, family: Family) -> Path:
    """Write a CLIP of a family for open_clip's "local-dir:<folder>"; returns the folder."""
    plain = {"layers": LAYERS, "width": WIDTH, "head_width": 16, "patch_size": 8}
    text = {"vocab_size": VOCABULARY, "width": 16, "heads": 2, "layers": LAYERS, "context_length": CONTEXT}
    config = {
        "embed_dim": family.dim,
        "vision_cfg": {"image_size": 32, **({} if "timm_model_name" in family.vision else plain), **family.vision},
        "text_cfg": {**text, "hf_tokenizer_name": "tokenizer", **family.text},
        **family.rest,
    }
    if "hf_model_name" in family.text:
        config["text_cfg"]["hf_model_name"] = write_roberta(folder / "text")
    family.tokenizer(folder)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = open_clip.create_model(f"local-dir:{folder}", load_weights=False, pretrained_text=False)
        for name, weight in model.named_parameters():
            # With the default initialisation all features are similar.
            if not name.startswith("logit"):
                weight.data.add_(0.1 * torch.randn_like(weight))
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return folder


def write_sentencepiece(folder: Path, pad: str = "</s>") -> None:
    """Write a tokenizer like SigLIP's: no start token, an end token, and padding."""
    pieces = ["<pad>", "</s>", "<unk>", "▁", *LETTERS, *(f"▁{word}" for word in (*WORDS, "x"))]
    scores = [(piece, -1.0 if len(piece) > 1 else -9.0) for piece in pieces]
    tokenizer = Tokenizer(models.Unigram(scores, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 1)])
    _save(folder, tokenizer, eos_token="</s>", pad_token=pad, unk_token="<unk>")


def write_wordpiece(folder: Path) -> None:
    """Write a tokenizer like CLIPA's: BERT's, from which open_clip strips the end token."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", ".", *LETTERS, *(f"##{letter}" for letter in LETTERS), *WORDS[1:]]
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    special = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]"}
    _save(folder, tokenizer, **special)


def _save(folder: Path, tokenizer: Tokenizer, **special: str) -> None:
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)


def write_roberta(folder: Path) -> str:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    RobertaConfig(vocab_size=VOCABULARY, max_position_embeddings=80, pad_token_id=0, **sizes).save_pretrained(folder)
    return str(folder)


CUSTOM = {"custom_text": True}  # as in all of open_clip's configs with timm
WHOLE_CONTEXT = {"no_causal_mask": True, "pool_type": "last"}
SIGLIP_TEXT = {**WHOLE_CONTEXT, "proj_bias": True, "norm_kwargs": {"eps": 1e-6}}
CANONICAL = {"tokenizer_kwargs": {"clean": "canonicalize"}}  # lower case, no punctuation


def tower(entry: Callable[..., Any], pool: str = "token", proj: str | None = None) -> dict[str, Any]:
    return {"timm_model_name": timm_tower(entry), "timm_pool": pool, "timm_proj": proj}


def siglip(tokenizer: Callable[[Path], None], **text: Any) -> Family:
    return Family(
        vision=tower(vision_transformer.vit_base_patch16_siglip_224, pool="map", proj="none"),
        text={**SIGLIP_TEXT, **CANONICAL, **text},
        rest={**CUSTOM, "init_logit_bias": -10},
        dim=WIDTH,
        tokenizer=tokenizer,
        start=0,
    )


@cache
def families() -> dict[str, Family]:
    """Return name -> family; the first call registers timm's towers."""
    return {
        "openai": Family(rest={"quick_gelu": True}),  # MetaCLIP and DFN as well
        "laion": Family(),  # DataComp as well
        "laion-layer-scale": Family(vision={"ls_init_value": 0.1}),
        "laion-worldwide": Family(text={"pool_type": "eos", "eos_id": VOCABULARY - 1}),
        "clipa": Family(
            vision={"no_ln_pre": True, "pool_type": "avg", "final_ln_after_pool": True},
            text={**WHOLE_CONTEXT, "tokenizer_kwargs": {"strip_sep_token": True}},
            tokenizer=write_wordpiece,
        ),
        "siglip": siglip(write_sentencepiece),
        "siglip2": siglip(partial(write_sentencepiece, pad="<pad>"), act_kwargs={"approximate": "tanh"}),
        "eva01": Family(vision=tower(eva.eva_giant_patch14_224), rest=CUSTOM),
        "eva02": Family(vision=tower(eva.eva02_base_patch16_clip_224), rest=CUSTOM),
        "eva02-enormous": Family(vision=tower(eva.eva02_enormous_patch14_clip_224), rest=CUSTOM),
        "eva-mixed-rotations": Family(vision=tower(eva.vit_base_patch16_rope_mixed_224), rest=CUSTOM),
        "perception-encoder": Family(vision=tower(eva.vit_pe_core_base_patch16_224, pool="map"), rest=CUSTOM),
        "mobileclip": Family(vision=tower(vit_mci), text={"no_causal_mask": True}, rest=CUSTOM),
        "timm-mean": Family(vision=tower(vision_transformer.vit_medium_patch16_gap_256, pool="", proj="linear")),
        "coca": Family(
            vision={
                "attentional_pool": True,
                "attn_pooler_heads": 2,
                "attn_pooler_queries": 5,
                "output_tokens": True,
            },
            text={"embed_cls": True, "output_tokens": True},
            rest={**CUSTOM, "multimodal_cfg": {"width": 16, "context_length": CONTEXT, "heads": 2, "layers": 1}},
        ),
        "roberta": Family(text={"hf_model_name": "text", "hf_proj_type": "mlp"}),
        "resnet": Family(vision={"layers": [1, 1, 1, 1], "width": 8}),
        "convnext": Family(vision={"timm_model_name": "test_convnext", "timm_pool": "", "timm_proj": "linear"}),
    }
