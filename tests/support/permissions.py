"""Files that other users of the machine can open."""

import stat
from pathlib import Path

from lifeline.store.data_lock import GROUP_AND_OTHERS


def open_to_others(place: Path) -> list[str]:
    return [str(path) for path in (place, *place.rglob("*")) if stat.S_IMODE(path.lstat().st_mode) & GROUP_AND_OTHERS]
