"""The causal language model that writes captions."""

from __future__ import annotations

import hashlib
from typing import Any

from syncclip.clip.prompt_text import filled
from syncclip.core.settings import UserError
from syncclip.storage.urls import home_path
from syncclip.synthesis.generators.loading import load_pretrained, quiet
from syncclip.synthesis.generators.weights import commit_on_hub
from syncclip.synthesis.prompts.captions import WriterSettings, caption

MAX_ROUNDS = 4
"""Maximum number of generation rounds per class; additional rounds replace empty and repeated outputs."""

NO_CODE = {"trust_remote_code": False}
"""Arguments that disable transformers' interactive prompt for trusting a model's code."""


class Writer:
    """Caption writer that captions each class independently.

    Args:
        settings: the model and its sampling options.
        device: torch device, which may slightly change the captions; default: a GPU if available.

    Raises:
        UserError: the model is missing, unreadable, or not a causal language model.
    """

    def __init__(self, settings: WriterSettings, device: str | None = None) -> None:
        import torch
        import transformers

        quiet(transformers)
        self.settings = settings
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        label = f"language model {settings.model!r}"
        source, self.weights = _locate(settings, label)
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[settings.dtype]
        _check_causal(label, load_pretrained(transformers.AutoConfig, source, self.weights, label, **NO_CODE))
        self.tokenizer = load_pretrained(transformers.AutoTokenizer, source, self.weights, label, **NO_CODE)
        causal = transformers.AutoModelForCausalLM
        model = load_pretrained(causal, source, self.weights, label, torch_dtype=dtype, **NO_CODE)
        self.model = model.to(self.device).eval()

    def write(self, classname: str) -> tuple[str, ...]:
        """Write up to `settings.captions` distinct captions; raise a UserError if all outputs were empty."""
        captions: dict[str, None] = {}
        for number in range(MAX_ROUNDS):
            for output in self._outputs(classname, number):
                if (text := caption(output, classname)) is not None and len(captions) < self.settings.captions:
                    captions.setdefault(text)
            if len(captions) == self.settings.captions:
                break
        if not captions:
            raise UserError(
                f"language model {self.settings.model!r} returned no text for class {classname!r}; try a different "
                "model or instruction"
            )
        return tuple(captions)

    def _outputs(self, classname: str, number: int) -> list[str]:
        """Return the model's outputs for one round."""
        import torch

        instruction = filled(self.settings.instruction, classname)
        if getattr(self.tokenizer, "chat_template", None):
            inputs = self.tokenizer.apply_chat_template(
                [{"role": "user", "content": instruction}],
                add_generation_prompt=True,
                return_tensors="pt",
                return_dict=True,
            )
        else:
            inputs = self.tokenizer(f"{instruction}\n", return_tensors="pt")
        inputs = inputs.to(self.device)
        end = self.tokenizer.eos_token_id
        pad = self.tokenizer.pad_token_id
        with torch.inference_mode(), torch.random.fork_rng():
            torch.manual_seed(_seed(self.settings.seed, classname, number))
            tokens = self.model.generate(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                do_sample=True,
                num_return_sequences=self.settings.captions,
                max_new_tokens=self.settings.max_tokens,
                temperature=self.settings.temperature,
                top_p=self.settings.top_p,
                top_k=0,
                pad_token_id=pad if pad is not None else end,
            )
        length = inputs["input_ids"].shape[1]
        outputs: list[str] = self.tokenizer.batch_decode(tokens[:, length:], skip_special_tokens=True)
        return outputs


def _seed(seed: int, classname: str, number: int) -> int:
    digest = hashlib.sha256(f"syncclip captions {seed} {number} {classname}".encode()).digest()
    return int.from_bytes(digest[:4], "big")


def _locate(settings: WriterSettings, label: str) -> tuple[str, str]:
    """Return (folder, "") for a local model, or (hub name, commit) for a model on the hub."""
    folder = home_path(settings.model)
    if not folder.is_dir():
        return settings.model, commit_on_hub(settings.model, settings.revision, "config.json", label)
    if not (folder / "config.json").is_file():
        raise UserError(
            f"{label}: the folder has no config.json; use a folder written by transformers' save_pretrained"
        )
    return str(folder), ""


def _check_causal(label: str, config: Any) -> None:
    """Reject non-causal models before loading, since transformers adds an untrained causal head to most of them."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    architectures = list(getattr(config, "architectures", None) or [])
    if architectures and not set(architectures) & set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()):
        raise UserError(f"{label} is a {architectures[0]}, which does not generate text; use a causal language model")
