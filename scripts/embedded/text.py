"""Retrain CLIP's text tower with a locked image tower: locked-image tuning (LiT, arXiv 2111.07991).

As on the web, most captions name a hypernym, such as "vehicle", and few name the class itself. Image features therefore
separate the classes, but their names are learned poorly, and CLIP confuses classes without real images with similar
classes. For the suite `symbols`, whose classes this tower knows by name, further text towers are trained with fewer
captions that name its classes.
"""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from syncclip.embedded.towers import write_tower

from .clip import PREPROCESS, TEMPLATES, image_features, known_families, look_at, prepare_text, text_features
from .drawings import CONCEPTS, ICONS, SYMBOLS, Suite
from .flat import flat
from .masks import Masks
from .near import near
from .resume import Average, load_state, save_state

LEVELS = {"names-0": 0.0, "names-3": 3.0, "names-6.5": 6.5, "names-25": 25.0}
"""Tag of a text tower -> mean number of captions with the class name per class of `symbols`."""
OTHERS = 8000
"""Number of images of other concepts, half of them in the style of the datasets and with camera noise."""
WEIGHTS, SEEN = "open_clip_model.safetensors", "pretraining.json"


@dataclass(frozen=True)
class Schedule:
    steps: int = 1200
    batch: int = 192
    rate: float = 1e-3
    warmup: int = 100
    named: float = 0.015  # share of captions that name the class of `icons`, about 6.5 per class
    seed: int = 0
    every: int = 200


@dataclass(frozen=True)
class Bank:
    """Image features (N, D) of the locked tower, one per drawing; `rows` are the rows of the drawings."""

    features: Tensor
    rows: np.ndarray


