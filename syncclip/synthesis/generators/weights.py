"""Where a pipeline's weights are, here or on the Hugging Face hub, and what identifies them; nothing is loaded."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from syncclip import storage
from syncclip.core.formats import parse_json
from syncclip.core.settings import UserError
from syncclip.core.text import first_line
from syncclip.embedded import FOLDER
from syncclip.storage.urls import home_path
from syncclip.synthesis.generators.endpoint import Endpoint
from syncclip.synthesis.generators.settings import GeneratorSettings, LoraSettings

WEIGHT_FILES = (".json", ".safetensors", ".bin", ".txt", ".model")
WHOLE_FILE = 64 * 2**20
"""Files up to this size are hashed whole, larger ones by their size, first and last MiB."""

INDEX = "model_index.json"
"""Names the class and the parts of a pipeline."""

LORA_FILE = "pytorch_lora_weights.safetensors"
"""How diffusers calls LoRA weights."""


class Located(NamedTuple):
    """Where a pipeline comes from ("icons", a path, a hub name or an address) and what identifies its weights."""

    source: str
    revision: str | None
    fingerprint: str
    """Of the pipeline and, after a `+` each, of its LoRA weights and its other autoencoder."""
    loras: tuple[LoraSettings, ...] = ()
    """The LoRA weights by absolute path, or by hub name, file and commit."""
    vae: tuple[str, str | None] | None = None
    """The other autoencoder: absolute path and None, or hub name and commit."""

    def placed(self, settings: GeneratorSettings) -> GeneratorSettings:
        """The settings with these weights in them, for processes that run in another folder."""
        return settings.model_copy(update={"loras": self.loras, "vae": self.vae and self.vae[0]})


def locate(settings: GeneratorSettings, fingerprint: str = "") -> Located:
    """Find a pipeline without loading it: this machine's folders first, then the hub's cache, then the hub.

    Args:
        settings: names and revisions of the pipeline and its LoRA weights.
        fingerprint: what an earlier call gave, kept in the plan. Other local weights are refused; of the hub's
            revisions this one is meant, and the hub isn't asked for the newest.

    Raises:
        UserError: it is nowhere, or the hub can't be asked; after `HUB_TIMEOUT` at most.
    """
    if settings.endpoint:
        return Located(settings.pipeline, None, Endpoint(settings, fingerprint).fingerprint)
    planned, *others = fingerprint.split("+")
    others += [""] * (len(settings.loras) + 1 - len(others))
    name, path = settings.pipeline, _folder(settings)
    if path.is_dir():
        if not (path / INDEX).is_file():
            raise UserError(
                f"generator {name!r}: the folder {path} has no {INDEX}; give a folder that diffusers' "
                "save_pretrained wrote"
            )
        path = path.resolve()
        files = [path / INDEX]
        files += [f for f in path.glob("*/**/*") if f.is_file() and f.suffix in WEIGHT_FILES]
        source = "icons" if name == "icons" else str(path)
        commit = None
        found = _fingerprint(f"generator {name!r}", path, files, planned)
    else:
        source = name
        commit = found = planned or _commit(name, path, settings.revision)
    loras = [_locate_lora(one, known) for one, known in zip(settings.loras, others, strict=False)]
    vaes = [] if settings.vae is None else [_locate_vae(settings.vae, others[-1])]
    fingerprints = "+".join([found, *(of_part for _, of_part in (*loras, *vaes))])
    return Located(source, commit, fingerprints, tuple(lora for lora, _ in loras), *(vae for vae, _ in vaes))


def parts_of(settings: GeneratorSettings) -> set[str] | None:
    """The parts that a pipeline has by its index; None where no readable index is on this machine."""
    path = _folder(settings)
    try:
        index = path / INDEX if path.is_dir() else cached(settings.pipeline, settings.revision, INDEX)
        named = parse_json(storage.read_bytes(str(index)), str(index), dict)
    except (OSError, ValueError):
        return None
    return {part for part, place in named.items() if isinstance(place, list) and all(place)}


def _folder(settings: GeneratorSettings) -> Path:
    """Where a pipeline that isn't named by the hub would be."""
    return FOLDER / "icons/generator" if settings.pipeline == "icons" else home_path(settings.pipeline)


def _commit(name: str, path: Path, revision: str | None) -> str:
    """The commit on the hub of a pipeline that is no folder, and not meant to be one."""
    if name == "icons":
        raise UserError(f"generator 'icons': its weights are missing at {path}; install the package again")
    if path.is_file():
        raise UserError(
            f"generator {name!r}: this is a file; load it once with the from_single_file of its diffusers pipeline, "
            "and give the folder that save_pretrained writes"
        )
    if name.startswith(("/", "~", ".")):
        raise UserError(f"generator {name!r}: there is no such folder; check the path, or mount its folder")
    return commit_on_hub(name, revision, INDEX, f"generator {name!r}")


