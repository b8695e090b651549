"""Passwords, keys and tokens: which settings may be written down, and what is masked wherever a text leaves a process.

Of storage options those on a list are harmless; all others count as secret. Of a URL that is the part before the `@`
and each parameter whose name tells of a signature, a token or a key. What has been seen of either is masked by its
value, too, in whatever library's words it turns up.
"""

from __future__ import annotations

import base64
import json
import logging
import re
import sys
import threading
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any
from urllib.parse import quote, unquote

import yaml

HARMLESS = frozenset(
    {
        # where, and as whom by a name that only the user's own files explain
        *("endpoint_url", "region", "region_name", "project", "account_name", "profile", "host", "port", "protocol"),
        *("anon", "use_ssl", "verify", "requester_pays", "version_aware", "default_location", "access", "consistency"),
        # how
        *("retries", "mode", "max_attempts", "total_max_attempts", "timeout", "connect_timeout", "read_timeout"),
        *("max_concurrency", "max_pool_connections", "tcp_keepalive", "batch_size", "block_size", "blocksize"),
        *("default_block_size", "default_fill_cache", "default_cache_type", "fixed_upload_size", "cache_regions"),
        *("signature_version", "addressing_style", "payload_signing_enabled", "use_accelerate_endpoint"),
        *("use_dualstack_endpoint", "request_checksum_calculation", "response_checksum_validation", "location_mode"),
        *("use_listings_cache", "listings_expiry_time", "max_paths", "skip_instance_cache", "cache_timeout"),
        # what holds some of these
        *("client_kwargs", "config_kwargs", "s3", "proxies", "http", "https"),
    }
)
"""Storage options that tell no secret, at any depth."""

MASK = "***"
USERINFO = re.compile(
    r"(?<=://)(?<!github://)(?!(?<=az://)[^:@/]*@)(?!(?<=abfs://)[^:@/]*@)(?!(?<=abfss://)[^:@/]*@)(?:[^\s/'\"<>]*|[^\s/'\"<>:@]+:(?!\d+['\"/])[^\s\"<>@]{0,128})@"
)
"""Also of a password with a `/`, which no URL may hold; but not what follows a port, nor `github://owner:repository@`,
nor the container of `abfs://container@account`."""

PARAMETER = re.compile(
    r"((?:[?&;#]|%3f|%26|%23)(?:[\w.%-]{0,64}(?:token|signature|secret|passw|credential|auth|bearer|session|key(?!word)|cookie)[\w.%-]{0,64}?"
    r"|sig|pwd|pass|pw|code|jwt|sas|pat|hmac|policy)(?:=|%3d))[^&;#\s'\"<>]+",
    re.IGNORECASE,
)
BARE = re.compile(r"^(?://)?(?=[^\s/@]*:[^\s@]*@)(?!.*://)")
"""What is missing of a URL that begins with user and password, as proxies may."""

HEADER = re.compile(r"(authorization['\"]?\s*[:=]\s*['\"]?(?:(?:bearer|basic|token)\s+)?)[^\s'\",}]+", re.IGNORECASE)

SHORT, LONG = 4, 8
"""Characters: a shorter value isn't masked by itself; one of less than `LONG` only where it stands as a word."""

ORDINARY = frozenset({"anon", "cloud", "cache", "browser", "google_default"})
"""Values of gcsfs' option `token` that say where the token is found, which would be masked wherever they are words."""

_seen: set[str] = set()
_pattern: re.Pattern[str] | None = None
_lock = threading.Lock()


def harmless(options: Any) -> Any:
    """Those storage options that tell no secret, without the secrets of their URLs."""
    if isinstance(options, Mapping):
        return {name: harmless(value) for name, value in options.items() if name in HARMLESS}
    if isinstance(options, list | tuple):
        return [harmless(one) for one in options]
    return without_secrets(BARE.sub("http://", options)) if isinstance(options, str) else options


def without_secrets(text: str) -> str:
    """A text whose URLs have neither users with passwords nor signatures and tokens."""
    return PARAMETER.sub(rf"\1{MASK}", USERINFO.sub("", text)) if "://" in text or "=" in text or "%3" in text else text


