"""Location and fingerprint of a pipeline's weights, in a folder, at a URL or on the Hugging Face Hub."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from syncclip import storage
from syncclip.core.formats import parse_json
from syncclip.core.settings import UserError
from syncclip.core.text import first_line
from syncclip.embedded import FOLDER
from syncclip.storage.local_copies import remote_files
from syncclip.storage.urls import home_path
from syncclip.synthesis.generators.endpoint import Endpoint
from syncclip.synthesis.generators.settings import GeneratorSettings, LoraSettings

WEIGHT_SUFFIXES = (".json", ".safetensors", ".bin", ".txt", ".model")
MAX_HASHED_BYTES = 64 * 2**20
"""Maximum size in bytes of fully hashed files; for larger files, the size and the first and last MiB are hashed."""

INDEX = "model_index.json"
"""Name of the file that lists a pipeline's class and components."""

LORA_FILE = "pytorch_lora_weights.safetensors"
"""Default file name of LoRA weights in diffusers."""

HUB_TIMEOUT_SECONDS = 5.0

COMMIT = re.compile("[0-9a-f]{40}")
"""Pattern for the hash of a hub commit."""


class Located(NamedTuple):
    """Location and fingerprint of a pipeline."""

    source: str
    """Pipeline source: the bundled `icons`, an absolute path, a hub name or a URL."""
    revision: str | None
    fingerprint: str
    """Fingerprints of the pipeline, its LoRA weights and its replacement autoencoder, joined by `+`."""
    loras: tuple[LoraSettings, ...] = ()
    """LoRA weights, each with an absolute path, or with a hub name, file and commit."""
    vae: tuple[str, str | None] | None = None
    """Replacement autoencoder: (absolute path, None) or (hub name, commit)."""
    files: Mapping[str, tuple[int, str]] | None = None
    """Files of a pipeline at a URL, as returned by `remote_files`."""

    def placed(self, settings: GeneratorSettings) -> GeneratorSettings:
        """Return the settings with absolute paths, for processes with a different working directory."""
        return settings.model_copy(update={"loras": self.loras, "vae": self.vae and self.vae[0]})


def locate(settings: GeneratorSettings, fingerprint: str = "") -> Located:
    """Locate a pipeline's weights in a folder, at a URL, in the local Hugging Face cache or on the hub.

    Args:
        fingerprint: fingerprint of the planned weights, from an earlier call. Weights in a folder or at a URL must
            match the fingerprint; for weights on the hub, it determines the commit.

    Raises:
        UserError: the weights don't exist or differ from the planned weights, or the hub is unreachable.
    """
    if settings.endpoint:
        return Located(settings.pipeline, None, Endpoint(settings, fingerprint).fingerprint)
    planned, *others = fingerprint.split("+")
    others += [""] * (len(settings.loras) + 1 - len(others))
    name, path, files = settings.pipeline, _folder(settings), None
    if not storage.is_local(name):
        source, commit, files = name.rstrip("/"), None, _remote_weights(name)
        identity = _agreed(hashlib.sha256(repr(sorted(files.items())).encode()), f"generator {name!r}", name, planned)
    elif path.is_dir():
        if not (path / INDEX).is_file():
            raise UserError(
                f"generator {name!r}: the folder {path} has no {INDEX}; use a folder written by diffusers' "
                "save_pretrained"
            )
        path = path.resolve()
        paths = [f for f in path.glob("*/**/*") if f.is_file() and f.suffix in WEIGHT_SUFFIXES]
        source = "icons" if name == "icons" else str(path)
        commit = None
        identity = _fingerprint(f"generator {name!r}", path, [path / INDEX, *paths], planned)
    else:
        source = name
        commit = identity = planned or _commit(name, path, settings.revision)
    loras = [_locate_lora(lora, planned) for lora, planned in zip(settings.loras, others, strict=False)]
    vaes = [] if settings.vae is None else [_locate_vae(settings.vae, others[-1])]
    fingerprints = "+".join([identity, *(of_part for _, of_part in (*loras, *vaes))])
    vae = vaes[0][0] if vaes else None
    return Located(source, commit, fingerprints, tuple(lora for lora, _ in loras), vae, files)


def parts_of(settings: GeneratorSettings) -> set[str] | None:
    """Return the names of a pipeline's components, or None if the pipeline's index can't be read on this machine."""
    name, path = settings.pipeline, _folder(settings)
    try:
        if storage.is_local(name):
            index = str(path / INDEX if path.is_dir() else cached(name, settings.revision, INDEX))
        else:
            index = storage.join(name, INDEX)
        entries = parse_json(storage.read_bytes(index), index, dict)
    except (OSError, ValueError):
        return None
    return {part for part, entry in entries.items() if isinstance(entry, list) and all(entry)}


def _folder(settings: GeneratorSettings) -> Path:
    """Return the path of a pipeline's folder; the path doesn't exist if the pipeline is on the hub."""
    return FOLDER / "icons/generator" if settings.pipeline == "icons" else home_path(settings.pipeline)


def _remote_weights(url: str) -> dict[str, tuple[int, str]]:
    """Return the files of a pipeline at a URL that loading needs; raise a UserError if there is no pipeline."""
    files = remote_files(url)
    if INDEX not in files:
        raise UserError(f"generator {url!r}: {INDEX} is missing; upload a folder written by diffusers' save_pretrained")
    return {
        name: file for name, file in files.items() if name == INDEX or ("/" in name and name.endswith(WEIGHT_SUFFIXES))
    }


