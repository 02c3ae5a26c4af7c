"""What a user installs: one import package, typed, and enough without extras to publish, read and score."""

import re
import sys
import sysconfig
import tarfile
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

import lifeline
from lifeline.core.kafka_settings import KafkaSettings
from lifeline.core.topics import create_topics
from lifeline.core.vocabulary import Vocabulary
from lifeline.dev.node_process import NodeProcess, settings_for
from tests.support.wheel import ROOT, Environment, build_sdist, build_wheel, has_compiler, run

# Builds a wheel, and an environment that has it.
pytestmark = pytest.mark.slow

INFO = f"lifeline_store-{lifeline.__version__}.dist-info"
LIBRARY = "lifeline/scorer/kernels/lifeline_kernels.so"
READY_S = 120.0

# A service with packages of its own that are called store and stream, as Django's and GetStream's are.
SERVICE = '''
"""Publish three actions and read them back."""

import sys

import store
import stream

from lifeline.client import LifelineClient, LifelineError
from lifeline.core.actions import Kind
from lifeline.core.kafka_settings import KafkaSettings
from lifeline.core.sequence import SequenceQuery
from lifeline.producer import LifelineProducer
from lifeline.v1.action_pb2 import Action


def publish(settings: KafkaSettings, user: str, items: list[int]) -> int:
    with LifelineProducer(settings) as producer:
        sent = [
            producer.publish(Action(user_id=user, item_id=item, timestamp_ms=1_000 + item, action_type=2))
            for item in items
        ]
        return sent[-1].result(30).offset


def read(address: str, user: str, min_offset: int) -> list[int]:
    with LifelineClient(address, timeout_s=30) as client:
        answer = client.get_sequence(user, SequenceQuery(newest=2), min_offset=min_offset)
        try:
            client.score(user, [1])
        except LifelineError as error:
            assert error.reason == "MODEL_NOT_LOADED", error
    return [event.item_id for event in answer.sequences[Kind.EXPLICIT].identities()]


def main(bootstrap_servers: str, actions_topic: str, items_topic: str, address: str) -> None:
    settings = KafkaSettings(
        bootstrap_servers=bootstrap_servers, actions_topic=actions_topic, items_topic=items_topic
    )
    offset = publish(settings, "ann", [7, 8, 9])
    print(read(address, "ann", offset))
    print(store.OWNER, stream.OWNER)
    rooms = ("lifeline.store", "lifeline.stream", "lifeline.scorer")
    print([name for name in sys.modules if name.startswith(rooms)])


if __name__ == "__main__":
    main(*sys.argv[1:])
'''


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_sdist(tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel as an installer builds it: from the sdist, away from the checkout."""
    return build_wheel(sdist, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return Environment.create(tmp_path_factory.mktemp("bare") / "venv", wheel)


@pytest.fixture
def service(tmp_path: Path) -> Path:
    """A folder with the service and its two packages."""
    for name in ("store", "stream"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text('OWNER = "somebody else"\n')
    (tmp_path / "service.py").write_text(SERVICE)
    return tmp_path


def contents(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        return Parser().parsestr(archive.read(f"{INFO}/METADATA").decode())


def test_the_wheel_has_one_import_package(wheel: Path) -> None:
    assert {name.partition("/")[0] for name in contents(wheel)} == {"lifeline", INFO}


def test_the_wheel_has_every_module_and_data_file_of_the_checkout(wheel: Path) -> None:
    folders = [ROOT / "lifeline", *(path.resolve() for path in (ROOT / "lifeline").iterdir() if path.is_symlink())]
    expected = {
        # What lies in store/, stream/ or scorer/ is installed as lifeline.store, ...
        str(("lifeline" / path.relative_to(ROOT)) if folder.name != "lifeline" else path.relative_to(ROOT))
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.name != Path(LIBRARY).name
    }
    packed = {name for name in contents(wheel) if name.startswith("lifeline/")}
    assert packed - {LIBRARY} == expected
    assert (LIBRARY in packed) == has_compiler()
    assert {
        "lifeline/py.typed",
        "lifeline/dev/kafka_jars.lock",
        "lifeline/sources/git-vocabulary.toml",
        "lifeline/store/partition.py",
    } <= packed


def test_no_text_of_the_wheel_names_a_file_of_deploy_or_examples(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        texts = {name: archive.read(name).decode() for name in archive.namelist() if name.endswith(".py")}
    assert texts
    assert [name for name, text in texts.items() if re.search(r"\b(deploy|examples)/[\w-]+\.\w", text)] == []


def test_the_wheel_is_called_lifeline_store_and_its_command_lifeline(wheel: Path) -> None:
    fields = metadata(wheel)
    assert (fields["Name"], fields["Version"]) == ("lifeline-store", lifeline.__version__)
    assert {"all", "broker", "gpu", "load", "node", "scorer", "train"} == set(fields.get_all("Provides-Extra", []))
    with zipfile.ZipFile(wheel) as archive:
        assert "lifeline = lifeline.cli:main" in archive.read(f"{INFO}/entry_points.txt").decode()


def test_the_wheel_fits_every_python_of_the_platform(wheel: Path) -> None:
    *_, python, abi, platform = wheel.stem.split("-")
    assert (python, abi) == ("py3", "none")
    # Without a compiler it has no library, and fits every platform.
    assert platform == ("any" if not has_compiler() else sysconfig.get_platform().replace("-", "_").replace(".", "_"))
    with zipfile.ZipFile(wheel) as archive:
        tags = Parser().parsestr(archive.read(f"{INFO}/WHEEL").decode())
    assert tags.get_all("Tag") == [f"py3-none-{platform}"]
    assert tags["Root-Is-Purelib"] == str(platform == "any").lower()


def test_the_sdist_has_sources_only_and_each_of_them_once(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {
        "hatch_build.py",
        "examples/rails-history/rails-actions.csv.gz",
        "lifeline/store/partition.py",
        "lifeline/scorer/kernels/build.py",
    } <= names
    assert [name for name in names if name.endswith((".so", ".pyc")) or name.startswith(("store/", "scorer/"))] == []


def test_the_environment_has_no_package_of_an_extra(environment: Environment, tmp_path: Path) -> None:
    found = environment.run(
        "-c",
        "import importlib.util as u; print([u.find_spec(n) for n in "
        "('rocksdict', 'faust', 'aiokafka', 'torch', 'safetensors', 'xxhash')])",
        cwd=tmp_path,
    )
    assert found.stdout.split() == ["[None,", *["None,"] * 4, "None]"], found.stderr


def test_outside_a_checkout_the_demo_has_a_generated_history(environment: Environment, tmp_path: Path) -> None:
    program = "from lifeline.sources.history import demo_history; print(demo_history().description)"
    done = environment.run("-c", program, cwd=tmp_path)
    assert done.stdout.startswith("a generated history: "), done.stderr
    assert "LIFELINE_HISTORY names the directory of another" in done.stdout


def test_a_typed_program_passes_strict_checks_against_the_wheel(environment: Environment, service: Path) -> None:
    checker = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(service / ".cache")]
    done = run([*checker, "--python-executable", str(environment.python), "service.py"], service)
    assert done.returncode == 0, done.stdout + done.stderr
    # It is checked against the package's types: a wrong one is found.
    (service / "wrong.py").write_text(
        "from lifeline.client import LifelineClient\n\nwith LifelineClient(7) as client:\n    client.get_sequence(7)\n"
    )
    done = run([*checker, "--python-executable", str(environment.python), "wrong.py"], service)
    assert done.stdout.count("[arg-type]") == 2, done.stdout + done.stderr


@pytest.mark.kafka
def test_the_bare_package_publishes_and_reads_beside_packages_of_the_same_names(
    environment: Environment, service: Path, kafka_settings: KafkaSettings, tmp_path_factory: pytest.TempPathFactory
) -> None:
    create_topics(kafka_settings)
    workdir = tmp_path_factory.mktemp("node")
    topics = {name: getattr(kafka_settings, name) for name in ("actions_topic", "items_topic")}
    flags = {f"kafka.{name}": value for name, value in topics.items()} | {"kafka.group_id": kafka_settings.group_id}
    settings = settings_for(kafka_settings.bootstrap_servers, workdir, Vocabulary(), flags=flags)
    with NodeProcess(settings, workdir) as node:
        node.start()
        node.wait_ready(READY_S)
        done = environment.run(
            "service.py", kafka_settings.bootstrap_servers, *topics.values(), node.address, cwd=service
        )
    assert done.stdout.splitlines() == ["[8, 9]", "somebody else somebody else", "[]"], done.stderr
