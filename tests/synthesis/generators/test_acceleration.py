"""Speeds of tiny pipelines on a CPU, without the compiler's backend: they must give the same images each time."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from syncclip.core.settings import UserError
from syncclip.core.trust import COMPILED, trust, trusted
from syncclip.recipe.recipe import Recipe
from syncclip.synthesis.generators import acceleration, loading
from syncclip.synthesis.generators.acceleration import CompiledCode
from syncclip.synthesis.generators.arguments import call_arguments, denoiser
from syncclip.synthesis.generators.pipeline import Generator
from syncclip.synthesis.generators.settings import GeneratorSettings
from tests.synthesis.generators.conftest import Family, pixels
from tests.worlds.pipelines import FAMILIES

PROMPTS = ["a photo of a cat.", "a dog!"]
SEEDS = [1, 2]

torchao = pytest.mark.skipif(importlib.util.find_spec("torchao") is None, reason="torchao is not installed")
nightly = [name if name in ("sd", "flux") else pytest.param(name, marks=pytest.mark.nightly) for name in FAMILIES]
"""All families, of which two run in each test run."""


@pytest.fixture(autouse=True)
def eager(eager_backend: None) -> None:
    acceleration._report_skipped.cache_clear()


@pytest.fixture
def without_int8(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceleration, "_quantize", lambda network, device: None)


def generated(generator: Generator) -> list[bytes]:
    return pixels(generator.generate(PROMPTS, SEEDS))


def difference(images: list[bytes], others: list[bytes]) -> float:
    """Mean absolute difference, from 0 to 255."""
    pairs = zip(images, others, strict=True)
    return float(np.mean([np.abs(np.frombuffer(a, "u1").astype(float) - np.frombuffer(b, "u1")) for a, b in pairs]))


@pytest.mark.parametrize("name", nightly)
def test_exact_images_equal_those_of_the_plain_pipeline(family: Family, name: str, device: str) -> None:
    from diffusers import DiffusionPipeline

    settings = family(name, batch_size=len(PROMPTS), speed="exact")
    plain = DiffusionPipeline.from_pretrained(settings.pipeline).to(device)
    plain.set_progress_bar_config(disable=True)
    seeds = [torch.Generator("cpu").manual_seed(seed) for seed in SEEDS]
    torch.manual_seed(SEEDS[0])
    images = plain(prompt=PROMPTS, generator=seeds, output_type="pil", **call_arguments(plain, settings)).images
    assert generated(Generator(settings, device)) == pixels(images)


@pytest.mark.gpu
@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("speed", ["fast", pytest.param("max", marks=torchao)])
def test_images_of_the_compiler_on_a_gpu(
    family: Family, name: str, speed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "BACKEND", "inductor")
    exact, generator = generated(Generator(family(name), "cuda")), Generator(family(name, speed=speed), "cuda")
    first = generated(generator)
    assert first != exact and difference(first, exact) < 5
    assert generated(generator) == first


@pytest.mark.parametrize("name", nightly)
def test_fast_images_are_similar_to_exact_ones_and_deterministic(family: Family, name: str) -> None:
    exact, fast = generated(Generator(family(name))), Generator(family(name, speed="fast"))
    first = generated(fast)
    assert first != exact and difference(first, exact) < 5
    assert generated(fast) == first
    assert generated(Generator(family(name, speed="fast"))) == first


def test_fast_uses_bf16_fused_projections_and_compiled_blocks(family: Family) -> None:
    network = denoiser(Generator(family("flux", speed="fast")).pipeline)
    assert network is not None
    assert network.dtype == torch.bfloat16
    assert all(block.attn.fused_projections for block in network.transformer_blocks)
    compiled = [module for module in network.modules() if module._compiled_call_impl is not None]
    assert compiled == [*network.transformer_blocks, *network.single_transformer_blocks]


def test_convolutions_have_channels_last(family: Family) -> None:
    pipeline = Generator(family("sdxl", speed="fast")).pipeline
    for part in (pipeline.unet, pipeline.vae):
        kernels = [weight for weight in part.parameters() if weight.dim() == 4 and min(weight.shape[1:]) > 1]
        assert kernels and all(kernel.is_contiguous(memory_format=torch.channels_last) for kernel in kernels)
    assert pipeline.unet.mid_block.attentions[0].transformer_blocks[0].attn1.fused_projections


def test_a_denoiser_without_repeated_blocks_is_compiled_as_a_whole(family: Family) -> None:
    network = Generator(family("pixart", speed="fast")).pipeline.transformer
    assert [module for module in network.modules() if module._compiled_call_impl is not None] == [network]


def test_a_pipeline_without_a_denoiser_is_an_error(family: Family) -> None:
    with pytest.raises(UserError, match="no single denoiser"):
        acceleration.accelerate("no pipeline", family("sd", speed="fast"), "cpu")


def test_max_without_torchao_is_an_error_with_a_remedy(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceleration.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"max needs torchao; run `pip install -e .*\[fast\]'?`"):
        Generator(family("flux", speed="max"))


@torchao
@pytest.mark.parametrize("name", ["sd", "sdxl", "sd3", "flux", "pixart", "sana"])
def test_max_quantises_large_layers_to_int8(family: Family, name: str) -> None:
    generator = Generator(family(name, speed="max"))
    network = denoiser(generator.pipeline)
    assert network is not None
    types = {key: type(weight.data).__name__ for key, weight in network.named_parameters()}
    quantised = {key for key, type_name in types.items() if "Int8" in type_name}
    assert quantised and all("attn" in key or "ff" in key or "mlp" in key or "proj_out" in key for key in quantised)
    assert not any("norm" in key or "emb" in key for key in quantised)
    first = generated(generator)
    assert generated(generator) == first
    assert 0 < difference(first, generated(Generator(family(name)))) < 8


@pytest.mark.usefixtures("without_int8")
def test_a_step_cache_skips_blocks_and_is_reset_for_each_batch(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceleration, "STEP_CACHE_THRESHOLD", 100.0)  # no change exceeds it
    generator = Generator(family("flux", speed="max", steps=6))
    network, calls = generator.pipeline.transformer, []
    network.single_transformer_blocks[0].norm.register_forward_hook(lambda *_: calls.append(1))
    first = generated(generator)
    assert len(calls) == 1, "only the first step runs the blocks after the first one"
    assert generated(generator) == first
    assert len(calls) == 2
    monkeypatch.setattr(type(generator.pipeline.scheduler), "step", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        generator.generate(["another"] * 2, [3, 4])
    monkeypatch.undo()
    assert generated(generator) == first


@pytest.mark.usefixtures("without_int8")
@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("sd", {}, "a StableDiffusionPipeline doesn't support the step cache; skipping"),
        (
            "flux",
            {"steps": 4, "guide": {"strength": 0.5}},
            "a FluxPipeline doesn't support the step cache with a guide",
        ),
    ],
)
def test_unsupported_optimisations_are_reported_once(
    family: Family, name: str, values: dict[str, Any], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        Generator(family(name, speed="max", **values))
    assert capsys.readouterr().err.count(message) == 1


def test_an_attention_backend_needs_a_gpu(family: Family) -> None:
    with pytest.raises(UserError, match="flash needs an NVIDIA GPU"):
        Generator(family("sd", attention="flash"))


def test_a_transformer_uses_the_dispatcher_and_a_unet_its_own_processors(
    family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []
    for name in ("sd", "flux"):
        pipeline = Generator(family(name)).pipeline
        network = denoiser(pipeline)
        monkeypatch.setattr(type(network), "set_attention_backend", lambda self, backend: calls.append(backend))
        method = "enable_xformers_memory_efficient_attention"
        monkeypatch.setattr(type(pipeline), method, lambda self: calls.append("processors"))
        acceleration.set_attention(pipeline, "xformers", "cuda")
    assert calls == ["processors", "xformers"]


@pytest.mark.parametrize(
    ("name", "backend", "message"),
    [
        ("sd", "flash", "flash can't be used with a StableDiffusionPipeline"),
        ("flux", "sage", "sage can't be used with a FluxPipeline"),
        (
            "flux",
            "xformers",
            r"xformers can't be used with a FluxPipeline \(.*run `pip install -e .*\[gpu\]'?`, or use",
        ),
    ],
)
def test_a_missing_attention_backend_is_reported(family: Family, name: str, backend: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        acceleration.set_attention(Generator(family(name)).pipeline, backend, "cuda")


def cache_at(folder: Path, weights: str = "weights", **settings: Any) -> CompiledCode:
    trust(f"{COMPILED}{folder}")
    return CompiledCode(GeneratorSettings(speed="fast", compile_cache=str(folder), **settings), "cpu", weights)


PROCESS = """
import sys, torch
from pathlib import Path
from syncclip.synthesis.generators.acceleration import MISSES
from tests.synthesis.generators.test_acceleration import cache_at
from torch._dynamo.utils import counters

