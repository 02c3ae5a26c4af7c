"""The judge against a store in this process, fed with the same log by the live path's own functions."""

import itertools
import json
import random
from pathlib import Path

import pytest

from lifeline.config import Settings
from lifeline.core.actions import Kind
from lifeline.core.kafka_settings import KafkaSettings
from lifeline.core.vocabulary import Vocabulary
from lifeline.store.memory import SharedMemory
from lifeline.store.partition import PartitionStore
from lifeline.store.recount import recount
from lifeline.store.settings import StoreSettings
from lifeline.stream.apply import apply_steps
from lifeline.stream.decode import Rules, decode
from lifeline.v1.action_pb2 import Action
from tests.support.chaos.cluster import TINY
from tests.support.chaos.judge import Law, PartitionJudge, Verdict, event_hash
from tests.support.chaos.logged import NOW_MS, Logged
from tests.support.chaos.traffic import START_MS, traffic

DOC = Path(__file__).parents[2] / "docs" / "store-format.md"


def settings_of(**store: object) -> Settings:
    return Settings(kafka=KafkaSettings(partitions=1), store=StoreSettings.model_validate(TINY | store))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("ages", [(None, None), (2, 1)])
def test_the_store_is_right_at_every_batch(tmp_path: Path, seed: int, ages: tuple[int | None, int | None]) -> None:
    settings = settings_of(max_explicit_age_days=ages[0], max_impression_age_days=ages[1])
    rng = random.Random(seed)
    records = [
        Logged(offset, sent.key, sent.value, timestamp=log_ms, timestamp_type=rng.choice((1, 1, 0)))
        for offset, sent in enumerate(itertools.islice(traffic(seed, 1), 4_000))
        for log_ms in [rng.choice((-1, START_MS + 20_000 * offset - 3_600_000, START_MS + 20_000 * offset + 3_600_000))]
    ]
    judge = PartitionJudge(Law.of(settings), 0)
    for record in records:
        judge.take(record)
    rules = Rules.of(settings.vocabulary, 1, settings.updater)
    store = PartitionStore.open(tmp_path, partition=0, settings=settings.store, memory=SharedMemory(settings.store))
    dead: dict[int, str] = {}
    at = 0
    while at < len(records):
        batch = records[at : at + rng.choice((1, 3, 100, 700))]
        at += len(batch)
        decoded = decode(batch, rules)
        dead |= {letter.record.offset: letter.reason.value for letter in decoded.dead_letters}
        apply_steps(store, decoded.steps)
        assert judge.at(store.applied_offset) == (store.state.events, store.fingerprint), f"offset {at - 1}"
    assert Verdict(*recount(store)) == judge.at(len(records) - 1)
    store.close()
    assert dead == judge.dead
    # Everything was met: trims, erasures, repeats, and every sort of bad record that one partition can have.
    assert len(set(dead.values())) == 6
    assert store.state.events < 3_000


def test_bad_records_have_the_reasons_of_the_list() -> None:
    judge = PartitionJudge(Law.of(Settings(kafka=KafkaSettings(partitions=64))), 0)
    good = Action(user_id="u", item_id=1, timestamp_ms=NOW_MS, action_type=1).SerializeToString()
    records: list[tuple[bytes | None, bytes | None]] = [
        (b"u", good + bytes(70_000)),
        (b"\xff", good),
        (None, None),
        (b"", good),
        (b"u", b""),
        (b"u", b"\x00\0\0\0\0\x04" + good),
        (b"x" * 257, None),
    ]
    for offset, (key, value) in enumerate(records):
        judge.take(Logged(offset, key, value))
    assert list(judge.dead.values()) == [
        "oversized",
        *["invalid_user_id"] * 4,
        "undecodable",
        "invalid_user_id",
    ]
    assert judge.at(len(records)) == Verdict(0, 0)


def test_the_hash_is_the_one_of_the_format() -> None:
    found = json.loads(DOC.read_text().partition("```json fingerprint\n")[2].partition("```")[0])
    event = found["event"]
    identity = (1_700_000_000_000 + event["after_ms"], event["item_id"], event["code"])
    assert f"{event_hash(event['user'].encode(), event['kind'], identity):032x}" == found["hash"]


def test_a_verdict_is_kept_for_every_offset() -> None:
    judge = PartitionJudge(Law.of(settings_of(max_explicit=2)), 0)
    for offset, item in ((3, 5), (4, 6), (9, 7), (10, 5)):
        action = Action(user_id="u", item_id=item, timestamp_ms=NOW_MS + item, action_type=1)
        judge.take(Logged(offset, b"u", action.SerializeToString()))
    judge.take(Logged(12, b"u", None))
    first, second, third = (event_hash(b"u", 0, (NOW_MS + item, item, 1 << 8)) for item in (5, 6, 7))
    assert judge.at(-1) == judge.at(2) == Verdict(0, 0)
    assert judge.at(3) == Verdict(1, first)
    assert judge.at(4) == judge.at(8) == Verdict(2, (first + second) % (1 << 128))
    assert judge.at(9) == judge.at(11) == Verdict(2, (second + third) % (1 << 128))
    assert judge.at(12) == judge.at(99) == Verdict(0, 0)


def test_law_names_the_impressions() -> None:
    law = Law.of(Settings(vocabulary=Vocabulary()))
    assert {kind for kind, which in law.kind_of_type.items() if which == Kind.IMPRESSION} == {5}
