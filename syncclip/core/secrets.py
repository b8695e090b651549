"""Passwords, keys and tokens: which settings may be written down, and what is masked wherever a text leaves a process.

Of storage options those on a list are harmless; all others count as secret. Of a URL that is the part before the `@`
and each parameter whose name tells of a signature, a token or a key; of a tracker's URL also its path. What has been
seen of either is masked by its value, too, in whatever library's words it turns up.
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
from itertools import chain
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
    r"(?<=://)(?<!github://)(?!(?<=az://)[^:@/]*@)(?!(?<=abfs://)[^:@/]*@)(?!(?<=abfss://)[^:@/]*@)(?:[^\s/'\"<>]*|[^\s/'\"<>:@]+:(?!\d+['\"/\s]|\s)[^\n\"<>@]{0,128})@"
)
"""Also of a password with a `/` or a blank, which no URL may hold; but not what follows a port, nor `github://owner:repository@`,
nor the container of `abfs://container@account`."""

WHOLE_USERINFO = re.compile(
    r"\A((?:az|abfss?)://)[^/@]*:[^/]*@|\A((?!github:|az:|abfss?:)\w[\w+.-]*://)(?:[^/]*@|[^:@/]+:(?!\d+/).*@)", re.S
)
"""The same at the beginning of a value that is a URL as a whole, whose user and password may hold any character."""

DELIMITER = re.compile(r"[?&;#]|%3f|%26|%23", re.IGNORECASE)
NAMED = re.compile(r"([\w.%\[\]-]{1,128}?)(?:=|%3d)([^&;#\s'\"<>]+)", re.IGNORECASE)
WHOLE_NAMED = re.compile(r"([^&#=]{1,128}?)(?:=|%3d)([^&#]+)", re.IGNORECASE)
"""A parameter behind a delimiter, in a text and in a value that is a URL as a whole."""

SECRET_NAME = re.compile(
    r".*(token|signature|secret|passw|credential|auth|bearer|session|key(?!word)|cookie).*"
    r"|sig|pwd|pass|pw|code|jwt|sas|pat|hmac|policy",
    re.IGNORECASE | re.DOTALL,
)

URL = re.compile(r"\w[\w+.-]*://")
HOST = re.compile(r"(?:[\w.-]+|\[[\da-f:.]+\])(?::\d{1,5})?", re.IGNORECASE)
WORD = re.compile(r"[a-z][a-z._-]{0,11}|v?\d{1,2}(?:\.\d{1,2})?")
"""A part of a path that can hardly be a token."""

TRACKER = "mlflow_uri"
"""The setting that names a tracker's server."""

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
    return value_without_secrets(BARE.sub("http://", options)) if isinstance(options, str) else options


def without_secrets(text: str) -> str:
    """A text whose URLs have neither users with passwords nor signatures and tokens."""
    return _masked(USERINFO.sub("", text), NAMED) if "://" in text or "=" in text or "%3" in text else text


def json_without_secrets(text: str) -> str:
    """The text of a JSON document whose strings hold no secrets."""

    def clean(string: re.Match[str]) -> str:
        if not any(sign in string[0] for sign in ("://", "=", "%3", "\\")):
            return string[0]
        value = json.loads(string[0])
        return string[0] if (found := value_without_secrets(value)) == value else json.dumps(found, ensure_ascii=False)

    return re.sub(r'"(?:[^"\\]|\\.)*"', clean, text)


def tracker_address(url: str) -> str | None:
    """What may be written down of a tracker's URL: scheme, host, port and a path of plain words; None: nothing.

    Its user, query and fragment are left out, and a path that may hold a token.
    """
    scheme, separator, rest = url.partition("://")
    if scheme in ("file", "sqlite") or not (separator or "@" in url):
        return url  # a path of this machine
    split = re.match(r"([^/?#]*)([^?#]*)(.*)", rest, re.DOTALL)
    assert split is not None, "each part may be empty"
    host, path = split[1].rpartition("@")[2], split[2]
    if "@" in path + split[3] or not URL.fullmatch(scheme + separator) or not HOST.fullmatch(host):
        return None
    return f"{scheme}://{host}{path if all(map(WORD.fullmatch, filter(None, path.split('/')))) else ''}"


