"""Losses and gradients do not depend on the number of ranks, chunks or checkpointed activations."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from syncclip.clip.backbone import BackboneSettings, load_backbone
from syncclip.clip.prompted import PromptedClip
from syncclip.datasets import Dataset
from syncclip.methods import Method, MethodSettings, build_method
from syncclip.methods.cliplora import ClipLora
from syncclip.methods.cocoop import CoCoOp
from syncclip.methods.coop import CoOp
from syncclip.methods.mma import Mma
from syncclip.methods.mmrl import Mmrl
from syncclip.methods.parallel import WorkSplit
from syncclip.methods.probe import Probe
from syncclip.methods.promptkd import PromptKd
from syncclip.methods.promptsrc import PromptSrc
from syncclip.methods.syncclip import SyncClip
from syncclip.methods.tcp import Tcp
from syncclip.methods.tip import Tip
from syncclip.stream.batch import Batch
from syncclip.training import distributed
from tests.training.processes import run_ranks

NAMES = ["cat", "golden_retriever", "blue car", "red", "old house", "oak", "a very small dog"]
DATASET = Dataset("shapes", NAMES, "a photo of a {}.", {})
GROUP_SIZE = 8
METHODS: dict[str, tuple[str, MethodSettings | None]] = {
    "coop": ("coop", CoOp.Settings(class_specific=True, text_tokens=2)),
    "cocoop": ("cocoop", CoCoOp.Settings(prompts_at_once=10)),
    "kgcoop": ("kgcoop", None),
    "vpt": ("vpt", None),
    "ivlp": ("ivlp", None),
    "maple": ("maple", None),
    "promptsrc": ("promptsrc", PromptSrc.Settings(templates=("a {}.",))),
    "probe": ("probe", None),
    "probe with constraint": ("probe", Probe.Settings(constraint=True)),
    "tip": ("tip", Tip.Settings(cache_size=2)),
    "classmeans": ("classmeans", None),
    "cliplora": ("cliplora", ClipLora.Settings(dropout=0.0)),
    "cliplora by domain": ("cliplora", ClipLora.Settings(dropout=0.0, domain_rank=1, alignment_weight=2.0)),
    "twostage": ("twostage", None),
    "second stage of twostage": ("twostage", None),
    "mma": ("mma", Mma.Settings(scale=0.5)),
    "mmrl": ("mmrl", Mmrl.Settings(layers=(2, 3), tokens=2, dim=8)),
    "mmrl by domain": ("mmrl", Mmrl.Settings(layers=(2, 3), tokens=2, dim=8, domain_tokens=1, alignment_weight=2.0)),
    "tcp": ("tcp", Tcp.Settings(block=2)),
    "promptkd": ("promptkd", PromptKd.Settings(teacher_dim=20, distillation_weight=5.0, temperature=2.0)),
    "syncclip": ("syncclip", SyncClip.Settings(alignment_weight=2.0)),
    "syncclip with class vectors": ("syncclip", SyncClip.Settings(class_vectors=True, alignment_weight=2.0)),
    "syncclip with distillation": ("syncclip", SyncClip.Settings(distillation_weight=1.5, temperature=2.0)),
    "syncclip with all negatives": ("syncclip", SyncClip.Settings(negatives="all", alignment_weight=2.0)),
}
SPLIT_TEXTS = ["coop", "kgcoop", "ivlp", "maple", "promptsrc", "syncclip", "cliplora", "twostage", "mma", "mmrl", "tcp"]

pytestmark = pytest.mark.slow

Result = tuple[dict[str, float], list[Tensor]]


def build(folder: Path, name: str) -> Method:
    """A method in float64, so that differences are not rounding errors."""
    method, settings = METHODS[name]
    clip = PromptedClip(load_backbone(BackboneSettings(name=str(folder))))
    built = build_method(method, clip, DATASET, settings, seed=1)
    built.step_begins(6 if "second" in name else 0, 10)
    if built.settings.uses_teacher:
        vectors = torch.randn(built.text_features().shape, generator=torch.Generator().manual_seed(5))
        built.meet_teacher(normalize(vectors, dim=-1))
    return built.double().train()


def batch(rank: int = 0, world_size: int = 1) -> Batch:
    """Real, seen and novel images; a rank has the rows rank, rank + world size, ... of each group."""
    generator = torch.Generator().manual_seed(7)
    rows = slice(rank, None, world_size)
    images = torch.randn(3, GROUP_SIZE, 3, 32, 32, generator=generator, dtype=torch.float64)[:, rows]
    labels = torch.tensor([0, 1, 2, 3, 0, 1, 2, 3])[rows]
    novel = torch.tensor([4, 5, 6, 4, 5, 6, 4, 5])[rows]
    size = len(labels)
    domains = torch.tensor([0] * size + [1] * 2 * size)
    teacher = torch.rand(3, GROUP_SIZE, len(NAMES), generator=generator, dtype=torch.float64).softmax(dim=2)[:, rows]
    all_labels = torch.cat([labels, labels, novel])
    return Batch(images.flatten(0, 1), all_labels, domains, (size, size, size), teacher.flatten(0, 1))


def step(method: Method, rank: int = 0, world_size: int = 1) -> Result:
    """Means of losses and gradients over the ranks."""
    images = batch(rank, world_size)
    if method.prepares:
        method.prepare([[images], [images]])
    if isinstance(method, Probe):  # at the initial vectors, the constraint has no gradient
        with torch.no_grad():
            method.vectors *= 2
    losses = method.loss(images)
    losses["total"].backward()
    parameters = list(method.parameters())
    means, _ = distributed.average(parameters, losses, world_size)
    return means, [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]


def check_equal(result: Result, reference: Result, rel: float, atol: float) -> None:
    assert result[0] == pytest.approx(reference[0], rel=rel)
    assert any(gradient.abs().max() > 1e-4 for gradient in reference[1])
    for gradient, expected in zip(result[1], reference[1], strict=True):
        torch.testing.assert_close(gradient, expected, rtol=0, atol=atol)


@contextmanager
def float64() -> Iterator[None]:
    """Keep the features of the towers in float64."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("syncclip.clip.prompted.float32", lambda features, _: features)
        yield


