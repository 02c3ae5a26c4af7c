"""Redaction: text as it may be printed and logged, without the secrets that URLs and connection strings carry.

    https://account.blob.example/c?sv=2024&sig=abc   https://account.blob.example/c?sv=***&sig=***
    ftp://me:password@host/path                      ftp://***@host/path
    AccountName=shop;AccountKey=abc==                AccountName=shop;AccountKey=***

Of a URL the whole user information goes, and every value of its query and fragment: which parameters are secret differs
from lifeline.store to store. Elsewhere a value goes when its name says that it is a secret.
"""

import re
from collections.abc import Iterable

MASK = "***"
# What ends a URL in a sentence, in JSON and in a representation of Python's.
_END = r"\s\"'<>\\"
_URL = re.compile(rf"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*://)(?P<rest>[^{_END}]+)")
_NAMES = (
    r"(?:accountkey|sharedaccesskey|sharedaccesssignature|sas_token|sig|x-amz-signature|x-amz-credential"
    r"|x-amz-security-token|x-goog-signature|x-goog-credential|signature|access_token|id_token|refresh_token|token"
    r"|password|passwd|pwd|secret|client_secret|secret_access_key|api[_-]?key)"
)
_NAMED = re.compile(
    rf"(?i)(?P<name>(?<![\w-]){_NAMES}=)(?:(?P<quote>['\"])[^'\"]*(?P=quote)|[^&;,)\]}}{_END}]+)"
    rf"|(?P<key>(?P<of_key>['\"]){_NAMES}(?P=of_key): *)(?P<of_value>['\"])[^'\"]*(?P=of_value)"
)
_BEARER = re.compile(r"(?i)\b(bearer) +[A-Za-z0-9._~+/=-]{20,}")
_SHORTEST = 6


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """Return `text` without what is secret in its URLs and named values, and without `secrets`.

    Of `secrets` those of less than six characters stay: they would be found in any text.
    """
    for secret in sorted({each for each in secrets if len(each) >= _SHORTEST}, key=len, reverse=True):
        text = text.replace(secret, MASK)
    if "://" in text:
        text = _URL.sub(_redact_url, text)
    text = _NAMED.sub(_redact_value, text)
    return _BEARER.sub(lambda found: f"{found[1]} {MASK}", text)


def _redact_value(found: re.Match[str]) -> str:
    quote = found["quote"] or found["of_value"] or ""
    return f"{found['name'] or found['key']}{quote}{MASK}{quote}"


def _redact_url(found: re.Match[str]) -> str:
    rest = found["rest"]
    at = min((rest.find(sign) for sign in "?#" if sign in rest), default=len(rest))
    place, behind = rest[:at], rest[at:]
    host, slash, path = place.partition("/")
    _user, sign, host = host.rpartition("@")
    if not sign and "@" in path and (colon := host.partition(":"))[1] and not colon[2].isdecimal():
        # A password with a slash in it, which no URL should have.
        sign, host, slash, path = "@", path.rpartition("@")[2], "", ""
    return f"{found['scheme']}{MASK if sign else ''}{sign}{host}{slash}{path}{_redact_query(behind)}"


def _redact_query(behind: str) -> str:
    """Return a query, a fragment or both, with the names of its parameters alone."""
    parts = re.split("([?#&;])", behind)
    return "".join(_redact_part(part) for part in parts)


def _redact_part(part: str) -> str:
    if not part or part in "?#&;":
        return part
    name, sign, value = part.partition("=")
    return f"{name}={MASK if value else ''}" if sign else MASK
