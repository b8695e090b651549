"""TCP against its authors' numbers, see `variants.py`, and what its vectors may do."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy, normalize

from benchmarks.plain_weights import PlainTcp
from syncclip.clip.prompt_text import fill, readable_name
from syncclip.clip.prompted import PromptedClip
from syncclip.core.settings import UserError
from syncclip.methods import build_method
from syncclip.methods.settings import TcpSettings
from syncclip.methods.tcp import Tcp, checked_block, suffix_of
from syncclip.training.optimizers import learning_rate
from tests.methods import parity
from tests.methods.classes import DATASET, Classes, batch
from tests.methods.variants import Variant, variants_of

LIMITS = (2e-5, 2e-7)


def ours(theirs: str) -> str:
    """Our name of a parameter."""
    theirs = theirs.removeprefix("prompt_learner.")
    return "text_prompts.0" if theirs == "ctx" else theirs


def settings(variant: Variant) -> TcpSettings:
    """Theirs; the vectors stand in place of the first words of the placeholder sentence."""
    told, width = variant.settings, variant["param.prompt_learner.ctx"].shape[1]
    own = len(variant["param.prompt_learner.meta_net.linear2.bias"]) // width
    words, places = told["placeholder"].split(" "), max(told["N_CTX"], own)
    covered, behind = words[: told["N_CTX"]], words[places:]
    return TcpSettings(
        learning_rate=told["lr"],
        text_tokens=told["N_CTX"],
        class_tokens=own,
        block=told["insert_before_block"] + 1,
        initial_words="" if set(covered) == {"X"} else " ".join(covered),
        suffix=" ".join(behind),
        knowledge_weight=told["W_KG"],
        template=told["template"],
    )


def build(variant: Variant) -> Tcp:
    method = Tcp(parity.tiny_clip(), variant.classnames, variant.base, "", settings(variant))
    method.load_state_dict(variant.under("param.", ours))
    return method


def check(variant: Variant) -> None:
    """Features, class prompts, logits, losses and gradients of one batch, and five steps."""
    method, images, base = build(variant), variant["in.images"], variant.base
    raw, text = method.image_features(images), method.text_features()
    variant.differs("raw", "out.image_features_raw", raw)
    variant.differs("normalised", "out.image_features", normalize(raw, dim=-1))
    variant.differs("normalised", "out.template_text_features_base", method.frozen_texts()[:base])
    variant.differs("raw", "out.class_prompts_base", method.class_prompts(slice(base)))
    raw = method.clip.encode_text(method.tokens[:base], method.prompts(slice(base)))
    variant.differs("raw", "out.text_features_raw_base", raw)
    variant.differs("normalised", "out.text_features_base", text[:base])
    logits = method.logits(images)
    variant.differs("logits", "out.logits_train", logits[:, :base])
    variant.differs("logits", "out.eval_logits_base", logits[:, :base])
    variant.differs("logits", "out.eval_logits_novel", logits[:, base:])
    losses = method.loss(variant.batch())
    for theirs, mine in {"ce": "classification", "kg": "knowledge", "total": "total"}.items():
        variant.differs("loss", f"loss.{theirs}", losses[mine])
    variant.check_gradients(method, losses["total"], ours)
    assert sorted(variant.under("grad.", ours)) == sorted(name for name, _ in method.named_parameters())
    variant.check_course(method, method.settings.optimisation, ours, LIMITS)


@pytest.mark.parametrize("name", variants_of("tcp"))
def test_parity_of_features_logits_losses_gradients_and_steps(name: str) -> None:
    check(Variant("tcp", name))


@pytest.mark.parametrize("name", variants_of("tcp"))
def test_parity_of_the_sentences(name: str) -> None:
    variant = Variant("tcp", name)
    hand_written = fill(variant.settings["template"], map(readable_name, variant.classnames))
    found = {
        "in.tokenized_prompts": build(variant).tokens,
        "in.tokenized_template": parity.tiny_clip().texts(hand_written),
    }
    for key, texts in found.items():
        parity.differs("exact", "token ids", texts.ids, variant[key][:, : texts.ids.shape[1]])
        assert not variant[key][:, texts.ids.shape[1] :].any()


@pytest.mark.parametrize("name", variants_of("tcp"))
def test_parity_of_the_optimiser_and_of_its_first_step(name: str) -> None:
    """The file has no schedule; its settings tell the epochs, and the fifty of the paper begin with a warm-up."""
    variant = Variant("tcp", name)
    variant.check_optimisation(TcpSettings())
    told = variant.settings
    assert learning_rate(told["lr"], 0, told["MAX_EPOCH"], told["WARMUP_EPOCH"]) == 1e-5
    assert learning_rate(told["lr"], told["WARMUP_EPOCH"], told["MAX_EPOCH"], told["WARMUP_EPOCH"]) == told["lr"]


@pytest.mark.parametrize("sizes", [(4, 0, 0), (0, 4, 4), (4, 4, 4)])
def test_the_candidates_of_a_batch_are_those_of_both_terms(clip: PromptedClip, sizes: tuple[int, int, int]) -> None:
    method = build_method("tcp", clip, DATASET, TcpSettings(knowledge_weight=3))
    given, candidates = batch(*sizes), 3 if sizes == (4, 0, 0) else 5
    losses, text = method.loss(given), method.text_features()[:candidates]
    expected = cross_entropy(method.scores(method.image_features(given.images), text), given.labels)
    torch.testing.assert_close(losses["classification"], expected)
    frozen = build_method("zeroshot", clip, DATASET).text_features()[:candidates]
    torch.testing.assert_close(losses["knowledge"], 1 - (text * frozen).sum(dim=1).mean())
    torch.testing.assert_close(losses["total"], expected + 3 * losses["knowledge"])


def test_each_class_has_vectors_of_its_hand_written_sentence(clip: PromptedClip) -> None:
    one, other = (
        build_method("tcp", clip, DATASET, TcpSettings(template=t), seed=1) for t in ("a {}.", "the {} here.")
    )
    assert isinstance(one, Tcp) and isinstance(other, Tcp)
    assert one.class_prompts().shape == (5, 4, clip.text.width)
    assert not torch.allclose(one.class_prompts()[0], one.class_prompts()[1])
    assert not torch.allclose(one.class_prompts(), other.class_prompts())
    torch.testing.assert_close(one.class_prompts(slice(3, 5)), one.class_prompts()[3:])


@pytest.mark.parametrize(("shared", "own"), [(2, 4), (4, 2)])
def test_a_class_may_have_more_or_fewer_vectors_than_all_share(clip: PromptedClip, shared: int, own: int) -> None:
    method = build_method("tcp", clip, DATASET, TcpSettings(text_tokens=shared, class_tokens=own))
    assert isinstance(method, Tcp)
    assert method.text_prompts[0].shape[0] == shared and method.class_prompts().shape[1] == own
    torch.testing.assert_close(method.text_features(), PlainTcp(method).text_features(), rtol=0, atol=1e-5)
    method.loss(batch())["total"].backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in method.parameters())


def test_a_phrase_is_what_the_shared_vectors_start_as(clip: PromptedClip) -> None:
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
def test_the_sentence_ends_as_the_template_does(clip: PromptedClip, template: str, suffix: str) -> None:
    assert suffix_of(template) == suffix
    method = build_method("tcp", clip, Classes(template=template))
    expected = clip.texts(fill(f"X X X X {suffix}", Classes().classnames))
    assert torch.equal(method.tokens.ids, expected.ids)


def test_words_may_stand_between_the_vectors_and_the_name(clip: PromptedClip) -> None:
    method = build_method("tcp", clip, DATASET, TcpSettings(suffix="one {a}."))
    assert torch.equal(method.tokens.ids[2], clip.texts(["X X X X one a sun.", "X X X X one a blue car."]).ids[0])


def test_the_block_is_the_published_one_or_the_last_of_a_short_tower() -> None:
    assert (checked_block(None, 12), checked_block(None, 24), checked_block(None, 3)) == (9, 9, 3)
    assert checked_block(2, 3) == 2


@pytest.mark.parametrize(("block", "layers"), [(4, 3), (None, 1)])
def test_a_block_that_is_not_there_is_refused_in_one_sentence(block: int | None, layers: int) -> None:
    with pytest.raises(UserError, match=r"methods\.tcp\.block: there is no block"):
        checked_block(block, layers)
    with pytest.raises(ValueError, match="greater than or equal to 2"):
        TcpSettings(block=1)


def test_only_context_and_network_are_learned(clip: PromptedClip) -> None:
    method = build_method("tcp", clip, DATASET)
    layers = [f"meta_net.linear{layer}.{kind}" for layer in (1, 2) for kind in ("bias", "weight")]
    assert sorted(method.state_dict()) == [*layers, "text_prompts.0"]
