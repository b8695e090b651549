"""Names in the published code of the methods and here: settings, loss terms, parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from syncclip.methods.base import MethodSettings
from syncclip.methods.cocoop import CoCoOp
from syncclip.methods.coop import CoOp
from syncclip.methods.ivlp import Ivlp
from syncclip.methods.kgcoop import KgCoOp
from syncclip.methods.maple import Maple
from syncclip.methods.promptsrc import PromptSrc
from syncclip.methods.syncclip import SyncClip
from syncclip.methods.vpt import Vpt
from syncclip.methods.zeroshot import ZeroShot

Config = Mapping[str, Any]


def _context(config: Config) -> dict[str, Any]:
    """Initial words determine the number of vectors and disable class-specific ones."""
    words = config["CTX_INIT"]
    if words is True:  # in KgCoOp
        words = "a photo of a"
    words = (words or "").replace("_", " ")
    settings = {"initial_words": words, "text_tokens": None if words else config["N_CTX"]}
    if "CLASS_TOKEN_POSITION" in config:
        settings["position"] = config["CLASS_TOKEN_POSITION"]
        settings["class_specific"] = config["CSC"] and not words
    return settings


def _kgcoop(config: Config) -> KgCoOp.Settings:
    return KgCoOp.Settings(**_context(config), knowledge_weight=config["W"])


def _both_towers(config: Config) -> dict[str, Any]:
    return {
        "visual_tokens": config["N_CTX_VISION"],
        "text_tokens": config["N_CTX_TEXT"],
        "visual_depth": config["PROMPT_DEPTH_VISION"],
        "text_depth": config["PROMPT_DEPTH_TEXT"],
        "initial_words": config["CTX_INIT"],
    }


def _syncclip(config: Config) -> SyncClip.Settings:
    return SyncClip.Settings(
        **_both_towers(config),
        domain_tokens=config["N_CTX_VISION_SYN"],
        synthetic_weight=config["WEIGHT"],
        alignment_weight=config["KLWEIGHT"],
    )


def _vpt(config: Config) -> Vpt.Settings:
    return Vpt.Settings(
        visual_tokens=config["N_CTX_VISION"],
        visual_depth=config["PROMPT_DEPTH_VISION"],
        template=f"{config['CTX_INIT']} {{}}.",
    )


def _maple(config: Config) -> Maple.Settings:
    return Maple.Settings(text_tokens=config["N_CTX"], depth=config["PROMPT_DEPTH"], initial_words=config["CTX_INIT"])


def _promptsrc(config: Config) -> PromptSrc.Settings:
    return PromptSrc.Settings(
        **_both_towers(config),
        text_weight=config["TEXT_LOSS_WEIGHT"],
        image_weight=config["IMAGE_LOSS_WEIGHT"],
        templates=tuple(config["templates"]),
        aggregation_mean=config["GPA_MEAN"],
        aggregation_std=config["GPA_STD"],
    )


SETTINGS: dict[str, Callable[[Config], MethodSettings]] = {
    "zeroshot": lambda config: ZeroShot.Settings(),
    "coop": lambda config: CoOp.Settings(**_context(config)),
    "cocoop": lambda config: CoCoOp.Settings(**_context(config)),
    "kgcoop": _kgcoop,
    "vpt": _vpt,
    "ivlp": lambda config: Ivlp.Settings(**_both_towers(config)),
    "maple": _maple,
    "promptsrc": _promptsrc,
    "syncclip": _syncclip,
}
"""Settings of each method, from those of the published code."""

TERMS = {"loss": "total", "loss_real": "real", "loss_syn": "synthetic", "loss_align": "alignment"}
"""Our names of the loss terms in the files."""


def our_method(theirs: str) -> str:
    """Our name of a method."""
    return theirs.replace("synclip", "syncclip").removesuffix("_shallow")


def ours(theirs: str) -> str:
    """Our name of a parameter."""
    if theirs == "prompt_learner.ctx":
        return "text_prompts.0"
    if theirs.startswith("prompt_learner.meta_net."):
        return theirs.removeprefix("prompt_learner.")
    if theirs == "image_encoder.VPT":
        return "vision_prompts.0"
    if theirs == "image_encoder.SYN_VPT":
        return "synthetic_prompts.0"
    if theirs.startswith("syn_prompt."):
        return f"synthetic_prompts.{int(theirs.removeprefix('syn_prompt.')) + 1}"
    if theirs.startswith("prompt_learner.compound_prompts_text."):
        return f"text_prompts.{int(theirs.rpartition('.')[2]) + 1}"
    if theirs.startswith("prompt_learner.proj."):
        return theirs.replace("prompt_learner.proj", "projections.0")
    if theirs.startswith("prompt_learner.compound_prompt_projections."):
        block, kind = theirs.split(".")[2:]
        return f"projections.{int(block) + 1}.{kind}"
    tower, _, rest = theirs.partition(".transformer.resblocks.")
    block, _, kind = rest.partition(".")
    assert kind == "VPT_shallow", theirs
    return f"{ {'image_encoder': 'vision', 'text_encoder': 'text'}[tower] }_prompts.{block}"
