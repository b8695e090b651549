"""A tiny causal language model with random weights and a vocabulary of words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from syncclip.synthesis.prompts.captions import WriterSettings

WORDS = """
a an the red green blue small large old new quiet bright dark soft round on in under near over with of and
table snow rain garden road evening morning light window river stone leaf cat dog fir tree photo shows stands . ,
"""


def build_language_model(folder: Path, seed: int = 0, width: int = 16, layers: int = 1) -> Path:
    """Save a random-weight `GPT2LMHeadModel` (about 100 kB), which generates random words; returns the folder."""
    import torch
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
    from transformers.utils import logging

    logging.disable_progress_bar()
    vocabulary = {token: number for number, token in enumerate(["<end>", "<unknown>", *WORDS.split()])}
    words = Tokenizer(WordLevel(vocabulary, unk_token="<unknown>"))
    words.pre_tokenizer = Whitespace()  # type: ignore[assignment]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>", unk_token="<unknown>")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        size = {"n_positions": 128, "n_embd": width, "n_layer": layers, "n_head": 2}
        model = GPT2LMHeadModel(GPT2Config(vocab_size=len(vocabulary), bos_token_id=0, eos_token_id=0, **size))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def asked(model: str, **changes: Any) -> WriterSettings:
    """Settings for three short captions per class."""
    settings = {"captions": 3, "max_tokens": 6, "instruction": "a photo of a {}", **changes}
    return WriterSettings(model=model, **settings)
