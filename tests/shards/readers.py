"""Other people's readers of shards, as tests call them."""

from __future__ import annotations

import functools
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from open_clip_train import data


def read_by_open_clip(pattern: str, samples: int, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, str]]:
    """(sample that the image shows, text) of all that one epoch of open_clip's own training loader gives.

    webdataset >= 0.2.96 marks the end of every shard with a `{}` that open_clip <= 3.3 does not expect, whatever the
    shards hold (webdataset issue 384, open_clip issue 935); that one default is set back, as both threads advise.
    """
    monkeypatch.setattr(data, "tar_file_expander", functools.partial(data.tar_file_expander, eof_value=None))
    arguments = SimpleNamespace(
        train_data=pattern,
        train_num_samples=samples,
        train_data_upsampling_factors=None,
        dataset_resampled=False,
        batch_size=4,
        workers=0,
        world_size=1,
        seed=0,
    )
    texts: list[str] = []

    def preprocess(image: Any) -> torch.Tensor:
        return torch.from_numpy(np.asarray(image).copy())

    def tokenizer(text: str) -> torch.Tensor:
        texts.append(text)
        return torch.tensor([[len(texts) - 1]])

    loader = data.get_wds_dataset(arguments, preprocess, is_train=True, tokenizer=tokenizer).dataloader
    batches = list(loader)
    assert loader.num_batches == len(batches) == -(-samples // 4)
    colours = torch.cat([images[:, 4, 4] for images, _ in batches]) // 16
    numbers = torch.cat([places[:, 0] for _, places in batches])
    indices = colours[:, 0] + 16 * colours[:, 1]
    return [(int(index), texts[int(number)]) for index, number in zip(indices, numbers, strict=True)]
