"""Redaction: remove the secrets in URLs and connection strings from text before it is printed or logged.

    https://account.blob.example/c?sv=2024&sig=abc   https://account.blob.example/c?sv=***&sig=***
    ftp://me:password@host/path                      ftp://***@host/path
    AccountName=shop;AccountKey=abc==                AccountName=shop;AccountKey=***

In a URL, the user information and all values of the query and the fragment are masked, because which parameters are
secret differs between services. Elsewhere a value is masked if its name is that of a secret.
"""

import re
from collections.abc import Iterable

MASK = "***"
# Characters that end a URL in a sentence, in JSON and in a Python repr.
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
_MIN_SECRET_LENGTH = 6


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """Return `text` with secrets in URLs, named values and `secrets` masked.

    Entries of `secrets` with fewer than six characters are not masked: they would match in ordinary text.
    """
    for secret in sorted({value for value in secrets if len(value) >= _MIN_SECRET_LENGTH}, key=len, reverse=True):
        text = text.replace(secret, MASK)
    if "://" in text:
        text = _URL.sub(_redact_url, text)
    text = _NAMED.sub(_redact_value, text)
    return _BEARER.sub(lambda match: f"{match[1]} {MASK}", text)


def _redact_value(match: re.Match[str]) -> str:
    quote = match["quote"] or match["of_value"] or ""
    return f"{match['name'] or match['key']}{quote}{MASK}{quote}"


def _redact_url(match: re.Match[str]) -> str:
    rest = match["rest"]
    at = min((rest.find(sign) for sign in "?#" if sign in rest), default=len(rest))
    location, query = rest[:at], rest[at:]
    host, slash, path = location.partition("/")
    _user, sign, host = host.rpartition("@")
    if not sign and "@" in path and (colon := host.partition(":"))[1] and not colon[2].isdecimal():
        # A password that contains a slash, although it should be percent-encoded.
        sign, host, slash, path = "@", path.rpartition("@")[2], "", ""
    return f"{match['scheme']}{MASK if sign else ''}{sign}{host}{slash}{path}{_redact_query(query)}"


def _redact_query(query: str) -> str:
    """Mask the values in a query, a fragment or both; the parameters' names stay."""
    parts = re.split("([?#&;])", query)
    return "".join(_redact_part(part) for part in parts)


def _redact_part(part: str) -> str:
    if not part or part in "?#&;":
        return part
    name, sign, value = part.partition("=")
    return f"{name}={MASK if value else ''}" if sign else MASK
