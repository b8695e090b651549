"""The counted memory of a step is that of its real tensors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.memory import LiveBytes, peak_bytes
from benchmarks.methods import STEPS
from syncclip.clip.prompted import PromptedClip
from tests.benchmarks.test_plain import LEARNING, NOT_LEARNED, build, clip

pytestmark = [pytest.mark.nightly, pytest.mark.slow]

__all__ = ["clip"]


def test_tensors_count_from_creation_to_the_end_of_their_last_view() -> None:
    before = torch.ones(100)
    with LiveBytes() as count:
        row = (before.view(10, 10) + 1)[0]
        assert count.now == 400
        other = before * 2
        assert count.now == 800
        del row
        assert count.now == 400
        other.add_(1)
    assert (count.now, count.peak) == (400, 800)


@pytest.mark.parametrize("name", LEARNING)
@pytest.mark.parametrize("side", STEPS)
def test_the_peak_of_fake_tensors_is_that_of_real_ones(clip: PromptedClip, name: str, side: str) -> None:
    method, plain, batch = build(name, clip)
    step = STEPS[side]
    step(method, plain, batch)  # computes the cached features
    expected = peak_bytes(step, method, plain, batch)
    with LiveBytes() as count:
        step(method, plain, batch).backward()
    assert count.peak == expected
    learned = [parameter for name, parameter in method.named_parameters() if name not in NOT_LEARNED]
    assert all(parameter.grad is not None for parameter in learned)


SCRIPT = """
import torch
from benchmarks.memory import measured_peak_bytes, peak_bytes

torch.set_num_threads(1)
block = torch.nn.TransformerEncoderLayer(64, 4, 1024, 0.0, batch_first=True).requires_grad_(False)
x = torch.randn(2000, 16, 64, requires_grad=True)
step = lambda block, x: block(block(x)).square().mean()
step(block, x[:2]).backward()  # libraries allocate memory on first use
print(peak_bytes(step, block, x), measured_peak_bytes(step, block, x))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_memory_of_a_new_process_agrees_with_the_count() -> None:
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", SCRIPT], cwd=root, capture_output=True, text=True, check=True)
    counted, measured = map(int, done.stdout.split())
    assert counted > 3e8
    assert measured == pytest.approx(counted, rel=0.2)
