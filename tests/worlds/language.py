"""A tiny causal language model with random weights and a tokenizer of words, built in place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from syncclip.synthesis.prompts.captions import WriterSettings

SENTENCE = """
a an the red green blue small large old new quiet bright dark soft round on in under near over with of and
table snow rain garden road evening morning light window river stone leaf cat dog fir tree photo shows stands . ,
"""


def build_language_model(folder: Path, seed: int = 0, width: int = 16, layers: int = 1) -> Path:
    """Save a random-weight `GPT2LMHeadModel` (some 100 kB) into `folder` and return it.

    What it writes means nothing: words of a short list, and now and then an end.

    Args:
        width, layers: of the model; more of both take longer.
    """
    import torch
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
    from transformers.utils import logging

    logging.disable_progress_bar()
    vocabulary = {token: place for place, token in enumerate(["<end>", "<unknown>", *SENTENCE.split()])}
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
    """Settings that ask the tiny model for a few short captions."""
    settings = {"captions": 3, "max_tokens": 6, "instruction": "a photo of a {}", **changes}
    return WriterSettings(model=model, **settings)