def _locate_lora(settings: LoraSettings, planned: str) -> tuple[LoraSettings, str]:
    """(where they are, fingerprint) of LoRA weights; see `Located.loras`."""
    what, path = f"LoRA weights {settings.weights!r}", home_path(settings.weights)
    if not path.exists():
        name = settings.file or LORA_FILE
        commit = planned or commit_on_hub(settings.weights, settings.revision, name, what)
        return settings.model_copy(update={"file": name, "revision": commit}), commit
    file = path
    if path.is_dir():
        held = sorted(one.name for one in path.glob("*.safetensors"))
        name = settings.file or (LORA_FILE if LORA_FILE in held or len(held) != 1 else held[0])
        if name not in held:
            there = f"it holds {', '.join(held[:5])}" if held else "it holds no .safetensors file"
            raise UserError(f"{what}: there is no {name}, {there}; name one with loras' `file`")
        file = path / name
    elif path.suffix != ".safetensors":
        raise UserError(f"{what}: this is no .safetensors file, and nothing else is read; convert it first")
    file = file.absolute()  # links are kept: the hub's cache links to files without an extension
    fingerprint = _fingerprint(what, file, [file], planned)
    return settings.model_copy(update={"weights": str(file)}), fingerprint


def _locate_vae(name: str, planned: str) -> tuple[tuple[str, str | None], str]:
    """(where it is, fingerprint) of an autoencoder; see `Located.vae`."""
    what, path = f"vae {name!r}", home_path(name)
    if not path.is_dir():
        commit = planned or commit_on_hub(name, None, "config.json", what)
        return (name, commit), commit
    files = [one for one in path.glob("*") if one.suffix in WEIGHT_FILES]
    return (str(path.resolve()), None), _fingerprint(what, path, files, planned)


def _fingerprint(what: str, place: Path, files: Iterable[Path], planned: str) -> str:
    """Hex digest (16 digits) of some files: their contents and their names below a folder.

    Args:
        what: how messages call the weights.
        place: the folder, or the one file; further files in the folder change nothing.
        files: those that count.
        planned: the digest that they must have; "" for any.

    Raises:
        UserError: it isn't the one that was planned.
    """
    digest, root = hashlib.sha256(), place if place.is_dir() else place.parent
    for file in sorted(files, key=lambda f: f.relative_to(root).as_posix()):
        size = file.stat().st_size
        digest.update(f"{file.relative_to(root).as_posix()}\0{size}\0".encode())
        with file.open("rb") as stream:
            if size <= WHOLE_FILE:
                digest.update(stream.read())
            else:
                digest.update(stream.read(1 << 20))
                stream.seek(-(1 << 20), os.SEEK_END)
                digest.update(stream.read())
    fingerprint = digest.hexdigest()[:16]
    if planned and fingerprint != planned:
        raise UserError(
            f"{what}: the weights at {place} are not those that the set was started with; restore them or generate "
            "into another folder"
        )
    return fingerprint


HUB_TIMEOUT = 5.0
"""Seconds that the hub may take to answer whether it knows a name."""


def commit_on_hub(name: str, revision: str | None, file: str, what: str) -> str:
    """The commit that `name` stands for: that of the local cache, which is asked first, else the hub's.

    Args:
        name: a repository, such as `stabilityai/sdxl-turbo`.
        revision: branch, tag or commit; None for the main branch.
        file: one that the repository must hold.
        what: how messages call it, such as "generator 'stabilityai/sdxl-turbo'".

    Raises:
        UserError: it is nowhere, or the hub can't be asked; after `HUB_TIMEOUT` at most.
    """
    import huggingface_hub
    from huggingface_hub.errors import HFValidationError

    try:
        return cached(name, revision, file).parents[file.count("/")].name
    except HFValidationError as error:
        raise UserError(f"{what}: there is no such folder, and it is no name of the hub either") from error
    except OSError:
        pass  # not in the cache
    missing = f"{what}: there is no such folder, it is not in the local Hugging Face cache, and"
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON"):
        raise UserError(f"{missing} HF_HUB_OFFLINE forbids asking the hub; correct the name or unset it")
    try:
        return huggingface_hub.HfApi().model_info(name, revision=revision, timeout=HUB_TIMEOUT).sha or ""
    except huggingface_hub.errors.HfHubHTTPError as error:
        raise UserError(f"{missing} the hub says: {first_line(error)}; correct the name or log in") from error
    except Exception as error:  # no route, no name server, a proxy's refusal: each HTTP library has its own errors
        raise UserError(
            f"{missing} the hub can't be reached ({first_line(error)}); correct the name, or download it where there "
            "is a network and give the folder"
        ) from error


def cached(name: str, revision: str | None, file: str) -> Path:
    """Where a file of a repository is in the local cache; the hub isn't asked.

    Raises:
        OSError: nowhere.
        ValueError: `name` can be no repository's.
    """
    import huggingface_hub

    return Path(huggingface_hub.hf_hub_download(name, file, revision=revision, local_files_only=True))
