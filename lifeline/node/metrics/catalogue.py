"""The catalogue of all metrics of a node, with kind, labels and meaning; docs/metrics.md is generated from it.

Units are Prometheus' base units, totals end in ``_total``, and no label names a user or an item.
"""

from enum import StrEnum
from typing import NamedTuple

from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)


class MetricKind(StrEnum):
    """A metric's type in Prometheus."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class MetricSpec(NamedTuple):
    """One metric."""

    name: str
    kind: MetricKind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    """Upper bounds, ascending, without the infinite one."""

    def family(self) -> Metric:
        """Return a family without samples, for a scrape to fill."""
        match self.kind:
            case MetricKind.COUNTER:
                return CounterMetricFamily(self.name, self.help, labels=self.labels)
            case MetricKind.GAUGE:
                return GaugeMetricFamily(self.name, self.help, labels=self.labels)
            case MetricKind.HISTOGRAM:
                return HistogramMetricFamily(self.name, self.help, labels=self.labels)


def _counter(name: str, help_text: str, *labels: str) -> MetricSpec:
    return MetricSpec(name, MetricKind.COUNTER, help_text, labels)


def _gauge(name: str, help_text: str, *labels: str) -> MetricSpec:
    return MetricSpec(name, MetricKind.GAUGE, help_text, labels)


def _histogram(name: str, help_text: str, buckets: tuple[float, ...], *labels: str) -> MetricSpec:
    return MetricSpec(name, MetricKind.HISTOGRAM, help_text, labels, buckets)


_CALLS = ("grpc_type", "grpc_service", "grpc_method")
_SCORE_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_FRESH = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
# The buckets of the Go and Java libraries, so that their dashboards fit.
_GRPC_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

INFO = _gauge("lifeline_info", "1, with the version of the package.", "version")
LIVE = _gauge("lifeline_live", "1 while the process is live, as /livez reports.")
READY = _gauge("lifeline_ready", "1 while the node should get calls, as /readyz reports.")

RECORDS = _counter("lifeline_records_total", "Records of the actions topic that were applied.", "partition")
RECORD_BYTES = _counter("lifeline_record_bytes_total", "Bytes of keys and values of these records.", "partition")
ACTIONS = _counter("lifeline_actions_total", "Actions among these records that passed the checks.", "partition")
ERASURES = _counter("lifeline_erasures_total", "Erasures of users among these records.", "partition")
BATCHES = _counter("lifeline_batches_total", "Micro-batches applied.", "partition")
DEAD_LETTERS = _counter("lifeline_dead_letters_total", "Records published as dead letters.", "reason")
BATCH_SECONDS = _histogram(
    "lifeline_batch_seconds",
    "From when a batch leaves the queue until it is applied and its dead letters are acknowledged.",
    _FRESH,
)
ACTION_TO_READABLE = _histogram(
    "lifeline_action_to_readable_seconds",
    "From a record's own time until reads return it, for partitions that serve.",
    _FRESH,
)

STATE = _gauge("lifeline_partition_state", "1 for the state that an owned partition is in.", "partition", "state")
LAG_RECORDS = _gauge(
    "lifeline_lag_records",
    "Records known to be in the log and not applied yet, also those behind an open transaction.",
    "partition",
)
LAG_SECONDS = _gauge(
    "lifeline_lag_seconds", "Age of the oldest record that waits to be applied; 0 while none waits.", "partition"
)
OPEN_TRANSACTION = _gauge(
    "lifeline_open_transaction_seconds",
    "How long an open transaction has held back a partition's next record, while all before it are applied; else 0.",
    "partition",
)
APPLIED_OFFSET = _gauge("lifeline_applied_offset", "The last offset applied; -1 before the first.", "partition")
DURABLE_OFFSET = _gauge(
    "lifeline_durable_offset", "The last offset that survives the failures that store.durability covers.", "partition"
)
EVENTS = _gauge("lifeline_events", "Events in the store.", "partition")
FINGERPRINT = _gauge(
    "lifeline_fingerprint",
    "The low 52 bits of the state's fingerprint; equal on every node at the same applied offset.",
    "partition",
)
CATCH_UP_DONE = _gauge(
    "lifeline_catch_up_done_records", "Records applied since the partition was assigned to this node.", "partition"
)
CATCH_UP_TOTAL = _gauge(
    "lifeline_catch_up_total_records", "Records in the log that were not applied at the assignment.", "partition"
)
CATCH_UP_RATE = _gauge(
    "lifeline_catch_up_records_per_second", "Records a second from the assignment to the log's end.", "partition"
)
CATCH_UP_REMAINING = _gauge(
    "lifeline_catch_up_remaining_seconds", "Time to the log's end at that rate; 0 once it was reached.", "partition"
)
ADDED_PARTITIONS = _gauge(
    "lifeline_added_partitions", "Partitions of the actions topic beyond those that the data directory was built with."
)
REBALANCES = _counter("lifeline_rebalances_total", "Assignments that the group has made to this node.")
REBALANCE_SECONDS = _histogram(
    "lifeline_rebalance_seconds", "From the revocation to the next assignment.", (0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 60.0)
)

STANDBY_STATE = _gauge("lifeline_standby_state", "1 for the state of a followed partition.", "partition", "state")
STANDBY_LAG_RECORDS = _gauge(
    "lifeline_standby_lag_records", "Records of a followed partition that are not applied yet.", "partition"
)
STANDBY_MISMATCHES = _counter(
    "lifeline_standby_mismatches_total", "Fingerprints of followed partitions that differed from the owner's."
)

READS = _counter(
    "lifeline_reads_total", "Reads of a user's sequences, by whether the store has any event of the user.", "result"
)
EVENTS_ADDED = _counter("lifeline_events_added_total", "Events that were new to their sequence.")
EVENTS_REPEATED = _counter(
    "lifeline_events_repeated_total",
    "Events that their sequence had already, or that are older than the events it keeps.",
)
EVENTS_TRIMMED = _counter("lifeline_events_trimmed_total", "Events that a cap removed.")
EVENTS_EXPIRED = _counter("lifeline_events_expired_total", "Events that exceeded the maximum age.")
EVENTS_ERASED = _counter("lifeline_events_erased_total", "Events of users who were erased.")
CHUNKS_SEALED = _counter("lifeline_chunks_sealed_total", "Chunks sealed.")
LATE_REWRITES = _counter("lifeline_late_rewrites_total", "Chunks rewritten for events that came late.")
STORE_BYTES = _gauge("lifeline_store_bytes", "Bytes of a partition's files.", "partition")
WAL_BYTES = _gauge("lifeline_store_wal_bytes", "Bytes of a partition's write-ahead log.", "partition")
PENDING_COMPACTION = _gauge(
    "lifeline_store_pending_compaction_bytes", "Bytes that RocksDB's compactions still have to rewrite.", "partition"
)
BACKGROUND_ERRORS = _gauge(
    "lifeline_store_background_errors", "Errors of RocksDB's own threads since it was opened.", "partition"
)
BLOCK_CACHE_BYTES = _gauge("lifeline_store_block_cache_bytes", "Bytes in use of the block cache, including memtables.")

ITEM_RECORDS = _counter("lifeline_item_records_total", "Records of the items topic that were read.")
ITEM_PROBLEMS = _counter("lifeline_item_problems_total", "Records of the items topic that were skipped.", "problem")
ITEM_IDS = _gauge(
    "lifeline_item_ids", "Item ids that open partitions hold in memory; an item counts once for each partition."
)
ITEM_EMBEDDINGS = _gauge("lifeline_item_embeddings", "Items that have an embedding, or had one.")
MAX_ITEMS = _gauge("lifeline_max_items", "The limit of each of these two: store.max_items, or a limit by the memory.")
ITEMS_CAUGHT_UP = _gauge("lifeline_items_caught_up", "1 once the items topic is read to where it was at the start.")

ITEMS_OPEN_TRANSACTION = _gauge(
    "lifeline_items_open_transaction_seconds",
    "How long an open transaction on the items topic has held back later items; else 0.",
)

SIDE_RECORDS = _counter(
    "lifeline_side_records_total",
    "Records for the topics of selections and exposures, published or dropped.",
    "topic",
    "result",
)

SNAPSHOT_AGE = _gauge(
    "lifeline_snapshot_age_seconds",
    "Time since the creation of the newest complete snapshot of an owned partition.",
    "partition",
)

SCORE_QUEUE = _histogram("lifeline_score_queue_seconds", "How long Score calls waited for their turn.", _SCORE_BUCKETS)
SCORE_SECONDS = _histogram(
    "lifeline_score_seconds", "How long reading and scoring took, of Score calls that got their turn.", _SCORE_BUCKETS
)
SCORE_CANDIDATES = _counter("lifeline_scored_candidates_total", "Candidates that were scored.")
TOKEN_TABLE_READS = _counter(
    "lifeline_token_table_reads_total",
    "Score calls whose user's history was cached (found), and those that had to read it (made).",
    "outcome",
)
TOKEN_TABLES = _gauge("lifeline_token_tables", "Users whose histories are cached for the next Score call.")
TOKEN_TABLE_BYTES = _gauge("lifeline_token_table_bytes", "Memory of these cached histories.")

WAITS = _gauge("lifeline_waits", "Calls that wait for their min_offset to be applied.")
WAITS_REFUSED = _counter("lifeline_waits_refused_total", "Calls refused because too many others waited.")

GRPC_STARTED = _counter("grpc_server_started_total", "Calls that began.", *_CALLS)
GRPC_HANDLED = _counter("grpc_server_handled_total", "Calls that ended, by status.", *_CALLS, "grpc_code")
GRPC_SECONDS = _histogram("grpc_server_handling_seconds", "How long calls took in the node.", _GRPC_BUCKETS, *_CALLS)

CATALOGUE: tuple[MetricSpec, ...] = tuple(value for value in list(globals().values()) if isinstance(value, MetricSpec))
"""All metrics, in the order of this module."""
PROCESS_NOTE = "`process_*` and `python_info` are those of Prometheus' own client library."


def as_markdown() -> str:
    """Return docs/metrics.md."""
    lines = [
        "# Metrics",
        "",
        "Generated from `lifeline/node/metrics/catalogue.py` by `lifeline metrics`; do not edit. A node serves them at",
        "`http://<node.http_address>/metrics`.",
        PROCESS_NOTE,
        "",
        "| name | kind | labels | what it is |",
        "|---|---|---|---|",
    ]
    for metric in CATALOGUE:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        buckets = f" Buckets: {', '.join(f'{bound:g}' for bound in metric.buckets)}." if metric.buckets else ""
        lines.append(f"| `{metric.name}` | {metric.kind.value} | {labels} | {metric.help}{buckets} |")
    return "\n".join(lines) + "\n"
