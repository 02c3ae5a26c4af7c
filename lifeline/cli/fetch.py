"""The progress display of a fetch of Apache Kafka."""

from collections.abc import Iterator
from contextlib import contextmanager

from lifeline.cli.output import Output
from lifeline.dev.kafka_jars import FetchProgress, Progress


@contextmanager
def fetch_display() -> Iterator[Progress]:
    """Yield a callback that shows a bar once there is something to fetch."""
    with Output().progress() as bar:
        task = None

        def show(state: FetchProgress) -> None:
            nonlocal task
            if task is None:
                task = bar.add_task("fetching Apache Kafka", total=None, note="")
            bar.update(
                task,
                completed=state.artifact,
                total=state.artifacts or None,
                note=f"{state.size_bytes / 1e6:.1f} MB  {state.name}",
            )

        yield show
