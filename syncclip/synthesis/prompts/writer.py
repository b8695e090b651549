"""The language model that writes captions: any causal model of transformers, asked once for each class."""

from __future__ import annotations

import hashlib
from typing import Any

from syncclip.clip.prompt_text import filled
from syncclip.core.settings import UserError
from syncclip.storage.urls import home_path
from syncclip.synthesis.generators.loading import load_pretrained, quiet
from syncclip.synthesis.generators.weights import commit_on_hub
from syncclip.synthesis.prompts.captions import WriterSettings, caption

ROUNDS = 4
"""How often a class is asked for at most, where answers are empty or come twice."""

NO_CODE = {"trust_remote_code": False}
"""For transformers, which would ask at the terminal whether to run code that comes with a model."""


class Writer:
    """Asks one model for captions; holds its weights. What it writes of a class depends on no other class.

    Args:
        settings: the model and how to ask it.
        device: a torch device; a GPU where there is one. The last bits of its numbers, and so a word here and there,
            depend on it.

    Raises:
        UserError: the model is missing, can't be read, or isn't a causal language model.
    """

    def __init__(self, settings: WriterSettings, device: str | None = None) -> None:
        import torch
        import transformers

        quiet(transformers)
        self.settings = settings
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        what = f"language model {settings.model!r}"
        source, self.weights = _locate(settings, what)
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[settings.dtype]
        _check_causal(what, load_pretrained(transformers.AutoConfig, source, self.weights, what, **NO_CODE))
        self.tokenizer = load_pretrained(transformers.AutoTokenizer, source, self.weights, what, **NO_CODE)
        causal = transformers.AutoModelForCausalLM
        model = load_pretrained(causal, source, self.weights, what, torch_dtype=dtype, **NO_CODE)
        self.model = model.to(self.device).eval()

    def write(self, classname: str) -> tuple[str, ...]:
        """Captions of a class, all different, `settings.captions` at most: a model may have less to say.

        Raises:
            UserError: it has nothing to say.
        """
        found: dict[str, None] = {}
        for turn in range(ROUNDS):
            for answer in self._answers(classname, turn):
                if (text := caption(answer, classname)) is not None and len(found) < self.settings.captions:
                    found.setdefault(text)
            if len(found) == self.settings.captions:
                break
        if not found:
            raise UserError(
                f"language model {self.settings.model!r} wrote nothing for class {classname!r}; try another model or "
                "another instruction"
            )
        return tuple(found)

    def _answers(self, classname: str, turn: int) -> list[str]:
        import torch

        question = filled(self.settings.instruction, classname)
        if getattr(self.tokenizer, "chat_template", None):
            asked = self.tokenizer.apply_chat_template(
                [{"role": "user", "content": question}],
                add_generation_prompt=True,
                return_tensors="pt",
                return_dict=True,
            )
        else:
            asked = self.tokenizer(f"{question}\n", return_tensors="pt")
        asked = asked.to(self.device)
        end = self.tokenizer.eos_token_id
        pad = self.tokenizer.pad_token_id
        with torch.inference_mode(), torch.random.fork_rng():
            torch.manual_seed(_seed(self.settings.seed, classname, turn))
            tokens = self.model.generate(
                input_ids=asked["input_ids"],
                attention_mask=asked["attention_mask"],
                do_sample=True,
                num_return_sequences=self.settings.captions,
                max_new_tokens=self.settings.max_tokens,
                temperature=self.settings.temperature,
                top_p=self.settings.top_p,
                top_k=0,
                pad_token_id=pad if pad is not None else end,
            )
        begun = asked["input_ids"].shape[1]
        answers: list[str] = self.tokenizer.batch_decode(tokens[:, begun:], skip_special_tokens=True)
        return answers


def _seed(seed: int, classname: str, turn: int) -> int:
    digest = hashlib.sha256(f"syncclip captions {seed} {turn} {classname}".encode()).digest()
    return int.from_bytes(digest[:4], "big")


def _locate(settings: WriterSettings, what: str) -> tuple[str, str]:
    """(folder or hub name, commit on the hub or "")."""
    folder = home_path(settings.model)
    if not folder.is_dir():
        return settings.model, commit_on_hub(settings.model, settings.revision, "config.json", what)
    if not (folder / "config.json").is_file():
        raise UserError(
            f"{what}: the folder has no config.json; give a folder that transformers' save_pretrained wrote"
        )
    return str(folder), ""


def _check_causal(what: str, config: Any) -> None:
    """Refuse before the weights are read: transformers would put an untrained causal head on most models."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    built = list(getattr(config, "architectures", None) or [])
    if built and not set(built) & set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()):
        raise UserError(
            f"{what} is a {built[0]}, which does not write on from a text; give a causal model, such as one whose card "
            "says 'text generation'"
        )
