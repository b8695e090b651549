"""Removal of secrets from files, and masking of secrets in all messages and logs.

The following values are secrets:

* storage options that are not on the allowlist;
* a URL's user name and password, and parameters whose names suggest a signature, token or key;
* the path in a tracking server's URL.

Once the process has seen a secret, it masks the secret in messages from all libraries.
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
        # location and account
        *("endpoint_url", "region", "region_name", "project", "account_name", "profile", "host", "port", "protocol"),
        *("anon", "use_ssl", "verify", "requester_pays", "version_aware", "default_location", "access", "consistency"),
        # behaviour
        *("retries", "mode", "max_attempts", "total_max_attempts", "timeout", "connect_timeout", "read_timeout"),
        *("max_concurrency", "max_pool_connections", "tcp_keepalive", "batch_size", "block_size", "blocksize"),
        *("default_block_size", "default_fill_cache", "default_cache_type", "fixed_upload_size", "cache_regions"),
        *("signature_version", "addressing_style", "payload_signing_enabled", "use_accelerate_endpoint"),
        *("use_dualstack_endpoint", "request_checksum_calculation", "response_checksum_validation", "location_mode"),
        *("use_listings_cache", "listings_expiry_time", "max_paths", "skip_instance_cache", "cache_timeout"),
        # sections that contain these options
        *("client_kwargs", "config_kwargs", "s3", "proxies", "http", "https"),
    }
)
"""Names of non-secret storage options, at any nesting depth."""

MASK = "***"
USERINFO = re.compile(
    r"(?<=://)(?<!github://)(?!(?<=az://)[^:@/]*@)(?!(?<=abfs://)[^:@/]*@)(?!(?<=abfss://)[^:@/]*@)(?:[^\s/'\"<>]*|[^\s/'\"<>:@]+:(?!\d+['\"/\s]|\s)[^\n\"<>@]{0,128})@"
)
"""User and password of a URL within text, including invalid passwords that contain a `/` or a space. The pattern does
not match an `@` after a port, `github://owner:repository@` or the container in `abfs://container@account`."""

WHOLE_USERINFO = re.compile(
    r"\A((?:az|abfss?)://)[^/@]*:[^/]*@|\A((?!github:|az:|abfss?:)\w[\w+.-]*://)(?:[^/]*@|[^:@/]+:(?!\d+/).*@)", re.S
)
"""User and password in a value that is entirely a URL; both may contain any character."""

DELIMITER = re.compile(r"[?&;#]|%3f|%26|%23", re.IGNORECASE)
NAMED = re.compile(r"([\w.%\[\]-]{1,128}?)(?:=|%3d)([^&;#\s'\"<>]+)", re.IGNORECASE)
WHOLE_NAMED = re.compile(r"([^&#=]{1,128}?)(?:=|%3d)([^&#]+)", re.IGNORECASE)
"""URL parameter after a delimiter. `NAMED` matches within text, and `WHOLE_NAMED` in a value that is entirely a URL."""

SECRET_NAME = re.compile(
    r".*(token|signature|secret|passw|credential|auth|bearer|session|key(?!word)|cookie).*"
    r"|sig|pwd|pass|pw|code|jwt|sas|pat|hmac|policy",
    re.IGNORECASE | re.DOTALL,
)

URL = re.compile(r"\w[\w+.-]*://")
HOST = re.compile(r"(?:[\w.-]+|\[[\da-f:.]+\])(?::\d{1,5})?", re.IGNORECASE)
WORD = re.compile(r"[a-z][a-z._-]{0,11}|v?\d{1,2}(?:\.\d{1,2})?")
"""Path component that is unlikely to be a token."""

TRACKER = "mlflow_uri"
"""Name of the setting that contains the tracking server's URL."""

BARE = re.compile(r"^(?://)?(?=[^\s/@]*:[^\s@]*@)(?!.*://)")
"""Start of a URL without a scheme but with a user and password, such as a proxy URL."""

HEADER = re.compile(r"(authorization['\"]?\s*[:=]\s*['\"]?(?:(?:bearer|basic|token)\s+)?)[^\s'\",}]+", re.IGNORECASE)

SHORT, LONG = 4, 8
"""Minimum length of a secret, in characters, to be masked as a whole word, and to be masked anywhere in text."""

ORDINARY = frozenset({"anon", "cloud", "cache", "browser", "google_default"})
"""Values of the gcsfs `token` option that select a token source and are therefore not secret."""

# The hooks that mask secrets belong to the process and outlive a session, so that they also mask its final traceback.
_seen: set[str] = set()
_pattern: re.Pattern[str] | None = None
_lock = threading.Lock()