def _commit(name: str, path: Path, revision: str | None) -> str:
    """Return the commit of a pipeline on the hub; raise a UserError if its name is a path."""
    if name == "icons":
        raise UserError(f"generator 'icons': the weights are missing at {path}; reinstall syncclip")
    if path.is_file():
        raise UserError(
            f"generator {name!r} is a file; convert it with diffusers' from_single_file and save_pretrained, and use "
            "the resulting folder"
        )
    if name.startswith(("/", "~", ".")):
        raise UserError(f"generator {name!r}: the folder doesn't exist; check the path, or mount the file system")
    return commit_on_hub(name, revision, INDEX, f"generator {name!r}")


def _locate_lora(settings: LoraSettings, planned: str) -> tuple[LoraSettings, str]:
    """Return the located settings and the fingerprint of LoRA weights; see `Located.loras`."""
    label, path = f"LoRA weights {settings.weights!r}", home_path(settings.weights)
    if not path.exists():
        name = settings.file or LORA_FILE
        commit = planned or commit_on_hub(settings.weights, settings.revision, name, label)
        return settings.model_copy(update={"file": name, "revision": commit}), commit
    file = path
    if path.is_dir():
        names = sorted(entry.name for entry in path.glob("*.safetensors"))
        name = settings.file or (LORA_FILE if LORA_FILE in names or len(names) != 1 else names[0])
        if name not in names:
            content = ", ".join(names[:5]) or "no .safetensors file"
            raise UserError(f"{label}: {name} is not in the folder, which contains {content}; set `file` in `loras`")
        file = path / name
    elif path.suffix != ".safetensors":
        raise UserError(f"{label}: only .safetensors files are supported; convert the file first")
    file = file.absolute()  # links are not resolved, since the hub's cache links to files without an extension
    fingerprint = _fingerprint(label, file, [file], planned)
    return settings.model_copy(update={"weights": str(file)}), fingerprint


def _locate_vae(name: str, planned: str) -> tuple[tuple[str, str | None], str]:
    """Return the location and the fingerprint of an autoencoder; see `Located.vae`."""
    label, path = f"vae {name!r}", home_path(name)
    if not path.is_dir():
        commit = planned or commit_on_hub(name, None, "config.json", label)
        return (name, commit), commit
    files = [file for file in path.glob("*") if file.suffix in WEIGHT_SUFFIXES]
    return (str(path.resolve()), None), _fingerprint(label, path, files, planned)


def _fingerprint(label: str, path: Path, files: Iterable[Path], planned: str) -> str:
    """Return a hash (16 hex digits) of file contents and names; raise a UserError if it differs from `planned`."""
    digest, root = hashlib.sha256(), path if path.is_dir() else path.parent
    for file in sorted(files, key=lambda f: f.relative_to(root).as_posix()):
        size = file.stat().st_size
        digest.update(f"{file.relative_to(root).as_posix()}\0{size}\0".encode())
        with file.open("rb") as stream:
            if size <= MAX_HASHED_BYTES:
                digest.update(stream.read())
            else:
                digest.update(stream.read(1 << 20))
                stream.seek(-(1 << 20), os.SEEK_END)
                digest.update(stream.read())
    return _agreed(digest, label, path, planned)


def _agreed(digest: Any, label: str, location: str | Path, planned: str) -> str:
    """Return a digest's first 16 hex digits; raise a UserError if they differ from `planned`."""
    fingerprint: str = digest.hexdigest()[:16]
    if planned and fingerprint != planned:
        raise UserError(
            f"{label}: the weights at {location} differ from those that the dataset was created with; restore the "
            "original weights, or generate into a different folder"
        )
    return fingerprint


def commit_on_hub(name: str, revision: str | None, file: str, label: str) -> str:
    """Return the commit of a repository that contains `file`, from the local cache if possible, otherwise from the hub.

    Raise a UserError whose message starts with `label` if the repository doesn't exist or the hub is unreachable. A
    name that starts with an existing folder also raises an error, unless `revision` is a commit: the name is probably a
    mistyped path, and downloading it from the hub could load a stranger's weights.
    """
    import huggingface_hub
    from huggingface_hub.errors import HFValidationError

    folder, _, rest = name.partition("/")
    if rest and COMMIT.fullmatch(revision or "") is None and home_path(folder).is_dir():
        raise UserError(
            f"{label}: the folder {folder!r} exists, but {name!r} does not; correct the path, or run the command in a "
            "different working directory to use the hub repository"
        )
    try:
        return cached(name, revision, file).parents[file.count("/")].name
    except HFValidationError as error:
        raise UserError(f"{label} is neither an existing folder nor a valid hub name; correct the name") from error
    except OSError:
        pass  # not cached
    missing = f"{label} is neither a folder nor in the local Hugging Face cache, and"
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON"):
        raise UserError(f"{missing} HF_HUB_OFFLINE is set; correct the name, or unset the variable")
    try:
        return huggingface_hub.HfApi().model_info(name, revision=revision, timeout=HUB_TIMEOUT_SECONDS).sha or ""
    except huggingface_hub.errors.HfHubHTTPError as error:
        raise UserError(
            f"{missing} the hub returned an error: {first_line(error)}; correct the name or log in"
        ) from error
    except Exception as error:  # a network error of any HTTP library
        raise UserError(
            f"{missing} the hub can't be reached ({first_line(error)}); correct the name, or download the files "
            "elsewhere and use their folder"
        ) from error


def cached(name: str, revision: str | None, file: str) -> Path:
    """Return the path of a repository's file in the local cache; raise an OSError if it is not cached."""
    import huggingface_hub

    return Path(huggingface_hub.hf_hub_download(name, file, revision=revision, local_files_only=True))
