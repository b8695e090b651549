"""What the speeds do to tiny pipelines on a CPU; what is compiled isn't made faster here, but must be the same."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable, Iterator
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
from tests.worlds.pipelines import FAMILIES

Family = Callable[..., GeneratorSettings]
PROMPTS = ["a photo of a cat.", "a dog!"]
SEEDS = [1, 2]

torchao = pytest.mark.skipif(importlib.util.find_spec("torchao") is None, reason="torchao is not installed")


@pytest.fixture(autouse=True)
def quick_compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Dynamo traces as it does for any compiler, and runs what it has traced as it is."""
    monkeypatch.setattr(loading, "BACKEND", "eager")
    acceleration._report_skipped.cache_clear()
    yield
    torch._dynamo.reset()


@pytest.fixture
def without_quantisation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceleration, "_quantize", lambda network, device: None)


def images(generator: Generator) -> list[bytes]:
    return [image.tobytes() for image in generator.generate(PROMPTS, SEEDS)]


def difference(one: list[bytes], other: list[bytes]) -> float:
    """Mean absolute, of 255."""
    pairs = zip(one, other, strict=True)
    return float(np.mean([np.abs(np.frombuffer(a, "u1").astype(float) - np.frombuffer(b, "u1")) for a, b in pairs]))


@pytest.mark.parametrize("name", FAMILIES)
def test_exact_images_are_those_of_the_pipelines_plain_call(family: Family, name: str, device: str) -> None:
    from diffusers import DiffusionPipeline

    settings = family(name, batch_size=len(PROMPTS))
    plain = DiffusionPipeline.from_pretrained(settings.pipeline).to(device)
    plain.set_progress_bar_config(disable=True)
    seeds = [torch.Generator("cpu").manual_seed(seed) for seed in SEEDS]
    torch.manual_seed(SEEDS[0])
    found = plain(prompt=PROMPTS, generator=seeds, output_type="pil", **call_arguments(plain, settings)).images
    assert images(Generator(settings, device)) == [image.tobytes() for image in found]
    assert images(Generator(family(name, speed="exact", batch_size=len(PROMPTS)), device)) == [
        image.tobytes() for image in found
    ]


@pytest.mark.gpu
@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("chosen", ["fast", pytest.param("max", marks=torchao)])
def test_a_gpu_runs_what_its_compiler_makes(
    family: Family, name: str, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "BACKEND", "inductor")
    exact, generator = images(Generator(family(name), "cuda")), Generator(family(name, speed=chosen), "cuda")
    first = images(generator)
    assert first != exact and difference(first, exact) < 5
    assert images(generator) == first


@pytest.mark.parametrize("name", FAMILIES)
def test_fast_images_are_like_the_exact_ones_and_the_same_each_time(family: Family, name: str) -> None:
    exact, fast = images(Generator(family(name))), Generator(family(name, speed="fast"))
    first = images(fast)
    assert first != exact and difference(first, exact) < 5
    assert images(fast) == first
    assert images(Generator(family(name, speed="fast"))) == first


def test_fast_is_bf16_with_fused_projections_and_compiled_blocks(family: Family) -> None:
    network = denoiser(Generator(family("flux", speed="fast")).pipeline)
    assert network is not None
    assert network.dtype == torch.bfloat16
    assert all(block.attn.fused_projections for block in network.transformer_blocks)
    compiled = [module for module in network.modules() if module._compiled_call_impl is not None]
    assert compiled == [*network.transformer_blocks, *network.single_transformer_blocks]


def test_networks_of_convolutions_hold_their_channels_last(family: Family) -> None:
    pipeline = Generator(family("sdxl", speed="fast")).pipeline
    for part in (pipeline.unet, pipeline.vae):
        kernels = [weight for weight in part.parameters() if weight.dim() == 4 and min(weight.shape[1:]) > 1]
        assert kernels and all(one.is_contiguous(memory_format=torch.channels_last) for one in kernels)
    assert pipeline.unet.mid_block.attentions[0].transformer_blocks[0].attn1.fused_projections


def test_a_denoiser_without_repeated_blocks_is_compiled_as_a_whole(family: Family) -> None:
    network = Generator(family("pixart", speed="fast")).pipeline.transformer
    assert [module for module in network.modules() if module._compiled_call_impl is not None] == [network]


