"""Metadata keys of forwarded calls, shared by nodes and the client library."""

FORWARDED = "lifeline-forwarded"
"""In a request: another node has forwarded the call."""
OWNER = "lifeline-owner"
"""In a reply: the address of the node that answered."""
PARTITIONS = "lifeline-partitions"
"""In a reply: the number of partitions, in decimal digits."""
