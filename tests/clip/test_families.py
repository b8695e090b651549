"""Tiny random backbones of each family, with and without prompts, compared with their own forward pass."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from torch import Tensor, nn

from syncclip.clip.backbone import Backbone, BackboneSettings, load_backbone
from syncclip.clip.prompted import PromptedClip
from syncclip.clip.text_tower import text_tower
from syncclip.clip.tokens import TextTooLongError
from syncclip.clip.vision_tower import vision_tower
from syncclip.core.settings import UserError
from syncclip.methods import METHODS
from syncclip.methods.mmrl import Mmrl
from syncclip.methods.zeroshot import ZeroShot
from tests.clip.reference import reference_images, reference_texts
from tests.methods.classes import NOT_LEARNED
from tests.methods.parity import Batch
from tests.worlds.families import CONTEXT, families

SENTENCES = ["a photo of a cat.", "a golden retriever", "blue car"]
NAMES = ["cat", "golden retriever", "blue car"]

ROBERTA = pytest.param("roberta", marks=pytest.mark.slow)
ALL = [ROBERTA if name == "roberta" else name for name in families()]
VISION = [name for name in families() if name not in ("resnet", "convnext", "roberta")]
TEXT = [name for name in families() if name not in ("coca", "roberta")]
BOTH = [name for name in VISION if name in TEXT]


@pytest.fixture
def start(name: str) -> int:
    """Number of tokens before the words."""
    return families()[name].start


def images() -> Tensor:
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def check_equal(actual: Tensor, expected: Tensor) -> None:
    assert expected.std() > 1e-3, "equal features would prove nothing"
    torch.testing.assert_close(actual, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", ALL)
def test_features_without_prompts_match_open_clip(clip: PromptedClip) -> None:
    check_equal(clip.encode_images(images()), clip.model.encode_image(images(), normalize=False))
    expected = clip.model.encode_text(clip.backbone.tokenizer(SENTENCES), normalize=False)
    check_equal(clip.encode_text(clip.texts(SENTENCES)), expected)


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("name", VISION)
def test_vision_prompts_match_the_reference(clip: PromptedClip, depth: int) -> None:
    prompts = [torch.randn(2, clip.vision.width) for _ in range(depth)]
    check_equal(clip.encode_images(images(), prompts), reference_images(clip.model, images(), prompts))


@pytest.mark.parametrize("name", VISION)
def test_vision_prompts_may_differ_between_images(clip: PromptedClip) -> None:
    prompts = [torch.randn(3, 2, clip.vision.width) for _ in range(2)]
    separate = [clip.encode_images(images()[i : i + 1], [vectors[i] for vectors in prompts]) for i in range(3)]
    check_equal(clip.encode_images(images(), prompts), torch.cat(separate))


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("name", TEXT)
def test_text_prompts_match_the_reference(clip: PromptedClip, start: int, depth: int) -> None:
    tokens = clip.text_context(NAMES, "a photo of a", 2)
    prompts = [torch.randn(2, clip.text.width) for _ in range(depth)]
    sentences = [f"a photo of a {name}." for name in NAMES]
    check_equal(clip.encode_text(tokens, prompts), reference_texts(clip, sentences, start, prompts))


@pytest.mark.parametrize("name", TEXT)
def test_class_specific_prompts_after_a_block_without_prompts(clip: PromptedClip, start: int) -> None:
    sentences = [f"x x {name}, a thing." for name in NAMES]
    prompts = [torch.randn(2, clip.text.width), None, torch.randn(len(NAMES), 2, clip.text.width)]
    actual = clip.encode_text(clip.text_places(sentences, 2), prompts)
    check_equal(actual, reference_texts(clip, sentences, start, prompts))


@pytest.mark.parametrize("name", TEXT)
def test_text_prompts_may_differ_between_classes_and_images(clip: PromptedClip, start: int) -> None:
    prompts = torch.randn(2, len(NAMES), 3, clip.text.width)
    separate = [
        reference_texts(clip, [f"x x x {name}."], start, [by_class[c]])
        for by_class in prompts
        for c, name in enumerate(NAMES)
    ]
    actual = clip.encode_text(clip.text_context(NAMES, "", 3), [prompts])
    check_equal(actual, torch.cat(separate).view(2, len(NAMES), -1))


@pytest.mark.parametrize("name", TEXT)
def test_initial_vectors_are_the_embeddings_of_the_words(clip: PromptedClip, start: int) -> None:
    initial = clip.text_context(NAMES, "a photo of a", 2).initial
    words = clip.backbone.tokenizer(["a photo"])[:, start : start + 2]
    embedding = getattr(clip.model, "text", clip.model).token_embedding
    assert initial is not None and torch.equal(initial, embedding(words)[0])


@pytest.mark.parametrize("position", ["middle", "front"])
@pytest.mark.parametrize("name", ["openai", "clipa", "siglip", "siglip2"])
def test_the_name_is_placed_between_or_before_the_slots(clip: PromptedClip, start: int, position: Any) -> None:
    n, before = 3, {"middle": 1, "front": 0}[position]
    tokens = clip.text_context(NAMES, "", n, position)
    for c, name in enumerate(NAMES):
        length = int(clip.lengths([name])) - 1 - start
        ids = clip.backbone.tokenizer([f"x x x {name}."])[0].tolist()
        slots, word, rest = ids[start : start + n], ids[start + n :][:length], ids[start + n + length :]
        expected = [*ids[:start], *slots[:before], *word, *slots[before:], *rest]
        assert tokens.ids[c].tolist() == expected[: tokens.ids.shape[1]]
        after = start + before + length
        assert tokens.slots[c].tolist() == [*range(start, start + before), *range(after, after + n - before)]


@pytest.mark.parametrize("name", ["clipa", "siglip", "siglip2", "mobileclip"])
def test_texts_of_a_non_causal_tower_have_the_full_context(clip: PromptedClip) -> None:
    tokens = clip.text_context(["cat", "car"], "a photo of a", 2)
    assert tokens.ids.shape[1] == CONTEXT
    assert tokens.shared == 0
    assert clip.lengths(["a cat"]).item() < CONTEXT


@pytest.mark.parametrize("name", TEXT)
def test_a_text_longer_than_the_context_is_an_error(clip: PromptedClip) -> None:
    with pytest.raises(TextTooLongError, match=f"'a cat a cat .* exceeds the CLIP context length of {CONTEXT} tokens"):
        clip.texts(["a cat " * 8])


@pytest.mark.parametrize("name", BOTH)
def test_only_prompts_receive_gradients(clip: PromptedClip) -> None:
    tokens = clip.text_context(NAMES, "a photo of a", 2)
    text = [torch.randn(2, clip.text.width, requires_grad=True) for _ in range(3)]
    vision = [torch.randn(2, clip.vision.width, requires_grad=True) for _ in range(3)]
    (clip.encode_images(images(), vision) @ clip.encode_text(tokens, text).T).square().sum().backward()
    assert all(prompt.grad is not None and prompt.grad.any() for prompt in text + vision)
    assert not any(weight.requires_grad or weight.grad is not None for weight in clip.parameters())


@pytest.mark.parametrize("name", VISION)
def test_activation_checkpointing_keeps_the_gradients(backbone: Backbone, clip: PromptedClip) -> None:
    gradients, initial = [], torch.randn(3, 2, clip.vision.width)
    for checkpointed in (False, True):
        prompts = initial.clone().requires_grad_()
        checkpointing = PromptedClip(replace(backbone, checkpoint_activations=checkpointed))
        checkpointing.encode_images(images(), list(prompts)).square().sum().backward()
        gradients.append(prompts.grad)
    assert torch.equal(gradients[0], gradients[1])


@pytest.mark.parametrize("name", BOTH)
def test_bf16_features_are_float32_and_close(backbone: Backbone, clip: PromptedClip) -> None:
    half = PromptedClip(replace(backbone, precision="bf16"))
    tokens = clip.text_context(NAMES, "a photo of a", 2)
    words, patches = [torch.randn(2, clip.text.width)], [torch.randn(2, clip.vision.width)]
    for actual, expected in [
        (half.encode_images(images(), patches), clip.encode_images(images(), patches)),
        (half.encode_text(tokens, words), clip.encode_text(tokens, words)),
    ]:
        assert actual.dtype == torch.float32
        assert not torch.equal(actual, expected)
        assert torch.nn.functional.cosine_similarity(actual, expected).min() > 0.999


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("name", BOTH)
def test_features_on_a_gpu_match_those_on_a_cpu(backbone: Backbone, clip: PromptedClip, precision: Any) -> None:
    gpu = PromptedClip(replace(backbone, model=deepcopy(backbone.model), precision=precision)).to("cuda")
    tokens, gpu_tokens = (each.text_context(NAMES, "a photo of a", 2) for each in (clip, gpu))
    words, patches = [torch.randn(2, clip.text.width)], [torch.randn(2, clip.vision.width)]
    with torch.no_grad():
        for actual, expected in [
            (gpu.encode_images(images().cuda(), [patches[0].cuda()]), clip.encode_images(images(), patches)),
            (gpu.encode_text(gpu_tokens, [words[0].cuda()]), clip.encode_text(tokens, words)),
        ]:
            assert actual.dtype == torch.float32
            similarity = torch.nn.functional.cosine_similarity(actual.cpu(), expected).min()
            assert similarity > (0.99999 if precision == "fp32" else 0.999)


@pytest.mark.parametrize("name", ["siglip", "openai"])
def test_logits_include_the_models_scale_and_bias(clip: PromptedClip) -> None:
    method = ZeroShot(clip, NAMES, 2, "a photo of a {}.", ZeroShot.Settings())
    texts = clip.backbone.tokenizer([f"a photo of a {name}." for name in NAMES])
    check_equal(method.logits(images()), clip.model.get_logits(images(), texts)[0])
    assert (clip.logit_bias is None) == (clip.model.logit_bias is None)


@pytest.mark.parametrize("name", ["siglip", "clipa", "eva02", "coca"])
def test_mmrl_requires_a_class_token_and_causal_texts(clip: PromptedClip) -> None:
    with pytest.raises(UserError, match=r"^backbone\.name: .*; use a .*model"):
        Mmrl(clip, NAMES, 2, "a photo of a {}.", Mmrl.Settings())


@pytest.mark.parametrize("method", ["cliplora", "twostage", "mma"])
@pytest.mark.parametrize("name", ["siglip", "eva02"])
def test_methods_that_adapt_weights_require_towers_of_open_clip(clip: PromptedClip, method: str) -> None:
    cls = METHODS[method]
    with pytest.raises(UserError, match="requires open_clip's own"):
        cls(clip, [*NAMES, "a car"], 2, "a photo of a {}.", cls.Settings())


SUPPORTED = [
    (name, method)
    for name in ("siglip", "clipa", "eva02")
    for method, cls in METHODS.items()
    if cls.Settings.data and method != "mmrl" and (name == "clipa" or method not in ("cliplora", "twostage", "mma"))
]


@pytest.mark.parametrize(("name", "method"), SUPPORTED)
def test_each_learned_parameter_receives_a_gradient(clip: PromptedClip, method: str) -> None:
    cls = METHODS[method]
    learner = cls(clip, [*NAMES, "a car"], 2, "a photo of a {}.", cls.Settings())
    labels, domains = torch.tensor([1, 1, 3]), torch.tensor([0, 1, 1])
    batch = Batch(images(), labels, domains, (1, 1, 1), torch.rand(3, 4).softmax(dim=1))
    learner.step_begins(0, 2)
    learner.meet_teacher(torch.randn(learner.text_features().shape))
    if learner.prepares:
        learner.prepare([[batch]])
    learned = {name: weight for name, weight in learner.named_parameters() if name not in NOT_LEARNED}
    with torch.no_grad():
        for weight in learned.values():
            weight += 0.1 * torch.rand_like(weight)  # one factor of CLIP-LoRA is initialised with zeros
    learner.loss(batch)["total"].backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in learned.values())


@pytest.mark.parametrize(
    ("model", "vision"),
    [
        ("ViT-B-16-quickgelu", True),
        ("ViT-H-14-worldwide", True),
        ("ViT-L-14-CLIPA", True),
        ("ViT-SO400M-14-SigLIP", True),
        ("ViT-gopt-16-SigLIP2-256", True),
        ("EVA01-g-14", True),
        ("EVA02-E-14-plus", True),
        ("PE-Core-bigG-14-448", True),
        ("ViTamin-XL-384", True),
        ("MobileCLIP-B", True),
        ("MobileCLIP2-S0", False),
        ("convnext_xxlarge", False),
        ("RN50x64-quickgelu", False),
    ],
)
def test_published_models_are_recognised(model: str, vision: bool) -> None:
    config = open_clip.get_model_config(model)
    cls = open_clip.CustomTextCLIP if config.pop("custom_text", False) else open_clip.CLIP
    with torch.device("meta"):  # full size without memory
        clip = cls(**config)
    assert text_tower(clip) is not None and (vision_tower(clip) is not None) == vision


@pytest.mark.parametrize("name", ["resnet", "convnext"])
def test_vision_prompts_require_a_vision_transformer(clip: PromptedClip) -> None:
    with pytest.raises(UserError, match="not support prompts, because it is not a plain vision transformer .*; use"):
        clip.encode_images(images(), [torch.zeros(2, 8)])


@pytest.mark.parametrize("name", ["coca", ROBERTA])
def test_text_prompts_require_a_clip_text_transformer(clip: PromptedClip) -> None:
    with pytest.raises(UserError, match="does not support prompts, because it is not a plain CLIP transformer; use"):
        clip.text_context(NAMES, "a photo of a", 2)


@pytest.mark.parametrize(("tag", "activation"), [("openai", open_clip.transformer.QuickGELU), ("laion", nn.GELU)])
@pytest.mark.parametrize("name", ["laion"])
def test_the_activation_follows_the_weights(
    backbone: Backbone, tag: str, activation: type[nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    """For OpenAI's weights and a config with GELU, open_clip only warns and would use GELU."""
    folder = Path(backbone.name)
    config = open_clip.get_model_config(f"local-dir:{folder}")
    config["text_cfg"].pop("hf_tokenizer_name")
    weights = {"file": str(folder / "open_clip_model.safetensors"), "quick_gelu": tag == "openai"}
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny", config)
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny", {tag: weights})
    model: Any = load_backbone(BackboneSettings(name="tiny", pretrained=tag)).model
    for tower in (model, model.visual):
        assert all(type(block.mlp.gelu) is activation for block in tower.transformer.resblocks)
