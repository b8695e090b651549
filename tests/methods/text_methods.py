"""How the methods that learn only words are held against the published numbers."""

from __future__ import annotations

import torch
from torch.nn.functional import normalize

from syncclip.methods.cocoop import CoCoOp
from syncclip.methods.kgcoop import KgCoOp
from tests.methods import parity
from tests.methods.parity import Fixture


def coop_variants() -> list[Fixture]:
    """CoOp's file as one fixture a variant: those of its tensors that all share, and its own."""
    found = []
    for name in parity.names("coop"):
        whole = parity.load(name)
        shared = {key: value for key, value in whole.tensors.items() if key.split(".")[0] not in whole.config}
        for variant, config in whole.config.items():
            tensors = {**shared, **whole.under(f"{variant}.")}
            found.append(Fixture(f"{name}.{variant}", tensors, {**whole.info, "config": config}))
    return found


def check_start(fixture: Fixture) -> None:
    """The texts, as the file has them, with the names still behind the context; and what the context starts as."""
    config = {key: "end" if key == "CLASS_TOKEN_POSITION" else value for key, value in fixture.config.items()}
    parity.check_start(Fixture(fixture.name, fixture.tensors, {**fixture.info, "config": config}))


def check_coop(fixture: Fixture) -> None:
    parity.check_text_prompts(fixture)


def check_kgcoop(fixture: Fixture) -> None:
    method, losses = parity.check_text_prompts(fixture)
    assert isinstance(method, KgCoOp)
    fixture.differs("loss", "loss.ce", losses["classification"])
    fixture.differs("loss", "loss.kg", losses["knowledge"])
    fixture.differs("normalised", "out.template_text_features", method.frozen_texts())


def check_cocoop(fixture: Fixture) -> None:
    method, images = parity.build(fixture), fixture["in.images"]
    assert isinstance(method, CoCoOp)
    raw = method.image_features(images)
    fixture.differs("raw", "out.image_features_raw", raw)
    fixture.differs("normalised", "out.image_features", normalize(raw, dim=-1))
    contexts = method.contexts(raw)
    text = method.clip.encode_text(method.tokens, [contexts[:, None]])
    fixture.differs("raw", "out.text_features_raw", text)
    text = method.conditional_features(contexts, slice(len(fixture.classnames)))
    fixture.differs("normalised", "out.text_features", text)
    fixture.differs("logits", "out.logits", method.logits(images))
    total = method.loss(parity.batch_of(fixture))["total"]
    fixture.differs("loss", "loss.total", total)
    parity.check_gradients(fixture, "grad.", method, total)


def check_template(fixture: Fixture) -> None:
    """The token ids of the hand-written sentences."""
    template = fixture.config["template"]
    sentences = [template.format(name.replace("_", " ")) for name in fixture.classnames]
    ids, theirs = parity.tiny_clip().texts(sentences).ids, fixture["in.tokenized_template"]
    parity.differs("exact", "template's token ids", ids, theirs[:, : ids.shape[1]])
    assert not torch.any(theirs[:, ids.shape[1] :])