@contextmanager
def encoded_texts() -> Iterator[list[int]]:
    """Numbers of texts in each call of the text tower, which may call itself for groups of equal length."""
    counts: list[int] = []
    original, nested = PromptedClip.encode_text, []

    def encode_text(clip: PromptedClip, tokens, *args, **kwargs) -> Tensor:  # type: ignore[no-untyped-def]
        if not nested:
            counts.append(len(tokens.embeddings))
        nested.append(True)
        try:
            return original(clip, tokens, *args, **kwargs)
        finally:
            nested.pop()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PromptedClip, "encode_text", encode_text)
        yield counts


def _step_of_all(rank: int, world_size: int, out: Path, folder: Path) -> None:
    for name in METHODS:
        method = build(folder, name)
        with float64(), encoded_texts() as counts:
            if hasattr(method, "frozen_texts"):  # encoded once
                method.frozen_texts()
            counts.clear()
            method.work = WorkSplit(rank, world_size)
            means, gradients = step(method, rank, world_size)
        torch.save((means, gradients, counts), out / f"{name}.{rank}")


@pytest.fixture(scope="module", params=[2, pytest.param(4, marks=pytest.mark.nightly)])
def ranks(request: pytest.FixtureRequest, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, Path]:
    """World size and folder of the results of each rank."""
    out = tmp_path_factory.mktemp("ranks")
    run_ranks(_step_of_all, request.param, out, folder)
    return request.param, out


@pytest.mark.parametrize("name", METHODS)
def test_gradients_do_not_depend_on_the_number_of_ranks(ranks: tuple[int, Path], folder: Path, name: str) -> None:
    world_size, out = ranks
    with float64():
        single = step(build(folder, name))
    share = -(-len(NAMES) // world_size)
    for rank in range(world_size):
        means, gradients, counts = torch.load(out / f"{name}.{rank}")
        check_equal((means, gradients), single, rel=1e-6, atol=1e-6)
        if name in SPLIT_TEXTS:
            assert counts == [share]


def test_single_rank_encodes_all_texts(folder: Path) -> None:
    with float64(), encoded_texts() as counts:
        step(build(folder, "ivlp"))
    assert counts == [len(NAMES)]


@pytest.mark.parametrize("pieces", [3, pytest.param(2, marks=pytest.mark.nightly), 50])
@pytest.mark.parametrize(
    "name", ["syncclip", "cocoop", "maple", "mmrl", "cliplora by domain", "twostage", "mma", "tcp"]
)
def test_gradients_do_not_depend_on_the_number_of_chunks(folder: Path, name: str, pieces: int) -> None:
    with float64():
        method = build(folder, name)
        method.work = WorkSplit(pieces=pieces)
        check_equal(step(method), step(build(folder, name)), rel=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "name", ["vpt", "ivlp", "syncclip", "cliplora", "cliplora by domain", "mma", "mmrl", "twostage"]
)
def test_gradients_do_not_depend_on_checkpointed_activations(folder: Path, name: str) -> None:
    with float64():
        method = build(folder, name)
        method.work = WorkSplit(pieces=2)
        method.clip.backbone = replace(method.clip.backbone, checkpoint_activations=True)
        check_equal(step(method), step(build(folder, name)), rel=1e-12, atol=1e-12)


def test_images_are_encoded_in_chunks(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    original = PromptedClip.encode_images
    monkeypatch.setattr(PromptedClip, "encode_images", lambda *args: sizes.append(len(args[1])) or original(*args))
    with float64():
        method = build(folder, "syncclip")
        method.work = WorkSplit(pieces=4)
        step(method)
    assert sizes == [6] * 8  # 4 chunks of the 24 images, and once more for the gradient
