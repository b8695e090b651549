"""Third-party readers of shards."""

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

WEBDATASET = "webdataset<0.2.96"
"""Required by open_clip's trainer: later versions append a `{}` to each shard, which open_clip 3.3 does not support
(webdataset issue 384, open_clip issue 935)."""


def read_by_open_clip(pattern: str, samples: int, folder: Path) -> list[tuple[int, str]]:
    """(sample index, text) of each sample in one epoch of open_clip's training loader.

    Args:
        folder: installation folder of `WEBDATASET`, which a subprocess imports.
    """
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), WEBDATASET]
    subprocess.run(install, check=True)
    command = [sys.executable, "-m", "tests.shards.readers", pattern, str(samples)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(Path.cwd())])}
    process = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    return [(index, text) for index, text in json.loads(process.stdout)]


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
    indices = colours[:, 0] + 16 * colours[:, 1]
    positions = torch.cat([tokens[:, 0] for _, tokens in batches])
    return [(int(index), texts[int(position)]) for index, position in zip(indices, positions, strict=True)]


if __name__ == "__main__":
    print(json.dumps(_read(sys.argv[1], int(sys.argv[2]))))