def test_a_pipeline_without_a_denoiser_is_an_error(family: Family) -> None:
    with pytest.raises(UserError, match="a str has no single denoiser to accelerate; use speed=exact"):
        acceleration.accelerate("no pipeline", family("sd", speed="fast"), "cpu")


def test_max_without_torchao_is_an_error_with_the_cure(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceleration.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"max needs torchao; run `pip install -e .*\[fast\]'?`, or use"):
        Generator(family("flux", speed="max"))


@torchao
@pytest.mark.parametrize("name", ["sd", "sdxl", "sd3", "flux", "pixart", "sana"])
def test_max_multiplies_large_layers_in_int8(family: Family, name: str) -> None:
    generator = Generator(family(name, speed="max"))
    network = denoiser(generator.pipeline)
    assert network is not None
    kinds = {key: type(weight.data).__name__ for key, weight in network.named_parameters()}
    quantised = {key for key, kind in kinds.items() if "Int8" in kind}
    assert quantised and all("attn" in key or "ff" in key or "mlp" in key or "proj_out" in key for key in quantised)
    assert not any("norm" in key or "emb" in key for key in quantised)
    first = images(generator)
    assert images(generator) == first
    assert 0 < difference(first, images(Generator(family(name)))) < 8


@pytest.mark.usefixtures("without_quantisation")
def test_a_step_cache_leaves_blocks_out_and_starts_again_with_each_batch(
    family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acceleration, "STEP_CACHE_THRESHOLD", 100.0)  # whatever changes, changes by less
    generator = Generator(family("flux", speed="max", steps=6))
    network, seen = generator.pipeline.transformer, []
    network.single_transformer_blocks[0].norm.register_forward_hook(lambda *_: seen.append(1))
    first = images(generator)
    assert len(seen) == 1, "the first step alone passes through what follows the first block"
    assert images(generator) == first
    assert len(seen) == 2
    monkeypatch.setattr(type(generator.pipeline.scheduler), "step", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        generator.generate(["another"] * 2, [3, 4])
    monkeypatch.undo()
    assert images(generator) == first


@pytest.mark.usefixtures("without_quantisation")
@pytest.mark.parametrize(
    ("name", "more", "sentence"),
    [
        ("sd", {}, "a StableDiffusionPipeline has no step cache, which is skipped"),
        ("flux", {"steps": 4, "guide": {"strength": 0.5}}, "a FluxPipeline has no step cache with a guide"),
    ],
)
def test_what_a_family_has_no_form_of_is_left_out_and_told_once(
    family: Family, name: str, more: dict[str, Any], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        Generator(family(name, speed="max", **more))
    assert capsys.readouterr().err.count(sentence) == 1


@pytest.mark.parametrize("backend", ["xformers", "flash", "sage"])
def test_an_attention_backend_is_an_error_without_a_gpu(family: Family, backend: str) -> None:
    with pytest.raises(UserError, match=f"{backend} needs an NVIDIA GPU, and this is cpu; use attention=sdpa"):
        Generator(family("sd", attention=backend))


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
        ("sd", "flash", "no flash for a StableDiffusionPipeline .*not dispatched.; use attention=sdpa"),
        ("flux", "sage", r"no sage for a FluxPipeline \(.*; use attention=sdpa"),
        ("flux", "xformers", r"no xformers for a FluxPipeline \(.*run `pip install -e .*\[gpu\]'?`, or use"),
    ],
)
def test_an_attention_backend_that_is_missing_is_one_line(
    family: Family, name: str, backend: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        acceleration.set_attention(Generator(family(name)).pipeline, backend, "cuda")


PROCESS = """
import sys, torch
from syncclip.core.trust import COMPILED, trust, trusted
from syncclip.recipe.recipe import Recipe
from syncclip.synthesis.generators.settings import GeneratorSettings
from syncclip.synthesis.generators.acceleration import MISSES, CompiledCode
from torch._dynamo.utils import counters

class Product(torch.nn.Module):  # of matrices: no kernel of its own, so no C++ compiler takes its time
    def forward(self, x):
        return x @ x

place, size = sys.argv[1], int(sys.argv[2])
trust(COMPILED + place)
code = CompiledCode(GeneratorSettings(speed="fast", compile_cache=place), "cpu", "weights")
product = Product()
product.compile(backend="inductor", dynamic=False)
with torch.inference_mode(), code.shared(size):
    product(torch.ones(size, size))
print(counters["inductor"][MISSES], counters["inductor"]["fxgraph_cache_hit"])
"""


def process(place: Path, local: Path, size: int = 3) -> tuple[list[int], str]:
    """([graphs compiled, graphs read], stderr) of a process with a local folder of its own."""
    import os

    given = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(local)}
    command = [sys.executable, "-c", PROCESS, str(place), str(size)]
    done = subprocess.run(command, env=given, capture_output=True, text=True, check=True)
    return [int(word) for word in done.stdout.split()], done.stderr


