"""Data and weights of the embedded world `icons`: they travel with the package, so that it runs without a network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from syncclip.core.text import CLIP_WORD

if TYPE_CHECKING:
    from tokenizers import Tokenizer

FOLDER = Path(__file__).parent
"""It holds "icons/clip", "icons/generator" and "icons/dataset"."""
CLIP = FOLDER / "icons/clip"


def context_length() -> int:
    """Tokens that the embedded CLIP reads of a text, with the first and the last one."""
    length: int = json.loads((CLIP / "open_clip_config.json").read_bytes())["model_cfg"]["text_cfg"]["context_length"]
    return length


def load_tokenizer() -> Tokenizer:
    """The embedded CLIP's tokenizer, built from its files in milliseconds; transformers takes seconds to import."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

    names = json.loads((CLIP / "special_tokens_map.json").read_bytes())
    start, end = names["bos_token"], names["eos_token"]
    vocabulary, merges = str(CLIP / "vocab.json"), str(CLIP / "merges.txt")
    tokenizer = Tokenizer(models.BPE.from_file(vocabulary, merges, unk_token=end, end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Sequence(  # type: ignore[assignment]
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(  # type: ignore[assignment]
        [
            pre_tokenizers.Split(Regex(CLIP_WORD), "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.add_special_tokens(sorted(set(names.values())))
    ids = {token: tokenizer.token_to_id(token) for token in (start, end)}
    tokenizer.post_processor = processors.RobertaProcessing(  # type: ignore[assignment]
        (end, ids[end]), (start, ids[start]), trim_offsets=False, add_prefix_space=False
    )
    return tokenizer
