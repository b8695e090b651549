"""A tiny CLIP with random weights in open_clip's folder layout."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import open_clip
import pytest
import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from open_clip.tokenizer import SimpleTokenizer
from safetensors.torch import save_file

START, END = "<|startoftext|>", "<|endoftext|>"


def make_clip_folder(
    folder: Path,
    *,
    image_size: int = 32,
    patch_size: int = 8,
    width: int = 32,
    head_width: int = 16,
    layers: int = 3,
    dim: int = 24,
    context: int = 16,
    vocabulary: int = 8192,
    seed: int = 0,
) -> Path:
    """Write a CLIP for open_clip's "local-dir:<folder>", with bytes that depend on the seed; returns the folder.

    The text tower is half as wide as the vision tower. The tokenizer has the first merges of CLIP's.
    """
    vision = {
        "image_size": image_size,
        "patch_size": patch_size,
        "width": width,
        "layers": layers,
        "head_width": head_width,
    }
    text = {"context_length": context, "vocab_size": vocabulary, "width": width // 2, "heads": 2, "layers": layers}
    write_tokenizer(folder, context, vocabulary)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = CLIP(dim, CLIPVisionCfg(**vision), CLIPTextCfg(**text))
        # With open_clip's initialisation all features are similar.
        weights = {
            name: value + 0.1 * torch.randn_like(value) if value.dim() else value
            for name, value in model.state_dict().items()
        }
    save_file(weights, folder / "open_clip_model.safetensors")
    config = {
        "model_cfg": {"embed_dim": dim, "vision_cfg": vision, "text_cfg": {**text, "hf_tokenizer_name": "tokenizer"}},
        "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]},
    }
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=1))
    return folder


def register_clip(patch: pytest.MonkeyPatch, folder: Path, tags: Sequence[str]) -> str:
    """Register a tiny CLIP with open_clip, with a pretrained tag for each seed from 0; returns the model's name."""
    configs = open_clip.factory._MODEL_CONFIGS
    for seed, tag in enumerate(tags):
        make_clip_folder(folder / tag, seed=seed)
    config = json.loads((folder / tags[0] / "open_clip_config.json").read_text())["model_cfg"]
    config["text_cfg"]["hf_tokenizer_name"] = str(folder / tags[0])
    weights = {tag: {"file": str(folder / tag / "open_clip_model.safetensors")} for tag in tags}
    patch.setitem(configs, "tiny-clip", config)
    patch.setitem(open_clip.pretrained._PRETRAINED, "tiny-clip", weights)
    return "tiny-clip"


@cache
def _tokenizer() -> SimpleTokenizer:
    return SimpleTokenizer()


def write_tokenizer(folder: Path, context: int, vocabulary: int) -> None:
    """Write CLIP's tokenizer with its first merges: 256 bytes, 256 bytes that end a word, merges, start, end."""
    full = _tokenizer()
    merges = sorted(full.bpe_ranks, key=full.bpe_ranks.__getitem__)[: vocabulary - 512 - 2]
    letters = list(full.byte_encoder.values())
    words = [*letters, *(letter + "</w>" for letter in letters), *("".join(pair) for pair in merges), START, END]
    assert len(words) == vocabulary
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}, ensure_ascii=False))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(pair) for pair in merges) + "\n")
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
    settings = {**special, "tokenizer_class": "CLIPTokenizer", "model_max_length": context, "do_lower_case": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
