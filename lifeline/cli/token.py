"""`lifeline token`: bearer tokens of callers."""

from lifeline.cli.options import JsonOption
from lifeline.cli.output import Output


def token(as_json: JsonOption = False) -> None:
    """Create a bearer token for a caller, and its hash.

    Give the token to the caller, and only the hash to the nodes' configuration.
    """
    import secrets

    from lifeline.core.security import token_hash

    secret = secrets.token_urlsafe(32)
    Output(as_json=as_json).show(
        text=lambda: [
            f"security.token of the caller:                {secret}",
            f"security.callers.NAME.token_sha256 of nodes: {token_hash(secret)}",
        ],
        document=lambda: {"token": secret, "token_sha256": token_hash(secret)},
    )