def harmless(options: Any) -> Any:
    """Remove secrets from storage options, including secrets in URLs."""
    if isinstance(options, Mapping):
        return {name: harmless(value) for name, value in options.items() if name in HARMLESS}
    if isinstance(options, list | tuple):
        return [harmless(option) for option in options]
    return without_secrets(BARE.sub("http://", options), is_value=True) if isinstance(options, str) else options


def without_secrets(text: str, is_value: bool = False) -> str:
    """Remove user names and passwords from all URLs in a text, and mask the values of secret URL parameters.

    Args:
        is_value: whether `text` is a setting's value; if the value is a URL, secrets in it may contain any character.
    """
    if is_value and URL.match(text) is not None:
        text, named = WHOLE_USERINFO.sub(r"\1\2", text, count=1), WHOLE_NAMED
    elif "://" in text or "=" in text or "%3" in text:
        text, named = USERINFO.sub("", text), NAMED
    else:
        return text
    pieces, end = [], 0
    for parameter in _parameters(text, named):
        if parameter.start(2) >= end:
            pieces += [text[end : parameter.start(2)], MASK]
            end = parameter.end(2)
    return "".join([*pieces, text[end:]])


def json_without_secrets(text: str) -> str:
    """Remove the secrets from all URLs in a JSON document."""

    def clean(string: re.Match[str]) -> str:
        if not any(sign in string[0] for sign in ("://", "=", "%3", "\\")):
            return string[0]
        value = json.loads(string[0])
        cleaned = without_secrets(value, is_value=True)
        return string[0] if cleaned == value else json.dumps(cleaned, ensure_ascii=False)

    return re.sub(r'"(?:[^"\\]|\\.)*"', clean, text)


def tracker_address(url: str) -> str | None:
    """Strip a tracking server's URL of its user name, password, query, fragment and any path that may contain a token.

    Returns:
        The public part of the URL; None if the URL is malformed.
    """
    scheme, separator, rest = url.partition("://")
    if scheme in ("file", "sqlite") or not (separator or "@" in url):
        return url  # a local path
    split = re.match(r"([^/?#]*)([^?#]*)(.*)", rest, re.DOTALL)
    assert split is not None, "the pattern matches any string"
    host, path = split[1].rpartition("@")[2], split[2]
    if "@" in path + split[3] or not URL.fullmatch(scheme + separator) or not HOST.fullmatch(host):
        return None
    return f"{scheme}://{host}{path if all(map(WORD.fullmatch, filter(None, path.split('/')))) else ''}"


