"""Every family of backbones, tiny and random: with and without prompts, against the model's own forward pass."""

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
from tests.clip.whole import whole_images, whole_texts
from tests.methods.classes import NOT_LEARNED
from tests.methods.parity import Batch
from tests.worlds.families import CONTEXT, Family, families, make_family_folder

SENTENCES = ["a photo of a cat.", "a golden retriever", "blue car"]
NAMES = ["cat", "golden retriever", "blue car"]

NO_VISION_PROMPTS, NO_TEXT_PROMPTS = ["resnet", "convnext"], ["coca", "roberta"]
ALL = [pytest.param(name, marks=[pytest.mark.slow] if name == "roberta" else []) for name in families()]
VISION = [name for name in families() if name not in (*NO_VISION_PROMPTS, "roberta")]
TEXT = [name for name in families() if name not in NO_TEXT_PROMPTS]
BOTH = [name for name in VISION if name in TEXT]


@pytest.fixture(scope="module")
def backbones(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Backbone]:
    return {}


@pytest.fixture
def backbone(name: str, backbones: dict[str, Backbone], tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    """One of each family for all tests."""
    if name not in backbones:
        folder = make_family_folder(tmp_path_factory.mktemp(name), families()[name])
        backbones[name] = load_backbone(BackboneSettings(name=str(folder)))
    return backbones[name]


@pytest.fixture
def family(name: str) -> Family:
    return families()[name]


@pytest.fixture
def clip(backbone: Backbone) -> PromptedClip:
    torch.manual_seed(0)
    return PromptedClip(backbone)


def images() -> Tensor:
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def equal(ours: Tensor, theirs: Tensor) -> None:
    assert theirs.std() > 1e-3, "features that are all alike would show nothing"
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", ALL)
def test_without_prompts_images_are_those_of_open_clip(clip: PromptedClip) -> None:
    equal(clip.encode_images(images()), clip.model.encode_image(images(), normalize=False))


@pytest.mark.parametrize("name", ALL)
def test_without_prompts_texts_are_those_of_open_clip(clip: PromptedClip) -> None:
    expected = clip.model.encode_text(clip.backbone.tokenizer(SENTENCES), normalize=False)
    equal(clip.encode_text(clip.texts(SENTENCES)), expected)


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("name", VISION)
def test_vision_prompts_are_tokens_of_the_models_own_pass(clip: PromptedClip, depth: int) -> None:
    prompts = [torch.randn(2, clip.vision.width) for _ in range(depth)]
    equal(clip.encode_images(images(), prompts), whole_images(clip.model, images(), prompts))


@pytest.mark.parametrize("name", VISION)
def test_each_image_may_have_vision_prompts_of_its_own(clip: PromptedClip) -> None:
    prompts = [torch.randn(3, 2, clip.vision.width) for _ in range(2)]
    apart = [clip.encode_images(images()[i : i + 1], [p[i] for p in prompts]) for i in range(3)]
    equal(clip.encode_images(images(), prompts), torch.cat(apart))


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("name", TEXT)
def test_text_prompts_are_words_of_the_models_own_pass(clip: PromptedClip, family: Family, depth: int) -> None:
    tokens = clip.text_context(NAMES, "a photo of a", 2)
    prompts = [torch.randn(2, clip.text.width) for _ in range(depth)]
    sentences = [f"a photo of a {name}." for name in NAMES]
    equal(clip.encode_text(tokens, prompts), whole_texts(clip, sentences, family.start, prompts))


@pytest.mark.parametrize("name", TEXT)
def test_a_block_may_be_left_out_before_one_with_vectors_of_each_class(clip: PromptedClip, family: Family) -> None:
    tokens = clip.text_places([f"x x {name}, a thing." for name in NAMES], 2)
    shared, own = torch.randn(2, clip.text.width), torch.randn(len(NAMES), 2, clip.text.width)
    found = clip.encode_text(tokens, [shared, None, own])
    equal(found, whole_texts(clip, [f"x x {name}, a thing." for name in NAMES], family.start, [shared, None, own]))


@pytest.mark.parametrize("name", TEXT)
def test_each_class_and_each_image_may_have_text_prompts_of_its_own(clip: PromptedClip, family: Family) -> None:
    tokens = clip.text_context(NAMES, "", 3)
    prompts = torch.randn(2, len(NAMES), 3, clip.text.width)
    apart = [
        whole_texts(clip, [f"x x x {name}."], family.start, [prompts[image, c]])
        for image in range(2)
        for c, name in enumerate(NAMES)
    ]
    equal(clip.encode_text(tokens, [prompts]), torch.cat(apart).view(2, len(NAMES), -1))


@pytest.mark.parametrize("name", TEXT)
def test_text_prompts_start_as_the_words_in_their_places(clip: PromptedClip, family: Family) -> None:
    initial = clip.text_context(NAMES, "a photo of a", 2).initial
    words = clip.backbone.tokenizer(["a photo"])[:, family.start : family.start + 2]
    embedding = getattr(clip.model, "text", clip.model).token_embedding
    assert initial is not None and torch.equal(initial, embedding(words)[0])


@pytest.mark.parametrize("position", ["middle", "front"])
@pytest.mark.parametrize("name", ["openai", "clipa", "siglip", "siglip2"])
def test_the_name_may_stand_between_or_before_the_places(clip: PromptedClip, family: Family, position: Any) -> None:
    n, before, start = 3, {"middle": 1, "front": 0}[position], family.start
    tokens = clip.text_context(NAMES, "", n, position)
    for c, name in enumerate(NAMES):
        length = int(clip.lengths([name])) - 1 - start
        ids = clip.backbone.tokenizer([f"x x x {name}."])[0].tolist()
        places, word, rest = ids[start : start + n], ids[start + n :][:length], ids[start + n + length :]
        expected = [*ids[:start], *places[:before], *word, *places[before:], *rest]
        assert tokens.ids[c].tolist() == expected[: tokens.ids.shape[1]]
        behind = start + before + length
        free = [*range(start, start + before), *range(behind, behind + n - before)]
        assert tokens.slots[c].tolist() == free


@pytest.mark.parametrize("name", ["clipa", "siglip", "siglip2", "mobileclip"])
def test_a_tower_that_sees_its_padding_gets_the_whole_context(clip: PromptedClip) -> None:
    tokens = clip.text_context(["cat", "car"], "a photo of a", 2)
    assert tokens.ids.shape[1] == CONTEXT
    assert tokens.shared == 0
    assert clip.lengths(["a cat"]).item() < CONTEXT


@pytest.mark.parametrize("name", TEXT)
def test_a_text_longer_than_the_context_is_refused(clip: PromptedClip) -> None:
    with pytest.raises(TextTooLongError, match=f"'a cat a cat .* does not fit the {CONTEXT} tokens"):
        clip.texts(["a cat " * 8])


@pytest.mark.parametrize("name", BOTH)
def test_gradients_reach_prompts_and_never_weights(clip: PromptedClip) -> None:
    tokens = clip.text_context(NAMES, "a photo of a", 2)
    text = [torch.randn(2, clip.text.width, requires_grad=True) for _ in range(3)]
    vision = [torch.randn(2, clip.vision.width, requires_grad=True) for _ in range(3)]
    (clip.encode_images(images(), vision) @ clip.encode_text(tokens, text).T).square().sum().backward()
    assert all(prompt.grad is not None and prompt.grad.any() for prompt in text + vision)
    assert not any(weight.requires_grad or weight.grad is not None for weight in clip.parameters())


@pytest.mark.parametrize("name", VISION)
def test_computing_activations_twice_changes_no_gradient(backbone: Backbone, clip: PromptedClip) -> None:
    gradients = []
    start = torch.randn(3, 2, clip.vision.width)
    for twice in (False, True):
        prompts = start.clone().requires_grad_()
        once_more = PromptedClip(replace(backbone, checkpoint_activations=twice))
        once_more.encode_images(images(), list(prompts)).square().sum().backward()
        gradients.append(prompts.grad)
    assert torch.equal(gradients[0], gradients[1])


@pytest.mark.parametrize("name", BOTH)
def test_bf16_stays_near_and_hands_out_float32(backbone: Backbone, clip: PromptedClip) -> None:
    half = PromptedClip(replace(backbone, precision="bf16"))
    tokens = clip.text_context(NAMES, "a photo of a", 2)
    words, patches = [torch.randn(2, clip.text.width)], [torch.randn(2, clip.vision.width)]
    for low, full in [
        (half.encode_images(images(), patches), clip.encode_images(images(), patches)),
        (half.encode_text(tokens, words), clip.encode_text(tokens, words)),
    ]:
        assert low.dtype == torch.float32
        assert not torch.equal(low, full)
        assert torch.nn.functional.cosine_similarity(low, full).min() > 0.999


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("name", BOTH)
def test_a_gpu_gives_the_features_of_a_cpu(backbone: Backbone, clip: PromptedClip, precision: Any) -> None:
    there = PromptedClip(replace(backbone, model=deepcopy(backbone.model), precision=precision)).to("cuda")
    tokens = [one.text_context(NAMES, "a photo of a", 2) for one in (clip, there)]
    words, patches = [torch.randn(2, clip.text.width)], [torch.randn(2, clip.vision.width)]
    with torch.no_grad():
        for found, expected in [
            (there.encode_images(images().cuda(), [patches[0].cuda()]), clip.encode_images(images(), patches)),
            (there.encode_text(tokens[1], [words[0].cuda()]), clip.encode_text(tokens[0], words)),
        ]:
            assert found.dtype == torch.float32
            near = torch.nn.functional.cosine_similarity(found.cpu(), expected).min()
            assert near > (0.99999 if precision == "fp32" else 0.999)


@pytest.mark.parametrize("name", ["siglip", "openai"])
def test_scores_are_the_models_own_logits_with_scale_and_bias(clip: PromptedClip) -> None:
    method = ZeroShot(clip, NAMES, 2, "a photo of a {}.", ZeroShot.Settings())
    texts = clip.backbone.tokenizer([f"a photo of a {name}." for name in NAMES])
    equal(method.logits(images()), clip.model.get_logits(images(), texts)[0])
    assert (clip.logit_bias is None) == (clip.model.logit_bias is None)


@pytest.mark.parametrize("name", ["siglip", "clipa", "eva02", "coca"])
def test_a_method_that_needs_a_class_token_and_causal_texts_is_refused_in_one_sentence(clip: PromptedClip) -> None:
    with pytest.raises(UserError, match=r"^backbone\.name: .*; use a .*model") as caught:
        Mmrl(clip, NAMES, 2, "a photo of a {}.", Mmrl.Settings())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("method", ["cliplora", "twostage", "mma"])
@pytest.mark.parametrize("name", ["siglip", "eva02"])
def test_parts_that_do_not_fit_a_tower_are_refused_before_a_training(clip: PromptedClip, method: str) -> None:
    kind = METHODS[method]
    with pytest.raises(UserError, match="requires open_clip's own"):
        kind(clip, [*NAMES, "a car"], 2, "a photo of a {}.", kind.Settings())


FITTING = [
    (name, method)
    for name in ("siglip", "clipa", "eva02")
    for method, kind in METHODS.items()
    if kind.Settings.data and method != "mmrl" and (name == "clipa" or method not in ("cliplora", "twostage", "mma"))
]
"""What is not refused; see above."""


@pytest.mark.parametrize(("name", "method"), FITTING)
def test_every_method_learns_all_it_has_to_learn(clip: PromptedClip, method: str) -> None:
    kind = METHODS[method]
    learner = kind(clip, [*NAMES, "a car"], 2, "a photo of a {}.", kind.Settings())
    shown = Batch(
        images(), torch.tensor([1, 1, 3]), torch.tensor([0, 1, 1]), (1, 1, 1), torch.rand(3, 4).softmax(dim=1)
    )
    learner.step_begins(0, 2)
    learner.meet_teacher(torch.randn(learner.text_features().shape))
    if learner.prepares:
        learner.prepare([[shown]])
    learned = {name: weight for name, weight in learner.named_parameters() if name not in NOT_LEARNED}
    with torch.no_grad():
        for weight in learned.values():
            weight += 0.1 * torch.rand_like(weight)  # half of what CLIP-LoRA learns waits for the other half to move
    learner.loss(shown)["total"].backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in learned.values())


