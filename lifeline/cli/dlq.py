"""Commands on dead letters: list, show, retry."""

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lifeline.cli.console import (
    BootstrapOption,
    ConfigOption,
    JsonOption,
    complain,
    err,
    load,
    out,
    print_json,
    table,
    when,
)

if TYPE_CHECKING:
    from lifeline.core.kafka_settings import KafkaSettings
    from lifeline.stream.dead_letter_reader import Retried, RetryOutcome, StoredLetter

dlq_app = typer.Typer(help="Dead letters: records that could not be applied, kept whole.", no_args_is_help=True)

PartitionOption = Annotated[
    list[int] | None,
    typer.Option("--partition", min=0, help="may be given more than once; all without it", show_default=False),
]
ReasonOption = Annotated[
    str | None, typer.Option(help="only letters with this reason, as `dlq list` shows it", show_default=False)
]
_WHY_PASSED_OVER = {
    "stub": "they have only the beginning of their records; `lifeline dlq show` says where in the log the whole is",
    "erased": "their users were erased after them, or nothing says that they are newer than the erasure",
    "unproven": "the log does not go back to them, so an erasure may be gone from it; --unproven publishes them",
    "too_often": "they have been published again as often as --max-retries allows",
}
_SHOWN_BYTES = 256
_HEX_WIDTH = 32