def shareable(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's plain values without secrets, for files that lie beside results or travel."""
    clean: dict[str, Any] = _clean(recipe)
    storage = clean.get("storage")
    if isinstance(storage, dict) and "options" in storage:
        storage["options"] = harmless(storage["options"])
    return clean


def _clean(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _clean(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(inner) for inner in value]
    return without_secrets(value) if isinstance(value, str) else value


def redacted(text: str) -> str:
    """A text for people, a log or a note: without the secrets of its URLs, and those that were seen are masked."""
    text = HEADER.sub(rf"\1{MASK}", without_secrets(text))
    return text if _pattern is None else _pattern.sub(MASK, text)


def remember_options(options: Any) -> None:
    """Note the secrets among storage options, to mask them wherever they turn up."""
    _note(_of_options(options, not isinstance(options, Mapping)))


def remember_arguments(arguments: Sequence[str]) -> None:
    """Note the secrets of a command's arguments, in URLs or storage options, before any of them is read or refused."""
    remember_urls(arguments)
    for argument in arguments:
        key, _, text = argument.partition("=")
        if re.match(r"-*storage(\.options)?(\.|$)", key) is None:
            continue
        try:
            value = yaml.safe_load(text)
        except Exception:  # of whatever kind, as a date that is none: it is refused where it is read
            value = [text, *re.findall(r"[^\s{}\[\],:'\"]+", text)]
        if key.endswith("storage") and isinstance(value, Mapping):
            value = value.get("options")
        for name in reversed(key.split(".")[2:]):
            value = {name: value}
        remember_options(value)


def remember_urls(values: Any) -> None:
    """Note the secrets of all URLs among nested values, as those of a recipe."""
    _note(_of_urls(json.dumps(values, default=lambda _: None, ensure_ascii=False)))


def _of_options(options: Any, secret: bool = False) -> Iterator[str]:
    """The texts of options that are none of the harmless ones, and what URLs hold."""
    if isinstance(options, Mapping):
        for name, inner in options.items():
            yield from _of_options(inner, secret or name not in HARMLESS)
    elif isinstance(options, list | tuple):
        for inner in options:
            yield from _of_options(inner, secret)
    elif isinstance(options, str):
        yield from _of_urls(BARE.sub("http://", options))
        if secret and options not in ORDINARY:
            yield options
    elif secret and isinstance(options, int) and abs(options) >= 10 ** (LONG - 1):  # a smaller one is a setting
        yield str(options)


def _of_urls(text: str) -> Iterator[str]:
    for userinfo in USERINFO.findall(text):
        user, _, password = unquote(userinfo[:-1]).partition(":")
        yield from (password or user, base64.b64encode(f"{user}:{password}".encode(errors="replace")).decode())
    for parameter in PARAMETER.finditer(text):
        yield parameter[0][len(parameter[1]) :]


def _note(secrets: Iterable[str]) -> None:
    global _pattern
    found = {form for secret in secrets for form in _forms(secret) if len(form) >= SHORT}
    with _lock:
        if found <= _seen:
            return
        if not _seen:
            _guard_process()
        _seen.update(found)
        longest_first = sorted(_seen, key=len, reverse=True)
        words = (re.escape(one) if len(one) >= LONG else rf"(?<!\w){re.escape(one)}(?!\w)" for one in longest_first)
        _pattern = re.compile("|".join(words))


def _forms(secret: str) -> Iterator[str]:
    """How a secret may be written: as it is, in a URL, in JSON, in one line, or a line of it alone."""
    for quoted in (quote(secret, safe="", errors="replace"), quote(secret, errors="replace")):
        spaced = quoted.replace("%20", "+")
        yield from (
            form for one in (quoted, spaced) for form in (one, re.sub("%..", lambda code: code[0].lower(), one))
        )
    yield from (
        secret,
        unquote(secret),
        json.dumps(secret)[1:-1],
        " ".join(secret.split()),
    )
    lines = secret.splitlines()
    yield from (line.strip() for line in lines if len(lines) > 1 and len(line.strip()) >= 2 * LONG)


def _guard_process() -> None:
    """From the first secret on, mask them in every library's log and in the traceback of a defect."""
    make, show, show_in_thread = logging.getLogRecordFactory(), sys.excepthook, threading.excepthook

    def make_record(*arguments: Any, **keywords: Any) -> logging.LogRecord:
        record = make(*arguments, **keywords)
        with suppress(Exception):  # of a message that doesn't fit its arguments, which logging itself reports
            text = record.getMessage()
            if (clean := redacted(text)) != text:
                record.msg, record.args = clean, ()
            if record.exc_info and record.exc_info[0] is not None:
                record.exc_text = redacted("".join(traceback.format_exception(*record.exc_info)).rstrip())
        return record

    def show_error(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        text = "".join(traceback.format_exception(kind, error, trace))
        if (clean := redacted(text)) == text:
            show(kind, error, trace)
        else:
            sys.stderr.write(clean)

    def show_error_in_thread(failed: threading.ExceptHookArgs) -> None:
        if failed.exc_value is None:
            show_in_thread(failed)
        else:
            show_error(failed.exc_type, failed.exc_value, failed.exc_traceback)

    logging.setLogRecordFactory(make_record)
    sys.excepthook, threading.excepthook = show_error, show_error_in_thread
