"""Data and weights of the embedded world `icons`: they travel with the package, so that it runs without a network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer

FOLDER = Path(__file__).parent
"""It holds "icons/clip", "icons/generator" and "icons/dataset"."""
CLIP = FOLDER / "icons/clip"

CLIP_WORD = r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"
"""Regular expression of a word in CLIP's tokenizers."""


def context_length() -> int:
    """Tokens that the embedded CLIP reads of a text, with the first and the last one."""
    length: int = json.loads((CLIP / "open_clip_config.json").read_bytes())["model_cfg"]["text_cfg"]["context_length"]
    return length


def load_tokenizer() -> Tokenizer:
    """The embedded CLIP's tokenizer, built from its files in milliseconds; transformers takes seconds to import."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

    names = json.loads((CLIP / "special_tokens_map.json").read_bytes())
    start, end = names["bos_token"], names["eos_token"]
    pairs = models.BPE.from_file(
        str(CLIP / "vocab.json"), str(CLIP / "merges.txt"), unk_token=end, end_of_word_suffix="</w>"
    )
    tokenizer = Tokenizer(pairs)
    whitespace = normalizers.Replace(Regex(r"\s+"), " ")
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), whitespace, normalizers.Lowercase()])
    words = pre_tokenizers.Split(Regex(CLIP_WORD), "removed", invert=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.add_special_tokens(sorted(set(names.values())))
    vocabulary = tokenizer.get_vocab()
    first, last = ((token, vocabulary[token]) for token in (start, end))
    tokenizer.post_processor = processors.RobertaProcessing(last, first, trim_offsets=False, add_prefix_space=False)
    return tokenizer
