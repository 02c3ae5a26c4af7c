"""`lifeline dlq`: list, show and retry dead letters."""

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lifeline.cli.formats import utc
from lifeline.cli.lazy import command_group
from lifeline.cli.options import BootstrapOption, ConfigOption, JsonOption, load_config
from lifeline.cli.output import Output, Part, Table

if TYPE_CHECKING:
    from lifeline.core.kafka_settings import KafkaSettings
    from lifeline.stream.dead_letter_reader import RetryOutcome, RetryResult, StoredLetter

dlq = command_group("List, show and retry dead letters (records not applied).")

_PartitionsOption = Annotated[
    list[int] | None,
    typer.Option("--partition", min=0, help="only this partition; may be repeated", show_default="all"),
]
_ReasonOption = Annotated[str | None, typer.Option(help="only letters with this reason", show_default=False)]
_WHY_SKIPPED = {
    "stub": "they hold only the start of their records; `lifeline dlq show` prints the offsets of the whole records",
    "erased": "their users were erased after them, or the order of the two is unknown",
    "unproven": "they are older than the log, which may have lost an erasure of their users; --unproven publishes them",
    "too_often": "they were retried as often as --max-retries allows",
}
_SHOWN_BYTES = 256
_HEX_WIDTH = 32


@dlq.command("list")
def list_letters(
    partition: _PartitionsOption = None,
    reason: _ReasonOption = None,
    newest: Annotated[int, typer.Option(min=1, help="read so many records from the end of each partition")] = 100,
    config: ConfigOption = None,
    bootstrap_servers: BootstrapOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the newest dead letters."""
    from lifeline.stream.dead_letter_headers import retries_of
    from lifeline.stream.dead_letter_reader import read_letters

    kafka = load_config(config, kafka__bootstrap_servers=bootstrap_servers).settings.kafka
    letters = list(
        read_letters(
            kafka,
            partitions=partition or (),
            newest=newest,
            predicate=lambda letter: reason in (None, letter.reason),
        )
    )
    columns = ("partition>", "offset>", "time of the record", "key", "reason", "retries>", "message")
    Output(as_json=as_json).show(
        text=lambda: [
            Table(
                f"{kafka.dead_letter_topic}: {len(letters)} dead letters",
                columns,
                [
                    (
                        letter.record.partition,
                        letter.record.offset,
                        utc(letter.timestamp_ms) if letter.timestamp_ms >= 0 else "-",
                        _text(letter.record.key),
                        letter.reason or "-",
                        retries_of(letter.record.headers),
                        letter.origin.message if letter.origin else "-",
                    )
                    for letter in letters
                ],
            )
        ],
        document=lambda: [_document(letter) for letter in letters],
    )


@dlq.command("show")
def show(
    partition: Annotated[int, typer.Argument(min=0, help="partition of the dead-letter topic")],
    offset: Annotated[int, typer.Argument(min=0, help="offset in this partition")],
    config: ConfigOption = None,
    bootstrap_servers: BootstrapOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a dead letter with its reason, origin and value."""
    from lifeline.stream.dead_letter_reader import read_letter

    kafka = load_config(config, kafka__bootstrap_servers=bootstrap_servers).settings.kafka
    letter = read_letter(kafka, partition, offset)
    record, origin = letter.record, letter.origin
    fields = [
        ("reason", letter.reason or "-"),
        ("message", origin.message if origin else "-"),
        ("from", f"{origin.topic} {origin.partition}/{origin.offset} ({origin.system})" if origin else "-"),
        ("time of the record", utc(letter.timestamp_ms) if letter.timestamp_ms >= 0 else "-"),
        ("dead letter since", utc(record.timestamp) if record.timestamp >= 0 else "-"),
        ("key", _text(record.key)),
        ("value", "null: an erasure" if record.value is None else f"{len(record.value)} bytes"),
        *((f"header {name}", _text(value)) for name, value in record.headers),
    ]
    Output(as_json=as_json).show(
        text=lambda: [
            Table(f"Dead letter {partition}/{offset}", ("", ""), fields),
            *(_decoded(record.value) or _dump(record.value or b"")),
        ],
        document=lambda: _document(letter, with_value=True),
    )


@dlq.command("retry")
def retry(
    partition: _PartitionsOption = None,
    offset: Annotated[
        int | None, typer.Option(min=0, help="retry only this letter; needs one --partition", show_default=False)
    ] = None,
    reason: _ReasonOption = None,
    everything: Annotated[bool, typer.Option("--all", help="retry every letter of the partitions")] = False,
    max_retries: Annotated[int, typer.Option(min=1, help="skip letters that were retried so many times")] = 3,
    unproven: Annotated[
        bool,
        typer.Option(
            "--unproven",
            help="also retry letters that are older than the log, although their users may have been erased",
        ),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print the plan and change nothing")] = False,
    config: ConfigOption = None,
    bootstrap_servers: BootstrapOption = None,
    as_json: JsonOption = False,
) -> None:
    """Publish dead letters to the actions topic again.

    Correct the cause first: a letter that still cannot be applied becomes a dead letter again, with a higher count of
    retries. The letters stay in the dead-letter topic until its retention removes them.

    A letter is skipped if its user was erased after it, or if the order of the two is unknown. To check this, the
    command reads the actions topic from the offset of the oldest letter to the end, in the partitions of the letters'
    users, which takes about a minute for five million records. It reads the letters twice.
    """
    from lifeline.stream.dead_letter_reader import RetryOutcome, read_letter, read_letters, retry_letters

    if sum((offset is not None, reason is not None, everything)) != 1:
        raise typer.BadParameter("give one of --offset (with --partition), --reason and --all")
    numbers = partition or []
    if offset is not None and len(numbers) != 1:
        raise typer.BadParameter("--offset needs exactly one --partition")
    output = Output(as_json=as_json)
    kafka = load_config(config, kafka__bootstrap_servers=bootstrap_servers).settings.kafka

    def letters() -> "Iterator[StoredLetter]":
        if offset is not None:
            yield read_letter(kafka, numbers[0], offset)
        else:
            yield from read_letters(kafka, partitions=numbers, predicate=lambda letter: reason in (None, letter.reason))

    results = list(retry_letters(kafka, letters, max_retries=max_retries, dry_run=dry_run, unproven=unproven))
    counts = Counter(result.outcome for result in results)
    output.show(
        text=lambda: _retry_text(kafka, results, counts, dry_run=dry_run),
        document=lambda: {
            "dry_run": dry_run,
            "outcomes": {outcome.value: counts[outcome] for outcome in RetryOutcome},
            "letters": [
                {
                    "partition": result.letter[0],
                    "offset": result.letter[1],
                    "outcome": result.outcome.value,
                    "to_partition": result.partition,
                    "to_offset": result.offset,
                }
                for result in results
            ],
        },
    )
    if not results:
        output.note("nothing to retry: `lifeline dlq list` prints the dead letters")
    if counts[RetryOutcome.OVERTAKEN]:
        output.error(
            f"{counts[RetryOutcome.OVERTAKEN]} letters were published after an erasure of their users that arrived "
            "meanwhile: `lifeline dlq show` prints their keys; run `lifeline erase` for these users again"
        )
        raise typer.Exit(1)


def _retry_text(
    kafka: "KafkaSettings", results: "list[RetryResult]", counts: "Counter[RetryOutcome]", *, dry_run: bool
) -> Iterator[Part]:
    rows = [
        (
            "/".join(map(str, result.letter)),
            f"{result.outcome.value} (dry run)" if dry_run else result.outcome.value,
            f"{result.partition}/{result.offset}" if result.offset >= 0 else "-",
        )
        for result in results
    ]
    yield Table(f"{kafka.dead_letter_topic} to {kafka.actions_topic}", ("letter", "outcome", "now at"), rows)
    for outcome, count in counts.items():
        if why := _WHY_SKIPPED.get(outcome.value):
            yield f"{count:,} {outcome.value}: {why}"


def _document(letter: "StoredLetter", *, with_value: bool = False) -> dict[str, Any]:
    from lifeline.stream.dead_letter_headers import retries_of

    record, origin = letter.record, letter.origin
    document: dict[str, Any] = {
        "partition": record.partition,
        "offset": record.offset,
        "timestamp_ms": letter.timestamp_ms,
        "kept_since_ms": record.timestamp,
        "key": _text(record.key),
        "reason": letter.reason,
        "retries": retries_of(record.headers),
        "origin": None if origin is None else origin._asdict(),
    }
    if with_value:
        document["headers"] = [[name, _text(value)] for name, value in record.headers]
        document["value_hex"] = None if record.value is None else record.value.hex()
    return document


def _text(value: bytes | None) -> str:
    """Return printable text unchanged, and other bytes in hexadecimal."""
    if value is None:
        return "null"
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return f"0x{value.hex()}"
    return text if text.isprintable() else f"0x{value.hex()}"


def _decoded(value: bytes | None) -> list[str]:
    """Return the lines of the action in protobuf's text form; none if the value is not an action."""
    from google.protobuf.message import DecodeError

    from lifeline.stream.decode import unframe
    from lifeline.v1.action_pb2 import Action

    if not value:
        return []
    try:
        return str(Action.FromString(unframe(value))).splitlines()
    except DecodeError:
        return []


def _dump(value: bytes) -> list[str]:
    lines = [
        f"{at:06x}  {value[at : at + _HEX_WIDTH].hex(' ', 4)}"
        for at in range(0, min(len(value), _SHOWN_BYTES), _HEX_WIDTH)
    ]
    left = len(value) - _SHOWN_BYTES
    return [*lines, f"... and {left} more bytes: --json prints all"] if left > 0 else lines