class Product(torch.nn.Module):  # a product of matrices needs no C++ compiler
    def forward(self, x):
        return x @ x

code, product = cache_at(Path(sys.argv[1])), Product()
product.compile(backend="inductor", dynamic=False)
with torch.inference_mode(), code.shared(3):
    product(torch.ones(3, 3))
print(counters["inductor"][MISSES], counters["inductor"]["fxgraph_cache_hit"])
"""


def process(cache: Path, local: Path) -> tuple[list[int], str]:
    """Return ([graphs compiled, graphs read], stderr) of a process with its own local cache."""
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(local), "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", PROCESS, str(cache)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return [int(word) for word in result.stdout.split()], result.stderr


@pytest.mark.slow
@pytest.mark.nightly
def test_a_second_process_reads_compiled_code_from_the_cache(tmp_path: Path) -> None:
    cache = tmp_path / "shared"
    assert process(cache, tmp_path / "first")[0] == [1, 0]
    (file,) = cache.rglob("*.compiled")
    data = file.read_bytes()
    assert process(cache, tmp_path / "second")[0] == [0, 1]
    assert file.read_bytes() == data
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    counts, stderr = process(cache, tmp_path / "third")
    assert counts == [1, 0] and f"{file.name}: it is damaged" in stderr
    assert process(cache, tmp_path / "fourth")[0] == [0, 1], "the damaged file was rewritten"


def test_invalid_code_in_the_cache_is_ignored(tmp_path: Path) -> None:
    code = cache_at(tmp_path)
    file = Path(code._folder, "2.compiled")
    file.parent.mkdir()
    file.write_bytes(hashlib.sha256(b"invalid").digest() + b"invalid")
    with code.shared(2):
        pass
    assert file.read_bytes().endswith(b"invalid"), "nothing was compiled, so nothing is written"


def test_a_read_only_cache_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from torch._dynamo.utils import counters

    (tmp_path / "file").touch()
    monkeypatch.setattr(torch.compiler, "save_cache_artifacts", lambda: (b"compiled", None))
    with cache_at(tmp_path / "file").shared(2):
        counters["inductor"][acceleration.MISSES] += 1
    assert "2.compiled could not be written" in capsys.readouterr().err


def test_the_cache_key_depends_on_weights_and_settings(tmp_path: Path) -> None:
    folders = [cache_at(tmp_path, **values)._folder for values in ({}, {"batch_size": 3})]
    assert folders[0] == folders[1]
    others = ({"weights": "others"}, {"dtype": "fp16"}, {"steps": 9, "height": 64})
    assert len({folders[0], *(cache_at(tmp_path, **values)._folder for values in others)}) == 4


def test_only_the_users_own_recipe_can_name_a_cache(tmp_path: Path) -> None:
    for folder in ("own", "downloaded"):
        recipe = tmp_path / folder / "recipe.yaml"
        recipe.parent.mkdir()
        recipe.write_text(f"synthesis: {{generator: {{compile_cache: {tmp_path}/of-{folder}}}}}")
    (tmp_path / "downloaded" / "plan.json").touch()
    for folder in ("own", "downloaded"):
        Recipe.load(str(tmp_path / folder / "recipe.yaml"))
    assert f"{COMPILED}{tmp_path}/of-own" in trusted()
    assert f"{COMPILED}{tmp_path}/of-downloaded" not in trusted()


def test_a_generator_uses_only_a_trusted_cache(family: Family, tmp_path: Path) -> None:
    folder = str(tmp_path / "cache")
    with pytest.raises(UserError, match=f"compile_cache: '{COMPILED}{folder}' is custom code"):
        Generator(family("sd", speed="fast", compile_cache=folder))
    trust(COMPILED + folder)
    generator = Generator(family("sd", speed="fast", compile_cache=folder))
    assert generated(generator) == generated(Generator(family("sd", speed="fast")))
    assert generator._code is not None and generator._code._sizes == {2}