def make_bank(model: Any, masks: Masks) -> Bank:
    """Encode every drawing of the classes in the flat style, and `OTHERS` drawings of other concepts."""
    mean, std = (torch.tensor(PREPROCESS[key])[:, None, None] for key in ("mean", "std"))
    others = np.random.default_rng(0).permutation(np.flatnonzero(masks.concept >= masks.classes))[:OTHERS]
    parts = [
        (np.flatnonzero(masks.concept < masks.classes), False),
        (others[: OTHERS // 2], False),
        (others[OTHERS // 2 :], True),
    ]
    features, kept = [], []
    for rows, styled in parts:
        for start in range(0, len(rows), 256):
            some = rows[start : start + 256]
            # Here, all drawings may be mirrored, even those with "left" or "right" in their names.
            generator, flips = torch.Generator().manual_seed(int(some[0])), torch.ones(len(some), dtype=torch.bool)
            shapes = torch.from_numpy(masks.alpha[some])
            if styled:
                images = near(shapes, generator, flips, camera=True)
            else:
                images, _, _ = flat(shapes, look_at(1.0), generator, flips)
            with torch.no_grad():
                features.append(functional.normalize(image_features(model, (images - mean) / std, 0), dim=-1))
            kept.append(some)
    return Bank(torch.cat(features), np.concatenate(kept))


@dataclass(frozen=True)
class Naming:
    """A concept's captions: the share that contains its name, and the hypernym in the others."""

    share: float
    hypernym: str


def naming_of(suite: Suite, share: float) -> dict[str, Naming]:
    """Return the naming of a suite's classes."""
    return {name: Naming(share, word) for word, names in suite.hypernyms.items() for name in names}


def naming_of_related(naming: dict[str, Naming]) -> dict[str, Naming]:
    """Return the naming of other concepts whose names contain a word of a class, such as `arrow left`.

    Captions that name these concepts would teach the class name. Each concept follows the class that shares most words
    with it, and preferably its first word.
    """
    related = {}
    for concept in CONCEPTS["other_concepts"]:
        words = concept.split()
        shared = {
            name: (len(set(words) & set(name.split())), name.split()[0] == words[0])
            for name in sorted(naming)
            if set(words) & set(name.split())
        }
        if shared and concept not in naming:
            related[concept] = naming[max(shared, key=lambda name: shared[name])]
    return related


class Captions:
    """Sample images and captions of distinct concepts."""

    def __init__(self, masks: Masks, bank: Bank, naming: dict[str, Naming]) -> None:
        self.masks, self.bank, self.naming = masks, bank, naming
        concept = masks.concept[bank.rows]
        self.entries = [np.flatnonzero(concept == number) for number in range(len(masks.concepts))]
        self.captioned = np.array([number for number, entries in enumerate(self.entries) if len(entries)])
        self.words = sorted({rule.hypernym for rule in naming.values()})

    def draw(self, count: int, rng: np.random.Generator) -> tuple[Tensor, list[str], Tensor]:
        """Sample features (count, D), captions and subjects (count,); captions match all images of their subject."""
        entries, captions, subjects = [], [], []
        for concept in rng.choice(self.captioned, count, replace=False):
            entry, name, subject = rng.choice(self.entries[concept]), self.masks.concepts[concept], int(concept)
            rule = self.naming.get(name)
            if rule and rng.random() >= rule.share:
                name = rule.hypernym
                subject = -1 - self.words.index(name)
            elif rng.random() < 0.4:
                name = self.masks.surfaces[self.bank.rows[entry]]
            captions.append(TEMPLATES[rng.integers(len(TEMPLATES))].format(name))
            entries.append(entry)
            subjects.append(subject)
        return self.bank.features[entries], captions, torch.tensor(subjects)


def matching_loss(logits: Tensor, subjects: Tensor) -> Any:
    """Return CLIP's loss, with the target probability split equally among all captions that match an image."""
    same = (subjects[:, None] == subjects).float()
    target = same / same.sum(1, keepdim=True)
    sides = [functional.cross_entropy(part, target, label_smoothing=0.02) for part in (logits, logits.T)]
    return torch.stack(sides).mean()


def retrain(masks: Masks, clip: Path, out: Path, work: Path, schedule: Schedule) -> None:
    """Write the CLIP model in `clip` with a retrained text tower to `out`; checkpoints are in `work`."""
    masks, model = masks.of_families(known_families(masks.families)), load_locked(clip, schedule.seed)
    captions = Captions(masks, make_bank(model, masks), naming_of(ICONS, schedule.named))
    weights = train_tower(model, captions, clip, work / "text.pt", schedule)
    shutil.copytree(clip, out, ignore=shutil.ignore_patterns(WEIGHTS), dirs_exist_ok=True)
    save_file(load_file(clip / WEIGHTS) | weights, out / WEIGHTS)
    seen = json.loads((clip / SEEN).read_text())
    seen |= {"text_steps": schedule.steps, "captions_that_name_a_class": schedule.named}
    (out / SEEN).write_text(json.dumps(seen, indent=1))


def train_levels(masks: Masks, clip: Path, work: Path, schedule: Schedule) -> None:
    """Add a text tower per level of name knowledge to the CLIP model in `clip`; checkpoints are in `work`.

    All levels name the classes of `icons` as rarely as the model's own tower. The model's own tower is the highest
    level: it is trained in the same way, with the name of a `symbols` class in each of its captions.
    """
    masks = masks.of_families(known_families(masks.families))
    bank = make_bank(load_locked(clip, schedule.seed), masks)
    captions_per_concept = schedule.steps * schedule.batch / len(np.unique(masks.concept[bank.rows]))
    for tag, level in LEVELS.items():
        naming = naming_of(SYMBOLS, level / captions_per_concept)
        captions = Captions(masks, bank, naming_of(ICONS, schedule.named) | naming | naming_of_related(naming))
        weights = train_tower(load_locked(clip, schedule.seed), captions, clip, work / f"{tag}.pt", schedule)
        write_tower(weights, load_file(clip / WEIGHTS), clip / f"{tag}.safetensors")


def load_locked(clip: Path, seed: int) -> Any:
    """Return a CLIP model with the image tower in `clip`, locked, and a new text tower."""
    torch.manual_seed(seed)
    image_tower = {name: value for name, value in load_file(clip / WEIGHTS).items() if name.startswith("visual")}
    model = open_clip.create_model(f"local-dir:{clip}", pretrained=None, load_weights=False)
    model.load_state_dict({**model.state_dict(), **image_tower})
    for parameter in model.visual.parameters():
        parameter.requires_grad_(False)
    return model.eval()


def train_tower(model: Any, captions: Captions, clip: Path, checkpoint: Path, schedule: Schedule) -> dict[str, Tensor]:
    """Train the text tower, and return its averaged weights in half precision."""
    tokenizer = open_clip.get_tokenizer(f"local-dir:{clip}")
    learnable = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in learnable if p.ndim >= 2], "weight_decay": 0.05},
        {"params": [p for p in learnable if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=schedule.rate, betas=(0.9, 0.98), fused=True)
    average = Average(model, 0.95)
    for step in range(load_state(checkpoint, model, optimizer, average), schedule.steps):
        features, texts, subjects = captions.draw(schedule.batch, np.random.default_rng((1 + schedule.seed, step)))
        tokens = tokenizer(texts)
        if step == 0:
            prepare_text(model, tokens)
        rate = min((step + 1) / schedule.warmup, 0.5 * (1 + math.cos(math.pi * step / schedule.steps)))
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate * rate
        text = functional.normalize(text_features(model, tokens, extra=0), dim=-1)
        loss = matching_loss(model.logit_scale.exp() * features @ text.T, subjects)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(learnable, 1.0)
        optimizer.step()
        model.logit_scale.data.clamp_(max=math.log(100))
        if step >= 0.7 * schedule.steps and step % 4 == 3:
            average.update(model)
        if (step + 1) % schedule.every == 0 or step + 1 == schedule.steps:
            save_state(checkpoint, step + 1, model, optimizer, average)
            print(f"{checkpoint.stem} {step + 1}/{schedule.steps} loss {loss:.3f}", flush=True)
    names = {name for name, _ in model.named_parameters() if not name.startswith("visual")}
    with average.on(model):
        return {name: value.half().contiguous() for name, value in model.state_dict().items() if name in names}
