"""Commands of `lifeline`, and stores that are damaged for them."""

import subprocess
import sys

from rocksdict import Options, Rdict

from lifeline.core.actions import Kind
from lifeline.core.partitioner import partition_of
from lifeline.core.paths import partition_dir
from lifeline.dev.node_process import NodeProcess
from lifeline.store.keys import sequence_prefix


def run_cli(node: NodeProcess, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "lifeline", *arguments, "--config", str(node.config)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def tamper(node: NodeProcess, user: str) -> None:
    """Delete a user's head from the files; the state record beside it still counts the user's events."""
    number = partition_of(user.encode(), node.settings.kafka.partitions)
    families = {name: Options(raw_mode=True) for name in ("rows", "chunks", "meta")}
    db = Rdict(str(partition_dir(node.settings.node.data_dir, number)), Options(raw_mode=True), families)
    rows = db.get_column_family("rows")
    del rows[sequence_prefix(user.encode(), Kind.EXPLICIT)]
    rows.close()
    db.close()