@pytest.mark.parametrize(
    ("model", "text", "vision"),
    [
        ("ViT-B-16-quickgelu", True, True),
        ("ViT-H-14-worldwide", True, True),
        ("ViT-L-14-CLIPA", True, True),
        ("ViT-SO400M-14-SigLIP", True, True),
        ("ViT-gopt-16-SigLIP2-256", True, True),
        ("EVA01-g-14", True, True),
        ("EVA02-E-14-plus", True, True),
        ("PE-Core-bigG-14-448", True, True),
        ("ViTamin-XL-384", True, True),
        ("MobileCLIP-B", True, True),
        ("MobileCLIP2-S0", True, False),
        ("convnext_xxlarge", True, False),
        ("RN50x64-quickgelu", True, False),
    ],
)
def test_towers_are_known_by_open_clips_own_configs(model: str, text: bool, vision: bool) -> None:
    config = open_clip.get_model_config(model)
    kind = open_clip.CustomTextCLIP if config.pop("custom_text", False) else open_clip.CLIP
    with torch.device("meta"):  # of the full size, without memory
        clip = kind(**config)
    assert (text_tower(clip) is not None, vision_tower(clip) is not None) == (text, vision)


@pytest.mark.parametrize("name", NO_VISION_PROMPTS)
def test_a_tower_without_tokens_is_refused_in_one_sentence(clip: PromptedClip) -> None:
    with pytest.raises(UserError, match="is not a plain vision transformer .*it cannot take prompts; use") as caught:
        clip.encode_images(images(), [torch.zeros(2, 8)])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["coca", pytest.param("roberta", marks=pytest.mark.slow)])
def test_a_text_tower_of_another_kind_is_refused_in_one_sentence(clip: PromptedClip) -> None:
    with pytest.raises(UserError, match="is not a plain CLIP transformer, so it cannot take prompts; use") as caught:
        clip.text_context(NAMES, "a photo of a", 2)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("tag", "activation"), [("openai", open_clip.transformer.QuickGELU), ("laion", nn.GELU)])
@pytest.mark.parametrize("name", ["laion"])
def test_weights_bring_the_activation_they_were_made_with(
    backbone: Backbone, tag: str, activation: type[nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenAI's weights named with a model whose config has GELU: open_clip only warns, and would use GELU."""
    folder = Path(backbone.name)
    config = open_clip.get_model_config(f"local-dir:{folder}")
    config["text_cfg"].pop("hf_tokenizer_name")
    weights = {"file": str(folder / "open_clip_model.safetensors"), "quick_gelu": tag == "openai"}
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny", config)
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny", {tag: weights})
    model: Any = load_backbone(BackboneSettings(name="tiny", pretrained=tag)).model
    for tower in (model, model.visual):
        assert all(type(block.mlp.gelu) is activation for block in tower.transformer.resblocks)
