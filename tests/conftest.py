"""One real broker for the session: ours, or the cluster that LIFELINE_KAFKA__BOOTSTRAP_SERVERS names."""

import gc
import os
import random
import shutil
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest

from lifeline.core.kafka_settings import KafkaSettings
from lifeline.scorer.kernels.instruction_set import InstructionSet, best
from tests.support.distribution import Scheduling, order, tier_of, write_alone
from tests.support.once import once
from tests.support.sanitizers import Sanitised, compiler
from tests.support.shared_broker import BrokerHost, shared_broker

if TYPE_CHECKING:
    from tests.support.secure_servers import Authority

_LONG_TIMEOUT_S = 3_600
_BROKER = "LIFELINE_KAFKA__BOOTSTRAP_SERVERS"
_FAILED_TIERS: set[str] = set()
_HOST = pytest.StashKey[BrokerHost]()
_SHARED = pytest.StashKey[Path]()
_ALONE = "alone.json"


def pytest_configure(config: pytest.Config) -> None:
    # kafka-python reads its schemas with a function that Python 3.11 calls deprecated.
    config.addinivalue_line("filterwarnings", r"ignore:(read|open)_text is deprecated:DeprecationWarning")
    # Triton decides when it is imported: without a GPU its kernels run in its interpreter.
    if not Path("/dev/nvidiactl").exists():
        os.environ.setdefault("TRITON_INTERPRET", "1")
    # Workers share the processors: a second thread of PyTorch would mostly spin, at twice the processor time.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # Without bytecode each child process compiles every module that it imports: a node starts in twice the time.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    # The developer's proxy is not asked for nodes and services of the tests, which are on loopback.
    for name in ("no_grpc_proxy", "no_proxy"):
        os.environ[name] = ",".join(filter(None, (os.environ.get(name), "127.0.0.1,localhost")))
    # A console keeps the width that COLUMNS names when it is made: no test's, and not the caller's.
    os.environ.pop("COLUMNS", None)
    import lifeline.cli.console  # noqa: F401, PLC0415

    # How long an example takes says how busy the machine is, and nothing of the code.
    hypothesis.settings.register_profile("lifeline", deadline=None)
    hypothesis.settings.load_profile("lifeline")


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a new worker of pytest-xdist where to ask for the broker; called in the controller."""
    config: pytest.Config = node.config
    if _HOST not in config.stash:
        config.stash[_HOST] = BrokerHost()
        config.stash[_SHARED] = Path(tempfile.mkdtemp(prefix="lifeline-tests-"))
    node.workerinput["broker_port"] = config.stash[_HOST].port
    node.workerinput["shared_dir"] = str(config.stash[_SHARED])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduling | None:
    if config.getoption("dist") != "load":
        return None
    return Scheduling(config, log, config.stash[_SHARED] / _ALONE)


def pytest_unconfigure(config: pytest.Config) -> None:
    if host := config.stash.get(_HOST, None):
        host.close()
        shutil.rmtree(config.stash[_SHARED], ignore_errors=True)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="the long form of the fault and fuzz tests: half an hour each")
    parser.addoption("--failed-tiers", type=Path, help="a file to name the tiers in that have failed, one in a line")
    parser.addoption("--seed", type=int, help="of the first schedule or input; without: the short form's own, or any")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        if "bootstrap_servers" in fixtures:
            item.add_marker(pytest.mark.kafka)
        if "sanitised" in fixtures:
            item.add_marker(pytest.mark.slow)
        if config.getoption("--long", default=False):
            item.add_marker(pytest.mark.timeout(_LONG_TIMEOUT_S))
        item.user_properties.append(("tier", tier_of(item)))
    if hasattr(config, "workerinput"):
        order(items)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    # Before pytest-xdist's own hook, which tells the controller to hand out the tests.
    if worker := getattr(session.config, "workerinput", None):
        write_alone(Path(worker["shared_dir"]) / _ALONE, session.items)
    # The folders at the top are the packages' other names, under which every class would be another one.
    if bare := {"store", "stream", "scorer"} & sys.modules.keys():
        raise pytest.UsageError(f"something imports {sorted(bare)}: import lifeline.{min(bare)}")
    # Modules and tests stay until the end: without this, each full garbage collection visits a million objects.
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note which tier a failure is of: in the controller, which hears of every test, as the tests go on."""
    if report.failed:
        _FAILED_TIERS.add(next((str(value) for name, value in report.user_properties if name == "tier"), "unit"))


def pytest_sessionfinish(session: pytest.Session) -> None:
    # Extension modules report what is not freed at exit.
    gc.unfreeze()
    path: Path | None = session.config.getoption("--failed-tiers")
    if path is not None and not hasattr(session.config, "workerinput"):
        path.write_text("".join(f"{tier}\n" for tier in sorted(_FAILED_TIERS)))


@pytest.fixture
def is_long(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--long", default=False))


@pytest.fixture
def first_seed(request: pytest.FixtureRequest, is_long: bool) -> int:
    """The same in every short run; in a long one another each time, which a failure names."""
    seed = request.config.getoption("--seed", default=None)
    return int(seed) if seed is not None else random.SystemRandom().randrange(1 << 31) if is_long else 1


@pytest.fixture(scope="session")
def bootstrap_servers(request: pytest.FixtureRequest) -> Iterator[str]:
    # Imported here, where the filter above holds.
    from lifeline.dev.broker import cluster_or_broker  # noqa: PLC0415

    servers = os.environ.get(_BROKER)
    worker: dict[str, Any] | None = getattr(request.config, "workerinput", None)
    if not servers and worker is not None:
        servers = shared_broker(worker["broker_port"])
    with cluster_or_broker(servers) as servers:
        yield servers


@pytest.fixture(scope="session")
def sanitised(tmp_path_factory: pytest.TempPathFactory) -> Sanitised:
    """Kernels under AddressSanitizer; skips where there are none."""
    if best() is InstructionSet.NONE or compiler() is None:
        pytest.skip("the kernels were not built, the processor lacks them, or there is no C++ compiler")

    def build() -> str:
        built = Sanitised.build(tmp_path_factory.mktemp("sanitised"))
        return f"{built.library}\n{built.runtime}"

    library, runtime = once(tmp_path_factory, "sanitised", build).splitlines()
    return Sanitised(Path(library), runtime)


@pytest.fixture
def authority(tmp_path: Path) -> "Authority":
    """Return the CA that the nodes under test trust."""
    return make_authority(tmp_path / "authority")


@pytest.fixture
def other_authority(tmp_path: Path) -> "Authority":
    """Return a CA that the nodes under test do not trust."""
    return make_authority(tmp_path / "other-authority")


def make_authority(directory: Path) -> "Authority":
    # Imported here, because few tests need gRPC and certificates.
    from tests.support.secure_servers import Authority  # noqa: PLC0415

    return Authority(directory)


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