def shareable(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Remove the secrets from a recipe's values before the recipe is stored with results."""
    clean: dict[str, Any] = _clean(recipe)
    storage = clean.get("storage")
    if isinstance(storage, dict) and "options" in storage:
        storage["options"] = harmless(storage["options"])
    return clean


def _clean(value: Any, key: str = "") -> Any:
    if isinstance(value, Mapping):
        return {name: _clean(inner, name) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(inner) for inner in value]
    if not isinstance(value, str):
        return value
    return tracker_address(value) if key == TRACKER else without_secrets(value, is_value=True)


def _parameters(text: str, named: re.Pattern[str]) -> Iterator[re.Match[str]]:
    """Yield a match for each secret URL parameter in text, percent-encoded or not; group 2 is the value."""
    for delimiter in DELIMITER.finditer(text):
        parameter = named.match(text, delimiter.end())
        if parameter is not None and SECRET_NAME.fullmatch(unquote(unquote(parameter[1]))):
            yield parameter


def redacted(text: str) -> str:
    """Remove the secrets from all URLs in a message, and mask all secrets that this process has seen."""
    text = HEADER.sub(rf"\1{MASK}", without_secrets(text))
    return text if _pattern is None else _pattern.sub(MASK, text)


def remember_options(options: Any) -> None:
    """Record the secrets in storage options, for masking in all output."""
    _record(_secrets_of_options(options, not isinstance(options, Mapping)))


def remember_arguments(arguments: Sequence[str]) -> None:
    """Record the secrets in a command's arguments; call before parsing, since parser errors quote invalid arguments."""
    remember_urls([*arguments, *(argument.partition("=")[2] for argument in arguments)])
    for argument in arguments:
        key, _, text = argument.partition("=")
        if key.endswith(TRACKER):
            remember_tracker(text)
        if re.match(r"-*storage(?!\.root$)(\.options)?(\.|$)", key) is None:
            continue
        try:
            value = yaml.safe_load(text)
        except Exception:  # any error, such as an invalid date, is reported when the argument is parsed
            value = [text, *re.findall(r"[^\s{}\[\],:'\"]+", text)]
        if key.endswith("storage") and isinstance(value, Mapping):
            value = value.get("options")
        for name in reversed(key.split(".")[2:]):
            value = {name: value}
        remember_options(value)


def remember_urls(values: Any) -> None:
    """Record the secrets in all URLs within nested values, such as those of a recipe."""
    secrets: list[str] = []
    pending: list[tuple[Any, Any]] = [("", values)]
    while pending:
        key, value = pending.pop()
        if isinstance(value, str):
            secrets += _secrets_of_url(value)
            if key == TRACKER:
                secrets += _secrets_of_tracker(value)
        elif isinstance(value, Mapping | list | tuple):
            pending += value.items() if isinstance(value, Mapping) else enumerate(value)
    _record(secrets)


def remember_tracker(url: str) -> None:
    """Record the secrets in a tracking server's URL: the components that `tracker_address` removes."""
    _record(_secrets_of_tracker(url))


def _secrets_of_tracker(url: str) -> Iterator[str]:
    if tracker_address(url) == url:
        return
    rest = url.partition("://")[2] or url
    if "@" in rest:
        userinfo, _, rest = rest.rpartition("@")
        yield from _secrets_of_userinfo(userinfo)
    path = rest[len(re.split(r"[/?#]", rest)[0]) :]
    yield from (path, *(part for part in re.split(r"[/?#&;=]", path) if not WORD.fullmatch(part)))


def _secrets_of_options(options: Any, secret: bool) -> Iterator[str]:
    """Yield the values of secret options, and the secrets in all URLs.

    Args:
        secret: whether the option that contains these values is secret.
    """
    if isinstance(options, Mapping):
        for name, inner in options.items():
            yield from _secrets_of_options(inner, secret or name not in HARMLESS)
    elif isinstance(options, list | tuple):
        for inner in options:
            yield from _secrets_of_options(inner, secret)
    elif isinstance(options, str):
        yield from _secrets_of_url(BARE.sub("http://", options))
        if secret and options not in ORDINARY:
            yield options
    elif secret and isinstance(options, int) and abs(options) >= 10 ** (LONG - 1):  # a smaller number is not secret
        yield str(options)


def _secrets_of_url(text: str) -> Iterator[str]:
    whole = WHOLE_USERINFO.match(text)
    for userinfo in [*USERINFO.findall(text), *([] if whole is None else [whole[0].partition("://")[2]])]:
        yield from _secrets_of_userinfo(userinfo[:-1])
    yield from (parameter[2] for parameter in _parameters(text, NAMED if URL.match(text) is None else WHOLE_NAMED))


def _secrets_of_userinfo(userinfo: str) -> Iterator[str]:
    user, _, password = unquote(userinfo).partition(":")
    yield from (password or user, base64.b64encode(f"{user}:{password}".encode(errors="replace")).decode())


def _record(secrets: Iterable[str]) -> None:
    global _pattern
    forms = {form for secret in secrets for form in _forms(secret) if len(form) >= SHORT}
    with _lock:
        if forms <= _seen:
            return
        if not _seen:
            _guard_process()
        _seen.update(forms)
        longest_first = sorted(_seen, key=len, reverse=True)
        words = (re.escape(form) if len(form) >= LONG else rf"(?<!\w){re.escape(form)}(?!\w)" for form in longest_first)
        _pattern = re.compile("|".join(words))


def _forms(secret: str) -> Iterator[str]:
    """Yield the forms in which a secret may appear: unchanged, URL- or JSON-encoded, on one line or by line."""
    for quoted in (quote(secret, safe="", errors="replace"), quote(secret, errors="replace")):
        for form in (quoted, quoted.replace("%20", "+")):
            yield from (form, re.sub("%..", lambda code: code[0].lower(), form))
    yield from (secret, unquote(secret), json.dumps(secret)[1:-1], " ".join(secret.split()))
    yield from (line.strip() for line in secret.splitlines() if len(line.strip()) >= 2 * LONG)


def _guard_process() -> None:
    """Mask secrets in the log records and tracebacks of all libraries."""
    make, show, show_in_thread = logging.getLogRecordFactory(), sys.excepthook, threading.excepthook

    def make_record(*arguments: Any, **keywords: Any) -> logging.LogRecord:
        record = make(*arguments, **keywords)
        with suppress(Exception):  # logging itself reports a message that does not match its arguments
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
