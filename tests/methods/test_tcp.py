"""TCP: parity with the published code, and its class-specific vectors."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy, normalize

from benchmarks.plain_weights import PlainTcp
from syncclip.clip.prompt_text import fill
from syncclip.clip.prompted import PromptedClip
from syncclip.core.settings import UserError
from syncclip.core.text import readable_name
from syncclip.methods import build_method
from syncclip.methods.settings import TcpSettings
from syncclip.methods.tcp import Tcp, checked_block, suffix_of
from syncclip.training.optimizers import learning_rate
from tests.methods import parity
from tests.methods.classes import DATASET, SIZES, Classes, batch
from tests.methods.variants import Variant, variants_of

LIMITS = (2e-5, 2e-7)


def ours(theirs: str) -> str:
    """Our name of a parameter."""
    theirs = theirs.removeprefix("prompt_learner.")
    return "text_prompts.0" if theirs == "ctx" else theirs


def settings(variant: Variant) -> TcpSettings:
    """The published settings; the vectors replace the first words of a placeholder sentence."""
    published, width = variant.settings, variant["param.prompt_learner.ctx"].shape[1]
    class_tokens = len(variant["param.prompt_learner.meta_net.linear2.bias"]) // width
    words, slots = published["placeholder"].split(" "), max(published["N_CTX"], class_tokens)
    replaced = words[: published["N_CTX"]]
    return TcpSettings(
        learning_rate=published["lr"],
        text_tokens=published["N_CTX"],
        class_tokens=class_tokens,
        block=published["insert_before_block"] + 1,
        initial_words="" if set(replaced) == {"X"} else " ".join(replaced),
        suffix=" ".join(words[slots:]),
        knowledge_weight=published["W_KG"],
        template=published["template"],
    )


def build(variant: Variant) -> Tcp:
    method = Tcp(parity.tiny_clip(), variant.classnames, variant.base, "", settings(variant))
    method.load_state_dict(variant.under("param.", ours))
    return method


def check(variant: Variant) -> None:
    """Features, class prompts, logits, losses and gradients of a batch, and five steps."""
    method, images, base = build(variant), variant["in.images"], variant.base
    raw, text = method.image_features(images), method.text_features()
    variant.check_close("raw", "out.image_features_raw", raw)
    variant.check_close("normalised", "out.image_features", normalize(raw, dim=-1))
    variant.check_close("normalised", "out.template_text_features_base", method.frozen_texts()[:base])
    variant.check_close("raw", "out.class_prompts_base", method.class_prompts(slice(base)))
    raw = method.clip.encode_text(method.tokens[:base], method.prompts(slice(base)))
    variant.check_close("raw", "out.text_features_raw_base", raw)
    variant.check_close("normalised", "out.text_features_base", text[:base])
    logits = method.logits(images)
    variant.check_close("logits", "out.logits_train", logits[:, :base])
    variant.check_close("logits", "out.eval_logits_base", logits[:, :base])
    variant.check_close("logits", "out.eval_logits_novel", logits[:, base:])
    losses = method.loss(variant.batch())
    for key, term in {"ce": "classification", "kg": "knowledge", "total": "total"}.items():
        variant.check_close("loss", f"loss.{key}", losses[term])
    variant.check_gradients(method, losses["total"], ours)
    assert sorted(variant.under("grad.", ours)) == sorted(name for name, _ in method.named_parameters())
    variant.check_trajectory(method, method.settings.optimisation, ours, LIMITS)


@pytest.mark.parametrize("name", variants_of("tcp"))
def test_tcp_parity(name: str) -> None:
    variant = Variant("tcp", name)
    check(variant)
    variant.check_optimisation(TcpSettings())
    parity.check_ids(build(variant).tokens.ids, variant["in.tokenized_prompts"])
    prompts = fill(variant.settings["template"], map(readable_name, variant.classnames))
    parity.check_ids(parity.tiny_clip().texts(prompts).ids, variant["in.tokenized_template"])
    lr, epochs, warmup = (variant.settings[key] for key in ("lr", "MAX_EPOCH", "WARMUP_EPOCH"))
    assert learning_rate(lr, 0, epochs, warmup) == 1e-5  # the file has no schedule
    assert learning_rate(lr, warmup, epochs, warmup) == lr


@pytest.mark.parametrize(("sizes", "candidates"), SIZES)
def test_loss_terms(clip: PromptedClip, sizes: tuple[int, int, int], candidates: int) -> None:
    method, images = build_method("tcp", clip, DATASET, TcpSettings(knowledge_weight=3)), batch(*sizes)
    losses, text = method.loss(images), method.text_features()[:candidates]
    expected = cross_entropy(method.scores(method.image_features(images.images), text), images.labels)
    torch.testing.assert_close(losses["classification"], expected)
    frozen = build_method("zeroshot", clip, DATASET).text_features()[:candidates]
    torch.testing.assert_close(losses["knowledge"], 1 - (text * frozen).sum(dim=1).mean())
    torch.testing.assert_close(losses["total"], expected + 3 * losses["knowledge"])


def test_class_prompts_depend_on_the_class_and_its_template(clip: PromptedClip) -> None:
    first, second = (
        build_method("tcp", clip, DATASET, TcpSettings(template=template), seed=1)
        for template in ("a {}.", "the {} here.")
    )
    assert isinstance(first, Tcp) and isinstance(second, Tcp)
    assert first.class_prompts().shape == (5, 4, clip.text.width)
    assert not torch.allclose(first.class_prompts()[0], first.class_prompts()[1])
    assert not torch.allclose(first.class_prompts(), second.class_prompts())
    torch.testing.assert_close(first.class_prompts(slice(3, 5)), first.class_prompts()[3:])


@pytest.mark.parametrize(("shared", "specific"), [(2, 4), (4, 2)])
def test_numbers_of_shared_and_class_specific_vectors_may_differ(
    clip: PromptedClip, shared: int, specific: int
) -> None:
    method = build_method("tcp", clip, DATASET, TcpSettings(text_tokens=shared, class_tokens=specific))
    assert isinstance(method, Tcp)
    assert method.text_prompts[0].shape[0] == shared and method.class_prompts().shape[1] == specific
    torch.testing.assert_close(method.text_features(), PlainTcp(method).text_features(), rtol=0, atol=1e-5)
    method.loss(batch())["total"].backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in method.parameters())


def test_initial_words(clip: PromptedClip) -> None:
    method = build_method("tcp", clip, DATASET, TcpSettings(initial_words="a photo of a"))
    words = clip.text.token_embedding(clip.texts(["a photo of a"]).ids[0, 1:5])
    assert torch.equal(method.text_prompts[0], words)
    with pytest.raises(ValueError, match="text_tokens is 4"):
        TcpSettings(initial_words="a photo")


@pytest.mark.parametrize(
    ("template", "suffix"),
    [
        ("a photo of a {}, a type of pet.", "{}, a type of pet."),
        ("{} texture.", "{} texture."),
        ("a photo of {a}.", "{}."),
    ],
)
def test_suffix_is_that_of_the_template(clip: PromptedClip, template: str, suffix: str) -> None:
    assert suffix_of(template) == suffix
    method = build_method("tcp", clip, Classes(template=template))
    expected = clip.texts(fill(f"X X X X {suffix}", Classes().classnames))
    assert torch.equal(method.tokens.ids, expected.ids)


def test_suffix_may_begin_with_words(clip: PromptedClip) -> None:
    method = build_method("tcp", clip, DATASET, TcpSettings(suffix="one {a}."))
    assert torch.equal(method.tokens.ids[2], clip.texts(["X X X X one a sun.", "X X X X one a blue car."]).ids[0])


def test_block() -> None:
    assert (checked_block(None, 12), checked_block(None, 24), checked_block(None, 3)) == (9, 9, 3)
    assert checked_block(2, 3) == 2
    for block, layers in ((4, 3), (None, 1)):
        with pytest.raises(UserError, match=r"methods\.tcp\.block: block \d+ does not exist"):
            checked_block(block, layers)
    with pytest.raises(ValueError, match="greater than or equal to 2"):
        TcpSettings(block=1)
