"""Settings of Python's garbage collector for the process of a node.

The collector searches for reference cycles, and the hot paths create none. But it visits every live object: with the
cached heads and the modules of torch, it costs 2 us for each appended event, and pauses of tens of milliseconds.
"""

import gc

_YOUNG, _MIDDLE, _OLD = 50_000, 20, 20


def tune_gc() -> None:
    """Exclude all live objects from collection, and collect the others about a hundred times less often.

    Call it in the process that owns the stores, after its imports.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, _MIDDLE, _OLD)
