"""The metadata of forwarded calls, which nodes and the client library agree on."""

FORWARDED = "lifeline-forwarded"
"""Of a request: the call has travelled already."""
OWNER = "lifeline-owner"
"""Of a reply: the address of the node that answered."""
PARTITIONS = "lifeline-partitions"
"""Of a reply: how many partitions there are, in digits."""
