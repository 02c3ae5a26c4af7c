"""Inspections as tables, and histograms of block characters."""

from collections.abc import Iterable, Iterator

from rich.filesize import decimal

from lifeline.cli.formats import utc
from lifeline.cli.inspection_json import event_rows, head_fields, shown_rows
from lifeline.cli.output import Part, Table
from lifeline.core.actions import Kind
from lifeline.core.sequence import AsOf
from lifeline.core.vocabulary import Vocabulary
from lifeline.store.fingerprint import as_text
from lifeline.store.inspection.histogram import Histogram
from lifeline.store.inspection.partition import KindTotals, PartitionInspection
from lifeline.store.inspection.records import Damage
from lifeline.store.inspection.sequences import ChunkDetail, ChunkInspection, SequenceInspection, UserInspection

_BAR_WIDTH = 40
_EIGHTHS = " ▏▎▍▌▋▊▉"
_FULL = "█"
# Bytes of an event in each column without encoding: int64, uint64 (the item id), uint16.
_RAW_COLUMNS = {"times": 8, "items": 8, "codes": 2}


def summary_table(inspections: Iterable[PartitionInspection]) -> Table:
    """Return a table with a row for each partition."""
    rows = [
        (
            inspection.partition,
            inspection.state.applied_offset,
            f"{inspection.users:,}",
            f"{inspection.state.events:,}",
            f"{inspection.items:,}",
            decimal(sum(group.bytes for group in inspection.files)),
            f"{inspection.sizes[-1].per_event:.2f}" if inspection.sizes else "-",
            as_text(inspection.state.fingerprint),
            inspection.damaged or "-",
        )
        for inspection in inspections
    ]
    columns = ("", "offset>", "users>", "events>", "items>", "on disk>", "B/event>", "fingerprint", "broken>")
    return Table("Partitions", columns, rows)


def partition_tables(inspection: PartitionInspection) -> Iterator[Part]:
    """Yield the parts of a partition."""
    yield from _title(inspection)
    yield _sequences(inspection)
    events = max(inspection.state.events, 1)
    total = max(sum(part.bytes for part in inspection.parts), 1)
    yield Table(
        "Bytes by kind of record, before RocksDB packs them",
        ("family", "what", "records>", "bytes>", "B/event>", "share>"),
        [
            (
                part.family,
                part.name,
                f"{part.records:,}",
                f"{part.bytes:,}",
                f"{part.bytes / events:.3f}",
                f"{part.bytes / total:.1%}",
            )
            for part in sorted(inspection.parts, key=lambda part: (part.family, -part.bytes))
        ],
    )
    yield Table(
        "Bytes per event, and how many times smaller than raw events (18 bytes, or 50 with an embedding)",
        ("what", "bytes>", "B/event>", "than 18>", "than 50>"),
        [
            (size.name, f"{size.bytes:,}", f"{size.per_event:.2f}", f"{size.ratio_18:.1f}x", f"{size.ratio_50:.1f}x")
            for size in inspection.sizes
        ],
    )
    yield Table(
        "Files",
        ("what", "files>", "bytes>"),
        [
            *(
                (f"tables of {group.family}, level {group.level}", group.tables, f"{group.bytes:,}")
                for group in inspection.tables
            ),
            *((group.name, group.files, f"{group.bytes:,}") for group in inspection.files if group.name != "tables"),
        ],
    )
    if inspection.encodings:
        yield Table(
            "Timestamps of chunks",
            ("encoding", "chunks>", "events>", "bits/event>"),
            [
                (each.encoding, f"{each.chunks:,}", f"{each.events:,}", f"{8 * each.timestamp_bytes / each.events:.2f}")
                for each in inspection.encodings
            ],
        )
    for kind, totals in inspection.kinds.items():
        if totals.sequences:
            yield histogram(f"Events per sequence: {kind.name.lower()}", "sequences", totals.events_per_sequence)
    if inspection.events_per_chunk.bins:
        yield histogram("Events per chunk", "chunks", inspection.events_per_chunk)
    if inspection.largest:
        yield Table(
            "Largest users",
            ("user", "events>", "bytes>", "B/event>"),
            [
                (
                    each.user,
                    f"{each.events:,}",
                    f"{each.bytes:,}",
                    f"{each.bytes / each.events:.2f}" if each.events else "-",
                )
                for each in inspection.largest
            ],
        )
    yield _statistics(inspection)
    yield from damage_table(inspection.damages, inspection.damaged)


