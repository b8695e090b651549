"""Suggestions for an unknown recipe key: keys of the same name in other sections, similar keys and synonyms."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from difflib import SequenceMatcher, get_close_matches
from itertools import takewhile

SYNONYMS: Mapping[str, str] = {
    "extends": "inherits inherit base_config defaults parent",
    "name": "experiment experiment_name exp_name run_name",
    "learning_rate": "lr base_lr max_lr peak_lr init_lr",
    "text_tokens": "ctx n_ctx ctx_len ctx_length context_length prompt_length n_tokens n_ctx_text",
    "visual_tokens": "n_ctx_vision vpt_tokens image_tokens visual_prompts n_visual_prompts",
    "initial_words": "ctx_init prompt_init init",
    "text_depth": "prompt_depth prompt_depth_text",
    "visual_depth": "prompt_depth prompt_depth_vision",
    "class_specific": "csc",
    "rank": "r lora_r lora_rank",
    "alpha": "lora_alpha",
    "training.method": "algorithm trainer",
    "training.epochs": "max_epoch max_epochs num_train_epochs max_steps n_steps iterations iters max_iter max_iters",
    "training.batch_size": "bs train_batch_size per_device_train_batch_size minibatch_size",
    "training.weight_decay": "wd decay l2 l2_penalty optimizer optimiser",
    "training.momentum": "optimizer optimiser",
    "training.warmup_epochs": "warmup_steps warmup_iters lr_schedule lr_scheduler",
    "training.warmup_learning_rate": "warmup_lr cons_lr",
    "training.accumulation_steps": "gradient_accumulation_steps grad_accum accumulate_grad_batches",
    "training.flip_probability": "hflip horizontal_flip random_flip",
    "training.images_per_class": "images n_synthetic synthetic_per_class samples_per_class ipc",
    "training.workers": "world_size n_processes nproc_per_node",
    "training.loader_processes": "num_workers data_workers dataloader_workers",
    "training.trackers": "logger loggers report_to wandb tensorboard",
    "training.checkpoint_every": "save_every save_steps save_freq save_interval",
    "training.log_every": "print_freq log_interval log_steps logging_steps",
    "training.keep_best": "early_stopping patience save_best",
    "dataset.name": "data dataset_name",
    "dataset.root": "data_root data_dir data_path dataset_dir dataset_path dataset_root",
    "dataset.shots": "k_shot few_shot real_images real_images_per_class real_per_class",
    "dataset.base": "base_classes subsample_classes seen_classes",
    "dataset.classnames": "classes class_names labels",
    "dataset.template": "prompt prompt_template",
    "backbone.name": "model model_name arch architecture clip clip_model backbone_name encoder vision_encoder",
    "backbone.pretrained": "weights ckpt pretrained_weights",
    "backbone.precision": "prec fp16 bf16 fp32 amp half dtype torch_dtype mixed_precision",
    "backbone.checkpoint_activations": "grad_checkpointing gradient_checkpointing",
    "synthesis.images_per_class": "images images_per_prompt n_synthetic synthetic_per_class samples_per_class ipc",
    "synthesis.generator.pipeline": "diffusion_model sd_model model_id generator_model",
    "synthesis.generator.steps": "inference_steps sampling_steps diffusion_steps denoising_steps n_steps",
    "synthesis.generator.guidance": "guidance_scale cfg cfg_scale",
    "synthesis.generator.height": "resolution image_size img_size",
    "synthesis.generator.width": "resolution image_size img_size",
    "study.resamples": "bootstrap n_bootstrap bootstrap_samples",
    "study.tune_trials": "trials max_trials",
    "storage.root": "out output output_dir out_dir save_dir log_dir results_dir result_dir",
}
"""Recipe key (or last part of a key, for methods' settings) -> names of the setting in other libraries."""

CUTOFF, WINDOW, FOREIGN = 0.8, 0.09, 0.15
"""Minimum similarity of names; maximum score below the best suggestion's; penalty for settings of other methods."""
SHARED = 0.1
"""Bonus for each section that a suggestion shares with the unknown key."""


def suggestions(key: str, keys: Iterable[str], method: str) -> list[str]:
    """Return at most two of `keys` that the user may have meant by an unknown dotted key, the most likely first.

    Args:
        keys: all keys, in declaration order.
        method: method in use; settings of other methods are suggested only if the unknown key names the method, or if
            nothing else matches.
    """
    keys = list(dict.fromkeys(keys))
    section, _, name = key.lower().rpartition(".")
    home = _section_of(section, keys).split(".")
    targets = [target for target, names in SYNONYMS.items() if _stem(name) in map(_stem, names.split())]
    methods = {method, *home[1:]}
    scores: dict[str, float] = {}
    for path in keys:
        parent, _, last = path.rpartition(".")
        score = 1.0 if path in targets or last in targets else _similarity(name, last)
        if score >= CUTOFF:
            parts = parent.split(".")
            shared = len([*takewhile(lambda pair: pair[0] == pair[1], zip(home, parts, strict=False))])
            foreign = parts[0] == "methods" and not methods.intersection(parts[1:2] or [method])
            scores[path] = score + SHARED * shared - FOREIGN * foreign
    best = max(scores.values(), default=0.0)
    near = [path for path in scores if scores[path] > best - WINDOW]
    # Of equal suggestions, the settings of training precede those of other sections.
    return sorted(near, key=lambda path: (-scores[path], not path.startswith(("training.", "methods."))))[:2]


def _stem(name: str) -> str:
    """Return a name without separators, words for "number of" and the plural: `n_epochs` -> `epoch`."""
    words = re.split(r"[_\-\s]+", name)
    return "".join([word for word in words if word not in ("n", "num", "number", "of")] or words).removesuffix("s")


def _similarity(name: str, other: str) -> float:
    if name == other:
        return 1.0
    stem, full = _stem(name), _stem(other)
    if stem == full:
        return 0.98
    return 0.85 if len(stem) > 2 and full.startswith(stem) else SequenceMatcher(None, stem, full).ratio()


def _section_of(typed: str, keys: Iterable[str]) -> str:
    """Return the section that the user probably meant by `typed`: `train` -> `training`; "" if none is similar."""
    sections = dict.fromkeys(key.rpartition(".")[0] for key in keys)
    if typed in sections:
        return typed
    last = typed.rpartition(".")[2]
    names = {section.rpartition(".")[2]: section for section in reversed(sections) if section}
    completions = [name for name in names if len(last) > 2 and name.startswith(last)]
    return names[near[0]] if (near := completions or get_close_matches(last, names, 1, 0.7)) else ""
