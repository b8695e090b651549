"""The tokenizer of the bundled CLIP without transformers."""

from __future__ import annotations

from syncclip.clip.backbone import BackboneSettings, load_backbone
from syncclip.clip.prompt_text import filled
from syncclip.datasets import DatasetSettings, load_dataset
from syncclip.embedded import context_length, load_tokenizer


def test_its_tokens_equal_those_of_the_embedded_clip() -> None:
    names = load_dataset(DatasetSettings(name="icons/travel")).classnames
    texts = [filled("a photo of a {}.", name) for name in names]
    texts += ["MD80", "St. (old)", "crème brûlée", "ÉCLAIR", "naïve  café", "it's", "汉字", "🙂", "a_b", ""]
    texts += ["<|endoftext|>"]
    length = context_length()
    ids = load_backbone(BackboneSettings()).tokenizer(texts, context_length=length)
    for text, encoding, expected in zip(texts, load_tokenizer().encode_batch(texts), ids.tolist(), strict=True):
        assert encoding.ids + [0] * (length - len(encoding.ids)) == expected, text