@pytest.mark.slow
def test_of_two_processes_that_share_compiled_code_the_second_compiles_nothing(tmp_path: Path) -> None:
    place = tmp_path / "shared"
    assert process(place, tmp_path / "one")[0] == [1, 0]
    (file,) = place.rglob("*.compiled")
    kept = file.read_bytes()
    assert process(place, tmp_path / "two")[0] == [0, 1]
    assert file.read_bytes() == kept, "what was read is not written again"
    assert process(place, tmp_path / "two", size=4)[0] == [1, 0]
    assert sorted(one.name for one in place.rglob("*.compiled")) == ["3.compiled", "4.compiled"]
    file.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
    counts, told = process(place, tmp_path / "three")
    assert counts == [1, 0] and "is ignored: it is damaged" in told
    assert process(place, tmp_path / "four")[0] == [0, 1], "and was written anew"


def test_foreign_code_ends_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import hashlib

    trust(f"{COMPILED}{tmp_path}")
    code = CompiledCode(GeneratorSettings(speed="fast", compile_cache=str(tmp_path)), "cpu", "weights")
    file = Path(code._folder, "2.compiled")
    file.parent.mkdir()
    file.write_bytes(hashlib.sha256(b"of others").digest() + b"of others")
    with code.shared(2):
        pass
    assert file.read_bytes().endswith(b"of others"), "nothing was compiled, so nothing is written"


def test_a_place_that_takes_nothing_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from torch._dynamo.utils import counters

    place = tmp_path / "a file"
    place.touch()
    trust(f"{COMPILED}{place}")
    code = CompiledCode(GeneratorSettings(speed="fast", compile_cache=str(place)), "cpu", "weights")
    monkeypatch.setattr(torch.compiler, "save_cache_artifacts", lambda: (b"compiled", None))
    with code.shared(2):
        counters["inductor"][acceleration.MISSES] += 1
    assert "2.compiled is not written" in capsys.readouterr().err


def test_code_is_found_by_versions_device_weights_and_settings(tmp_path: Path) -> None:
    trust(f"{COMPILED}{tmp_path}")

    def folder(weights: str = "a", **more: Any) -> str:
        return CompiledCode(
            GeneratorSettings(speed="fast", compile_cache=str(tmp_path), **more), "cpu", weights
        )._folder

    assert folder() == folder(batch_size=3)
    assert len({folder(), folder("b"), folder(dtype="fp16"), folder(steps=9, height=64)}) == 4


def test_only_a_recipe_of_ones_own_names_a_place_of_compiled_code(tmp_path: Path) -> None:
    for folder in ("own", "downloaded"):
        recipe = tmp_path / folder / "recipe.yaml"
        recipe.parent.mkdir()
        recipe.write_text(f"synthesis: {{generator: {{compile_cache: {tmp_path}/of-{folder}}}}}")
    (tmp_path / "downloaded" / "plan.json").touch()
    for folder in ("own", "downloaded"):
        Recipe.load(str(tmp_path / folder / "recipe.yaml"))
    assert f"{COMPILED}{tmp_path}/of-own" in trusted()
    assert f"{COMPILED}{tmp_path}/of-downloaded" not in trusted()


def test_a_generator_shares_what_it_compiles_only_where_the_user_says(family: Family, tmp_path: Path) -> None:
    place = str(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=f"compile_cache: '{COMPILED}{place}' is custom code"):
        Generator(family("sd", speed="fast", compile_cache=place))
    trust(COMPILED + place)
    generator = Generator(family("sd", speed="fast", compile_cache=place))
    assert images(generator) == images(Generator(family("sd", speed="fast")))
    assert generator._code is not None and generator._code._sizes == {2}
