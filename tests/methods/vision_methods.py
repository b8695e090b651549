"""How VPT, MaPLe and PromptSRC are held against the files of their published code."""

from __future__ import annotations

import torch
from torch.nn.functional import normalize

from syncclip.methods.base import Method
from syncclip.methods.promptsrc import PromptSrc, gaussian_weights
from syncclip.methods.vpt import Vpt
from syncclip.training.optimizers import learning_rate
from tests.methods import parity
from tests.methods.parity import Batch, Fixture
from tests.methods.upstream import ours


def check(fixture: Fixture) -> None:
    """All that a file holds."""
    CHECKS[fixture.info["method"]](fixture)
    parity.check_steps(fixture)


def check_vpt(fixture: Fixture) -> None:
    """Sentences, features, logits, the loss and its gradients."""
    method = parity.build(fixture)
    assert isinstance(method, Vpt)
    sentences = method.clip.texts([method.texts.templates[0].format(name) for name in method.texts.names])
    parity.check_tokens(fixture, sentences.ids)
    fixture.differs("raw", "out.text_features_raw", method.clip.encode_text(sentences))
    parity.check_forward(fixture, method)
    fixture.differs("logits", "out.logits", method.logits(fixture["in.images"]))
    total = method.loss(parity.batch_of(fixture))["total"]
    fixture.differs("loss", "loss.total", total)
    parity.check_gradients(fixture, "grad.", method, total)


def check_maple(fixture: Fixture) -> None:
    parity.check_start(fixture)
    parity.check_text_prompts(fixture)


def check_promptsrc(fixture: Fixture) -> None:
    """Also what the frozen teacher says, each term of the loss, and the aggregation."""
    parity.check_start(fixture)
    method, losses = parity.check_text_prompts(fixture)
    assert isinstance(method, PromptSrc)
    frozen, teacher = method.clip.encode_images(fixture["in.images"]), method.frozen_texts()
    fixture.differs("normalised", "out.frozen_text_features", teacher)
    fixture.differs("normalised", "out.frozen_image_features", normalize(frozen, dim=-1))
    fixture.differs("logits", "out.frozen_logits", method.scores(frozen, teacher))
    terms = {"ce": "classification", "text_l1": "text", "image_l1": "image", "kl": "logits"}
    for theirs, name in terms.items():
        fixture.differs("loss", f"loss.{theirs}", losses[name])
    check_aggregation(fixture)


def check_aggregation(fixture: Fixture) -> None:
    """A training of PromptSRC at the official rates: two batches an epoch, the prompts after each and in the end."""
    method, rate, epochs = parity.build(fixture), fixture.info["optim"]["lr"], int(fixture.config["MAX_EPOCH"])
    optimizer = torch.optim.SGD(method.parameters(), **fixture.info["optim"])
    rates = [learning_rate(rate, epoch, epochs) for epoch in range(epochs)]
    losses = []
    for epoch in range(epochs):
        optimizer.param_groups[0]["lr"] = rates[epoch]
        for half in halves(parity.batch_of(fixture)):
            loss = method.loss(half)["total"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        check_parameters(fixture, f"gpa.epoch{epoch + 1}.", method)
        method.epoch_ended(epoch + 1, epochs)
    fixture.differs("trajectory", "gpa.loss", torch.stack(losses))
    check_parameters(fixture, "gpa.final.", method)
    fixture.differs("logits", "gpa.logits", method.logits(fixture["in.images"]))
    weights = gaussian_weights(epochs, fixture.config["GPA_MEAN"], fixture.config["GPA_STD"])
    for key, values in {"gpa.lr": rates, "gpa.weights": weights}.items():
        torch.testing.assert_close(torch.tensor(values, dtype=torch.float64), fixture[key], rtol=1e-12, atol=0)


def halves(batch: Batch) -> list[Batch]:
    """A batch of real images, cut in two."""
    middle = len(batch.images) // 2
    return [
        Batch(batch.images[part], batch.labels[part], batch.domains[part], (len(batch.labels[part]), 0, 0))
        for part in (slice(middle), slice(middle, None))
    ]


def check_parameters(fixture: Fixture, prefix: str, method: Method) -> None:
    """The parameters are those that the file has under the prefix."""
    end = dict(method.named_parameters())
    for name, value in fixture.under(prefix).items():
        parity.differs("parameter", f"{fixture.name}: {prefix}{name}", end[ours(name)], value)


CHECKS = {"vpt": check_vpt, "maple": check_maple, "promptsrc": check_promptsrc}
