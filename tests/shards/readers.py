"""Other people's readers of shards, as tests call them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

REMEDY = "webdataset<0.2.96"
"""What docs/synthesis.md tells to install beside open_clip's trainer: later versions mark the end of each shard with a
`{}` that open_clip 3.3 does not expect, whatever the shards hold (webdataset issue 384, open_clip issue 935)."""


def read_by_open_clip(pattern: str, samples: int, folder: Path) -> list[tuple[int, str]]:
    """(sample that the image shows, text) of all that one epoch of open_clip's own training loader gives, unpatched, in
    a process of its own with the webdataset that it needs, which is installed into `folder`."""
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), REMEDY]
    subprocess.run(install, check=True)
    command = [sys.executable, "-m", "tests.shards.readers", pattern, str(samples)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(Path.cwd())])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [(index, text) for index, text in json.loads(done.stdout)]


def _read(pattern: str, samples: int) -> list[tuple[int, str]]:
    from open_clip_train import data

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


if __name__ == "__main__":
    print(json.dumps(_read(sys.argv[1], int(sys.argv[2]))))