def user_tables(inspection: UserInspection, *, show_all: bool) -> Iterator[Part]:
    """Yield the parts of a user."""
    for sequence in inspection.sequences:
        yield from _sequence_tables(inspection, sequence, show_all=show_all)
    yield from damage_table(inspection.damages, len(inspection.damages))


def chunk_tables(detail: ChunkDetail, vocabulary: Vocabulary, *, show_all: bool) -> Iterator[Part]:
    """Yield the parts of a chunk."""
    chunk, sequence = detail.chunk, detail.sequence
    name = f"{sequence.user}: {sequence.kind.name.lower()} chunk {chunk.number}, where 0 is the oldest"
    yield Table(
        f"{name}, of {len(sequence.chunks)} {_location(detail.as_of)}",
        ("field", "value"),
        [
            ("fence", _fence(chunk.fence)),
            ("checksum", "correct" if chunk.intact else "BROKEN: see below"),
            ("bytes", f"{chunk.bytes:,}"),
            *(_chunk_header(chunk) if chunk.intact else ()),
        ],
    )
    if chunk.intact:
        columns = zip(_RAW_COLUMNS.items(), (chunk.timestamp_bytes, chunk.ordinal_bytes, chunk.code_bytes), strict=True)
        yield Table(
            "Columns",
            ("column", "bytes>", "bits/event>", "raw>", "ratio>"),
            [
                (
                    name,
                    f"{size:,}",
                    f"{8 * size / chunk.events:.2f}",
                    f"{width * chunk.events:,}",
                    f"{width * chunk.events / size:.1f}x",
                )
                for (name, width), size in columns
            ],
        )
    rows = event_rows(detail, vocabulary, show_all=show_all)
    if rows is not None:
        title = (
            "Events" if len(rows) == chunk.events else f"Events: the first and last {len(rows) // 2}; --all shows all"
        )
        yield Table(
            title,
            ("no.>", "time (UTC)", "item>", "action", "surface", *([""] if chunk.skip else [])),
            [
                (
                    row["number"],
                    _when(row["timestamp_ms"]),
                    row["item_id"],
                    row["action_type"],
                    row["surface"],
                    *(["trimmed" if row["trimmed"] else ""] if chunk.skip else []),
                )
                for row in rows
            ],
        )
    yield from damage_table(detail.damages, len(detail.damages))


def histogram(title: str, what: str, counted: Histogram) -> Table:
    """Return a bar for each bin."""
    bins = counted.bins
    largest, total = max(each.values for each in bins), sum(each.values for each in bins)
    return Table(
        title,
        ("events>", "", f"{what}>", "share>"),
        [
            (
                f"{each.low:,}" if each.low == each.high else f"{each.low:,} to {each.high:,}",
                bar(each.values, largest),
                f"{each.values:,}",
                f"{each.values / total:.1%}",
            )
            for each in bins
        ],
    )


