"""Python's garbage collector, told to keep out of the way.

It goes after cycles, and nothing on the hot paths makes any; but it looks at every object that is alive: the
heads in memory and the modules of torch cost 2 us for each appended event, and pauses of tens of milliseconds.
"""

import gc

_YOUNG, _MIDDLE, _OLD = 50_000, 20, 20


def keep_collector_away() -> None:
    """Take what is alive now out of the collector's sight, and let it look at the rest a hundred times less often.

    For the process that owns the stores, once it has imported what it needs.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, _MIDDLE, _OLD)