@dlq_app.command("list")
def dlq_list(
    partition: PartitionOption = None,
    reason: ReasonOption = None,
    newest: Annotated[int, typer.Option(min=1, help="records from the end of each partition")] = 100,
    config: ConfigOption = None,
    bootstrap_servers: BootstrapOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the newest dead letters."""
    from lifeline.stream.dead_letter_headers import retries_of
    from lifeline.stream.dead_letter_reader import read_letters

    kafka = load(config, kafka__bootstrap_servers=bootstrap_servers).settings.kafka
    letters = list(
        read_letters(kafka, partitions=partition or (), newest=newest, wanted=lambda one: reason in (None, one.reason))
    )
    if as_json:
        print_json([_as_json(letter) for letter in letters])
        return
    rows = [
        (
            one.record.partition,
            one.record.offset,
            when(one.timestamp_ms) if one.timestamp_ms >= 0 else "-",
            _text(one.record.key),
            one.reason or "-",
            retries_of(one.record.headers),
            one.origin.message if one.origin else "-",
        )
        for one in letters
    ]
    columns = ("partition>", "offset>", "time of the record", "key", "reason", "retries>", "message")
    out.print(table(f"{kafka.dead_letter_topic}: {len(rows)} dead letters", columns, rows))


@dlq_app.command("show")
def dlq_show(
    partition: Annotated[int, typer.Argument(min=0, help="of the dead-letter topic")],
    offset: Annotated[int, typer.Argument(min=0, help="in that partition")],
    config: ConfigOption = None,
    bootstrap_servers: BootstrapOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show one dead letter: why it is one, where it comes from, its headers, and its value."""
    from lifeline.stream.dead_letter_reader import read_letter

    kafka = load(config, kafka__bootstrap_servers=bootstrap_servers).settings.kafka
    letter = read_letter(kafka, partition, offset)
    if as_json:
        print_json(_as_json(letter, whole=True))
        return
    record, origin = letter.record, letter.origin
    about = [
        ("reason", letter.reason or "-"),
        ("message", origin.message if origin else "-"),
        ("from", f"{origin.topic} {origin.partition}/{origin.offset} ({origin.system})" if origin else "-"),
        ("time of the record", when(letter.timestamp_ms) if letter.timestamp_ms >= 0 else "-"),
        ("kept since", when(record.timestamp) if record.timestamp >= 0 else "-"),
        ("key", _text(record.key)),
        ("value", "null: an erasure" if record.value is None else f"{len(record.value)} bytes"),
        *((f"header {name}", _text(value)) for name, value in record.headers),
    ]
    out.print(table(f"Dead letter {partition}/{offset}", ("", ""), about))
    out.print(_decoded(record.value) or _dump(record.value or b""), highlight=False, markup=False)


@dlq_app.command("retry")
def dlq_retry(
    partition: PartitionOption = None,
    offset: Annotated[
        int | None, typer.Option(min=0, help="one letter alone; with one --partition", show_default=False)
    ] = None,
    reason: ReasonOption = None,
    everything: Annotated[bool, typer.Option("--all", help="every letter of the partitions")] = False,
    max_retries: Annotated[int, typer.Option(min=1, help="letters published again so often are passed over")] = 3,
    unproven: Annotated[
        bool,
        typer.Option("--unproven", help="also letters from before the log's start, whose users may have been erased"),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would be done, and do nothing")] = False,
    config: ConfigOption = None,
    bootstrap_servers: BootstrapOption = None,
    as_json: JsonOption = False,
) -> None:
    """Publish dead letters to the actions topic again, once what was wrong has been mended.

    They stay in the dead-letter topic until its retention has passed. One that is still bad becomes a dead letter
    again, with its retries counted.

    A letter whose user was erased after it is passed over, and so is one that cannot be shown to be newer than an
    erasure of its user. To know, the actions topic is read from the place of the first letter to its end, in the
    partitions of the letters' users: about a minute for every five million records there. The letters are read twice.
    """
    from lifeline.stream.dead_letter_reader import RetryOutcome, read_letter, read_letters, retry_letters

    chosen = sum((offset is not None, reason is not None, everything))
    if chosen != 1:
        raise typer.BadParameter("say which: one of --offset (with --partition), --reason and --all")
    numbers = partition or []
    if offset is not None and len(numbers) != 1:
        raise typer.BadParameter("--offset is of one partition: give --partition once with it")
    kafka = load(config, kafka__bootstrap_servers=bootstrap_servers).settings.kafka

    def letters() -> "Iterator[StoredLetter]":
        if offset is not None:
            yield read_letter(kafka, numbers[0], offset)
        else:
            yield from read_letters(kafka, partitions=numbers, wanted=lambda one: reason in (None, one.reason))

    done = list(retry_letters(kafka, letters, max_retries=max_retries, dry_run=dry_run, unproven=unproven))
    counts = Counter(one.outcome for one in done)
    if as_json:
        print_json(
            {
                "dry_run": dry_run,
                "outcomes": {outcome.value: counts[outcome] for outcome in RetryOutcome},
                "letters": [
                    {
                        "partition": one.letter[0],
                        "offset": one.letter[1],
                        "outcome": one.outcome.value,
                        "to_partition": one.partition,
                        "to_offset": one.offset,
                    }
                    for one in done
                ],
            }
        )
    else:
        _print_retried(kafka, done, counts, dry_run=dry_run)
    if counts[RetryOutcome.OVERTAKEN]:
        complain(
            f"{counts[RetryOutcome.OVERTAKEN]} letters were published behind an erasure of their "
            "users that came meanwhile: `lifeline dlq show` has their keys; run `lifeline erase` for these users again"
        )
        raise typer.Exit(1)


def _print_retried(
    kafka: "KafkaSettings", done: "list[Retried]", counts: "Counter[RetryOutcome]", *, dry_run: bool
) -> None:
    rows = [
        (
            "/".join(map(str, one.letter)),
            one.outcome.value if not dry_run else f"{one.outcome.value} (dry run)",
            f"{one.partition}/{one.offset}" if one.offset >= 0 else "-",
        )
        for one in done
    ]
    out.print(table(f"{kafka.dead_letter_topic} to {kafka.actions_topic}", ("letter", "outcome", "now at"), rows))
    for outcome, count in counts.items():
        if why := _WHY_PASSED_OVER.get(outcome.value):
            out.print(f"{count:,} {outcome.value}: {why}", highlight=False)
    if not rows:
        err.print("nothing to retry: `lifeline dlq list` shows what is there")


def _as_json(letter: "StoredLetter", *, whole: bool = False) -> dict[str, Any]:
    from lifeline.stream.dead_letter_headers import retries_of

    record, origin = letter.record, letter.origin
    found: dict[str, Any] = {
        "partition": record.partition,
        "offset": record.offset,
        "timestamp_ms": letter.timestamp_ms,
        "kept_since_ms": record.timestamp,
        "key": _text(record.key),
        "reason": letter.reason,
        "retries": retries_of(record.headers),
        "origin": None if origin is None else origin._asdict(),
    }
    if whole:
        found["headers"] = [[name, _text(value)] for name, value in record.headers]
        found["value_hex"] = None if record.value is None else record.value.hex()
    return found


def _text(value: bytes | None) -> str:
    """Return text as it is, and other bytes in hexadecimal."""
    if value is None:
        return "null"
    try:
        shown = value.decode()
    except UnicodeDecodeError:
        return f"0x{value.hex()}"
    return shown if shown.isprintable() else f"0x{value.hex()}"


def _decoded(value: bytes | None) -> str:
    """Return the action in protobuf's text form; empty where the value is none."""
    from google.protobuf.message import DecodeError

    from lifeline.stream.decode import unframe
    from lifeline.v1.action_pb2 import Action

    if not value:
        return ""
    try:
        return str(Action.FromString(unframe(value)))
    except DecodeError:
        return ""


def _dump(value: bytes) -> str:
    lines = [
        f"{at:06x}  {value[at : at + _HEX_WIDTH].hex(' ', 4)}"
        for at in range(0, min(len(value), _SHOWN_BYTES), _HEX_WIDTH)
    ]
    left = len(value) - _SHOWN_BYTES
    return "\n".join([*lines, f"... and {left} bytes more: --json has them all"] if left > 0 else lines)