def bar(value: int, largest: int, width: int = _BAR_WIDTH) -> str:
    """Return a bar of block characters, at least an eighth of a block long if the value is above 0."""
    eighths = max(round(8 * width * value / largest), 1) if value else 0
    return _FULL * (eighths // 8) + _EIGHTHS[eighths % 8].strip()


def damage_table(damages: tuple[Damage, ...], count: int) -> Iterator[Part]:
    """Yield a table of the broken records, if there are any, and what to do."""
    if not damages:
        return
    more = f", the first {len(damages)}" if count > len(damages) else ""
    yield Table(
        f"BROKEN: {count:,} records{more}",
        ("user", "record", "reason"),
        [(each.user or "-", each.record, each.why) for each in damages],
    )
    yield (
        "Stop the node, set the partition's directory aside and start the node: it rebuilds the partition from the "
        "topic."
    )


def _title(inspection: PartitionInspection) -> Iterator[Part]:
    state, contract = inspection.state, inspection.contract
    rows = [
        ("directory", inspection.path),
        ("applied offset", state.applied_offset),
        ("watermark (UTC)", _when(state.watermark_ms)),
        ("users", f"{inspection.users:,}"),
        ("events", f"{state.events:,}"),
        ("items", f"{inspection.items:,}"),
        ("fingerprint", as_text(state.fingerprint)),
    ]
    if contract is not None:
        for kind in Kind:
            age = contract.age_hours(kind)
            kept = f"the newest {contract.cap(kind):,}" + (f", for {age:,} hours at most" if age else "")
            rows.append((f"kept of {kind.name.lower()} events", kept))
    yield Table(f"Partition {inspection.partition}", ("field", "value"), rows)


def _sequences(inspection: PartitionInspection) -> Table:
    names = ("sequences", "events", "in heads", "in segments", "in chunks", "chunks", "trimmed inside chunks")
    columns = {
        kind.name.lower(): (
            *(f"{count:,}" for count in _counts(totals)),
            _when(totals.oldest_timestamp_ms),
            _when(totals.newest_timestamp_ms),
        )
        for kind, totals in inspection.kinds.items()
    }
    rows = zip((*names, "from (UTC)", "to (UTC)"), *columns.values(), strict=True)
    return Table("Sequences", ("", *(f"{name}>" for name in columns)), rows)


def _counts(totals: KindTotals) -> tuple[int, ...]:
    stored = totals.inline, totals.in_segments, totals.sealed
    return totals.sequences, totals.events, *stored, totals.chunks, totals.skipped


def _statistics(inspection: PartitionInspection) -> Table:
    return Table(
        "RocksDB",
        ("family", "keys (estimate)>", "to compact>", "tables on level 0>"),
        [
            (name, f"{family.keys:,}", decimal(family.pending_compaction_bytes), family.level_zero_tables)
            for name, family in inspection.statistics.families.items()
        ],
    )


def _sequence_tables(inspection: UserInspection, sequence: SequenceInspection, *, show_all: bool) -> Iterator[Part]:
    events = sequence.events
    rows: list[tuple[str, object]] = [
        ("events", f"{events:,}"),
        ("from (UTC)", _when(sequence.oldest_timestamp_ms)),
        ("to (UTC)", _when(sequence.newest_timestamp_ms)),
        ("bytes, with keys", f"{sequence.bytes:,}"),
        ("B/event", f"{sequence.bytes / events:.2f}" if events else "-"),
        ("bytes of the head", f"{sequence.head_bytes:,}"),
    ]
    if sequence.head is not None:
        rows += [
            (f"head: {name.replace('_', ' ')}", _field(value)) for name, value in head_fields(sequence.head).items()
        ]
    yield Table(
        f"{inspection.user}: {sequence.kind.name.lower()} {_location(inspection.as_of)}",
        ("field", "value"),
        rows,
    )
    if sequence.segments:
        yield Table(
            "Segments",
            ("number>", "form", "events>", "bytes>", "B/event>"),
            [
                (
                    each.number,
                    each.form,
                    f"{each.events:,}",
                    f"{each.bytes:,}",
                    f"{each.bytes / each.events:.2f}" if each.events else "-",
                )
                for each in sequence.segments
            ],
        )
    if sequence.chunks:
        shown = shown_rows(len(sequence.chunks), show_all=show_all)
        omitted = len(sequence.chunks) - len(shown)
        yield Table(
            f"Chunks: {len(sequence.chunks)}, bytes by column{f'; {omitted} more with --all' if omitted else ''}",
            ("no.>", "from (UTC)", "events>", "times>", "items>", "codes>", "B/event>", "encoding of times"),
            [_chunk_row(sequence.chunks[at]) for at in shown],
        )


def _chunk_row(chunk: ChunkInspection) -> tuple[object, ...]:
    if not chunk.intact:
        return chunk.number, _when(chunk.fence.timestamp_ms), *("-" * 5), "broken"
    return (
        chunk.number,
        _when(chunk.first_timestamp_ms),
        f"{chunk.events - chunk.skip}/{chunk.events}" if chunk.skip else chunk.events,
        chunk.timestamp_bytes,
        chunk.ordinal_bytes,
        chunk.code_bytes,
        f"{chunk.bytes / chunk.events:.2f}",
        chunk.encoding,
    )


def _chunk_header(chunk: ChunkInspection) -> Iterator[tuple[str, object]]:
    yield "events", f"{chunk.events:,}"
    yield "trimmed events", f"{chunk.skip:,}"
    yield "from (UTC)", _when(chunk.first_timestamp_ms)
    yield "to (UTC)", _when(chunk.last_timestamp_ms)
    yield "encoding of times", chunk.encoding
    yield "B/event", f"{chunk.bytes / chunk.events:.2f}"


def _location(as_of: AsOf) -> str:
    return f"(partition {as_of.partition}, offset {as_of.applied_offset})"


def _field(value: object) -> str:
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return ", ".join(f"{name} {_field(each)}" for name, each in value._asdict().items())
    return _fence(value) if isinstance(value, tuple) else "-" if value is None else str(value)


def _fence(fence: tuple[object, ...]) -> str:
    return "-".join(map(str, fence))


def _when(timestamp_ms: int | None) -> str:
    if timestamp_ms is None:
        return "-"
    try:
        return utc(timestamp_ms)
    except (ValueError, OverflowError, OSError):
        # The year is outside the range of datetime.
        return f"{timestamp_ms} ms"
