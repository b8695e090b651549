"""Data and weights of the embedded toy benchmark `icons`, shipped with the package for offline use."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer

FOLDER = Path(__file__).parent
"""Folder that contains `icons/clip`, `icons/generator` and `icons/dataset`."""
CLIP = FOLDER / "icons/clip"

CLIP_WORD = r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"
"""Regular expression that matches a word in CLIP's tokenizers."""


def context_length() -> int:
    """Return the context length of the bundled CLIP model in tokens, including the start and end tokens."""
    length: int = json.loads((CLIP / "open_clip_config.json").read_bytes())["model_cfg"]["text_cfg"]["context_length"]
    return length


def load_tokenizer() -> Tokenizer:
    """Build the tokenizer of the bundled CLIP model without transformers, which is slow to import."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

    special = json.loads((CLIP / "special_tokens_map.json").read_bytes())
    start, end = special["bos_token"], special["eos_token"]
    files = str(CLIP / "vocab.json"), str(CLIP / "merges.txt")
    tokenizer = Tokenizer(models.BPE.from_file(*files, unk_token=end, end_of_word_suffix="</w>"))
    whitespace = normalizers.Replace(Regex(r"\s+"), " ")
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), whitespace, normalizers.Lowercase()])
    words = pre_tokenizers.Split(Regex(CLIP_WORD), "removed", invert=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.add_special_tokens(sorted(set(special.values())))
    vocabulary = tokenizer.get_vocab()
    first, last = ((token, vocabulary[token]) for token in (start, end))
    tokenizer.post_processor = processors.RobertaProcessing(last, first, trim_offsets=False, add_prefix_space=False)
    return tokenizer