def shareable(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's plain values without secrets, for files that lie beside results or travel."""
    clean: dict[str, Any] = _clean(recipe)
    storage = clean.get("storage")
    if isinstance(storage, dict) and "options" in storage:
        storage["options"] = harmless(storage["options"])
    return clean


def _clean(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {
            key: tracker_address(inner) if key == TRACKER and isinstance(inner, str) else _clean(inner)
            for key, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [_clean(inner) for inner in value]
    return value_without_secrets(value) if isinstance(value, str) else value


def value_without_secrets(value: str) -> str:
    """A setting, of which a URL's user and parameters may hold any character, without secrets."""
    if URL.match(value) is None:
        return without_secrets(value)
    return _masked(WHOLE_USERINFO.sub(r"\1\2", value, count=1), WHOLE_NAMED)


def _masked(text: str, named: re.Pattern[str]) -> str:
    """A text with a mask in place of each secret parameter's value."""
    pieces, end = [], 0
    for value in _parameters(text, named):
        if value.start(2) >= end:
            pieces += [text[end : value.start(2)], MASK]
            end = value.end(2)
    return "".join([*pieces, text[end:]])


def _parameters(text: str, named: re.Pattern[str] = NAMED) -> Iterator[re.Match[str]]:
    """The parameters of a text's URLs whose names, percent-encoded or not, tell of a secret; group 2 is the value."""
    for delimiter in DELIMITER.finditer(text):
        parameter = named.match(text, delimiter.end())
        if parameter is not None and SECRET_NAME.fullmatch(unquote(unquote(parameter[1]))):
            yield parameter


def redacted(text: str) -> str:
    """A text for people, a log or a note: without the secrets of its URLs, and those that were seen are masked."""
    text = HEADER.sub(rf"\1{MASK}", without_secrets(text))
    return text if _pattern is None else _pattern.sub(MASK, text)


def remember_options(options: Any) -> None:
    """Note the secrets among storage options, to mask them wherever they turn up."""
    _note(_of_options(options, not isinstance(options, Mapping)))


def remember_arguments(arguments: Sequence[str]) -> None:
    """Note the secrets of a command's arguments, in URLs or storage options, before any of them is read or refused."""
    remember_urls([*arguments, *(argument.partition("=")[2] for argument in arguments)])
    for argument in arguments:
        key, _, text = argument.partition("=")
        if key.endswith(TRACKER):
            remember_tracker(text)
        if re.match(r"-*storage(?!\.root$)(\.options)?(\.|$)", key) is None:
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
    _note(chain(_of_trackers(values), *map(_of_urls, _texts(values))))


def remember_tracker(url: str) -> None:
    """Note all of a tracker's URL that `tracker_address` leaves out."""
    _note(_of_tracker(url))


def _texts(values: Any) -> Iterator[str]:
    if isinstance(values, str):
        yield values
    elif isinstance(values, Mapping | list | tuple):
        for inner in values.values() if isinstance(values, Mapping) else values:
            yield from _texts(inner)


def _of_trackers(values: Any) -> Iterator[str]:
    for key, inner in values.items() if isinstance(values, Mapping) else ():
        yield from _of_tracker(inner) if key == TRACKER and isinstance(inner, str) else _of_trackers(inner)


def _of_tracker(url: str) -> Iterator[str]:
    known = tracker_address(url)
    if known == url:
        return
    rest = url.partition("://")[2] or url
    if "@" in rest:
        userinfo, _, rest = rest.rpartition("@")
        yield from _of_userinfo(userinfo)
    path = rest[len(re.split(r"[/?#]", rest)[0]) :]
    yield from (path, *(one for one in re.split(r"[/?#&;=]", path) if not WORD.fullmatch(one)))


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
    whole = WHOLE_USERINFO.match(text)
    for userinfo in [*USERINFO.findall(text), *([] if whole is None else [whole[0].partition("://")[2]])]:
        yield from _of_userinfo(userinfo[:-1])
    yield from (parameter[2] for parameter in _parameters(text, NAMED if URL.match(text) is None else WHOLE_NAMED))


def _of_userinfo(userinfo: str) -> Iterator[str]:
    user, _, password = unquote(userinfo).partition(":")
    yield from (password or user, base64.b64encode(f"{user}:{password}".encode(errors="replace")).decode())


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
