"""Licences of a pipeline's weights, read from their model cards."""

from __future__ import annotations

from pathlib import Path

from syncclip.core.formats import parse_yaml
from syncclip.core.settings import UserError
from syncclip.core.text import cut, printable
from syncclip.embedded import FOLDER
from syncclip.storage.hub import hub_access
from syncclip.synthesis.generators.settings import UNKNOWN, GeneratorSettings
from syncclip.synthesis.generators.weights import HUB_TIMEOUT_SECONDS, Located, locate

CARD, MAX_CARD_LENGTH = "README.md", 1 << 20


def licence_of(settings: GeneratorSettings, located: Located | None = None) -> str:
    """Return the distinct licences of a pipeline, its LoRA weights and its autoencoder, separated by commas.

    A missing model card, missing weights and an endpoint have the licence `UNKNOWN`. Unless HF_HUB_OFFLINE is set, the
    model cards of weights on the hub are downloaded.
    """
    try:
        located = None if settings.endpoint else located or locate(settings)
    except UserError:
        located = None
    if located is None:
        return UNKNOWN
    pipeline = str(FOLDER / "icons/generator") if located.source == "icons" else located.source
    loras = [(lora.weights, lora.revision) for lora in located.loras]
    parts = [(pipeline, located.revision), *loras, *([] if located.vae is None else [located.vae])]
    return ", ".join(dict.fromkeys(_licence(Path(source), revision) for source, revision in parts))


def _licence(source: Path, revision: str | None) -> str:
    """Return the licence on the model card of a folder, a file's folder or a repository on the hub."""
    from huggingface_hub import hf_hub_download

    card = (source if source.is_dir() else source.parent) / CARD
    try:
        if not source.is_absolute():
            timeout = HUB_TIMEOUT_SECONDS
            with hub_access(CARD):  # without progress bars
                card = Path(hf_hub_download(str(source), CARD, revision=revision, etag_timeout=timeout))
        with card.open(encoding="utf-8-sig") as file:
            start, _, rest = file.read(MAX_CARD_LENGTH).partition("---\n")
        values = {} if start else parse_yaml(rest.partition("\n---")[0], CARD)
        licence = values.get("license")
        licence = values.get("license_name", licence) if licence == "other" else licence
    except Exception:  # any error of the hub, the network, the file system or the card's content
        return UNKNOWN
    return cut(printable(licence)) if isinstance(licence, str) and licence else UNKNOWN
