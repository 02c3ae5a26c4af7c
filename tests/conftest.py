"""One real broker for the session: ours, or the cluster that LIFELINE_KAFKA__BOOTSTRAP_SERVERS names."""

import os
import random
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from lifeline.core.kafka_settings import KafkaSettings
from lifeline.scorer.kernels.instruction_set import InstructionSet, best
from tests.support.sanitizers import Sanitised, compiler

_LONG_TIMEOUT_S = 3_600


def pytest_configure(config: pytest.Config) -> None:
    # kafka-python reads its schemas with a function that Python 3.11 calls deprecated.
    config.addinivalue_line("filterwarnings", r"ignore:(read|open)_text is deprecated:DeprecationWarning")
    # Triton decides when it is imported: without a GPU its kernels run in its interpreter.
    if not Path("/dev/nvidiactl").exists():
        os.environ.setdefault("TRITON_INTERPRET", "1")
    # How long an example takes says how busy the machine is, and nothing of the code.
    hypothesis.settings.register_profile("lifeline", deadline=None)
    hypothesis.settings.load_profile("lifeline")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="the long form of the fault and fuzz tests: half an hour each")
    parser.addoption("--seed", type=int, help="of the first schedule or input; without: the short form's own, or any")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--long", default=False):
        for item in items:
            item.add_marker(pytest.mark.timeout(_LONG_TIMEOUT_S))


def pytest_collection_finish() -> None:
    # The folders at the top are the packages' other names, under which every class would be another one.
    if bare := {"store", "stream", "scorer"} & sys.modules.keys():
        raise pytest.UsageError(f"something imports {sorted(bare)}: import lifeline.{min(bare)}")


@pytest.fixture
def is_long(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--long", default=False))


@pytest.fixture
def first_seed(request: pytest.FixtureRequest, is_long: bool) -> int:
    """The same in every short run; in a long one another each time, which a failure names."""
    given = request.config.getoption("--seed", default=None)
    return int(given) if given is not None else random.SystemRandom().randrange(1 << 31) if is_long else 1


@pytest.fixture(scope="session")
def bootstrap_servers() -> Iterator[str]:
    # Imported here, where the filter above holds.
    from lifeline.dev.broker import broker_or_given  # noqa: PLC0415

    with broker_or_given(os.environ.get("LIFELINE_KAFKA__BOOTSTRAP_SERVERS")) as servers:
        yield servers


@pytest.fixture(scope="session")
def sanitised(tmp_path_factory: pytest.TempPathFactory) -> Sanitised:
    """Kernels under AddressSanitizer; skips where there are none."""
    if best() is InstructionSet.NONE or compiler() is None:
        pytest.skip("the kernels were not built, the processor lacks them, or there is no C++ compiler")
    return Sanitised.build(tmp_path_factory.mktemp("sanitised"))


@pytest.fixture
def kafka_settings(bootstrap_servers: str) -> KafkaSettings:
    """Settings of a cluster that runs, with topics and a group of this test's own (not created yet)."""
    return settings_of(bootstrap_servers)


def settings_of(bootstrap_servers: str) -> KafkaSettings:
    """Return settings with topics and a group that nobody else has."""
    name = uuid.uuid4().hex[:8]
    return KafkaSettings(
        bootstrap_servers=bootstrap_servers,
        actions_topic=f"actions-{name}",
        items_topic=f"items-{name}",
        group_id=f"group-{name}",
    )
