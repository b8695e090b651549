"""Markers of shards' predictions, and verification of tars and predictions against them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Literal

from pydantic import ValidationError

from syncclip import storage
from syncclip.core.settings import Settings


class ShardMarker(Settings):
    """Marker of a shard's predictions: their settings, the input tar and the output file."""

    format: Literal[1] = 1
    asked: str
    """Digest of the run, its classes and the settings of the pass."""
    tar: str
    """Name of the input tar."""
    tar_sha256: str
    bytes: int
    """Size of the file of predictions; `sha256` is its checksum."""
    sha256: str
    images: int
    unread: int
    """Number of unreadable images among them."""


def parse_marker(data: bytes, url: str, tar: str) -> ShardMarker:
    """Parse the marker at `url` of the predictions for `tar`.

    Raises:
        DamagedError: it is invalid, or the marker of another tar.
    """
    try:
        marker = ShardMarker.model_validate_json(data)
    except ValidationError as error:
        raise storage.DamagedError(f"{url} is not a marker of predictions, or is truncated") from error
    if marker.tar != tar:
        raise storage.DamagedError(f"{url} is the marker of {marker.tar}, not of {tar}: files were exchanged")
    return marker


def differences(marker: ShardMarker, file: str, tar: str | None, committed: str | None = None) -> Iterator[str]:
    """Yield a sentence for a file of predictions and for a tar that differ from the marker.

    Args:
        file, tar: paths or URLs; None: the tar is not available.
        committed: sha256 of the tar in its commit marker, which saves reading the tar.
    """
    if tar is not None and (committed or _sha256(tar, marker.tar_sha256)) != marker.tar_sha256:
        yield f"{tar} is not the tar that {file} was computed from"
    if _sha256(file, marker.sha256) != marker.sha256:
        yield f"{file} no longer matches its checksum: it was damaged or exchanged"


def _sha256(url: str, expected: str) -> str:
    with storage.open_read(url, expected) as content:
        return storage.file_sha256(content)


def problems_of_files(
    url: str, names: Collection[str], endings: tuple[str, str], tars: Mapping[str, str | None]
) -> Iterator[str]:
    """Yield a sentence per problem of the predictions in a folder, after reading each of their files and each tar.

    Args:
        names: files in the folder.
        endings: of a file of predictions and of its marker, in place of `.tar`.
        tars: tars in the folder, as `ShardJob.tars`.
    """
    stems = {name.removesuffix(ending) for name in names for ending in endings if name.endswith(ending)}
    with_tars = any(f"{stem}.tar" in tars for stem in stems)
    first: tuple[str, str] | None = None
    for stem in sorted(stems | ({name.removesuffix(".tar") for name in tars} if with_tars else set())):
        file, marker_url = (storage.join(url, stem + ending) for ending in endings)
        tar = storage.join(url, f"{stem}.tar") if f"{stem}.tar" in tars else None
        if missing := [path for path in (file, marker_url) if path.rpartition("/")[2] not in names]:
            yield f"{missing[0]} is missing; the same command computes the predictions for {stem}.tar again"
            continue
        if with_tars and tar is None:
            yield f"{storage.join(url, stem)}.tar is missing, but its predictions exist"
        try:
            marker = parse_marker(storage.read_bytes(marker_url), marker_url, f"{stem}.tar")
        except storage.DamagedError as error:
            yield str(error)
            continue
        first = first or (marker_url, marker.asked)
        if marker.asked != first[1]:
            yield f"{marker_url} is of another run, other classes or settings than {first[0]}: files were exchanged"
        yield from differences(marker, file, tar, tars.get(f"{stem}.tar"))
