"""A configuration file that says who may call."""

from pathlib import Path

from lifeline.core.security import token_hash


def write_callers(path: Path, *tokens: str, name: str = "feed") -> None:
    """Write the tokens of a caller; a reader sees the file before or after, never half of it."""
    hashes = ", ".join(f'"{token_hash(token)}"' for token in tokens)
    part = path.with_suffix(".part")
    part.write_text(f"[security.callers.{name}]\ntoken_sha256 = [{hashes}]\n")
    part.rename(path)
