"""What stands in deploy/ is what the program understands: every flag, command and variable is checked."""

import json
import os
import re
import shutil
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from lifeline.cli import app
from lifeline.config import DEFAULT, Settings, load_settings
from lifeline.core.errors import SecurityError
from lifeline.dev.kafka_jars import KAFKA_VERSION
from lifeline.sources.git import FILES_VOCABULARY, FILES_VOCABULARY_FILE
from lifeline.sources.history import generated_history
from tests.support.wheel import build

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = [name for name, service in SERVICES.items() if service["image"] == "lifeline"]
CONFIG_IN_IMAGE = "/etc/lifeline/lifeline.toml"


def _instructions() -> list[tuple[str, str]]:
    """Return the Dockerfile as (instruction, the rest) with continued lines joined and comments gone."""
    lines = [line for line in (DEPLOY / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in joined.splitlines()) if word]


INSTRUCTIONS = _instructions()


def _rests(instruction: str) -> list[str]:
    return [rest for word, rest in INSTRUCTIONS if word == instruction]


def _image_environment() -> dict[str, str]:
    pairs = [pair.partition("=") for rest in _rests("ENV") for pair in rest.split()]
    return {name: value for name, _, value in pairs}


def _environment(service: str) -> dict[str, str]:
    return {**_image_environment(), **SERVICES[service].get("environment", {})}


def _check_command(arguments: list[str]) -> None:
    """Fail when the program would not take `arguments`: each command, each flag, and how many there are."""
    command: Any = typer.main.get_command(app)
    context: Any = command.context_class(command, info_name="lifeline")
    rest = list(arguments)
    while hasattr(command, "commands"):
        assert rest, f"{arguments} stops at a group of commands"
        assert rest[0] in command.commands, f"there is no command {rest[0]!r} in {arguments}"
        _, command, rest = command.resolve_command(context, rest)
        context = command.context_class(command, info_name=command.name, parent=context)
    # Raises a usage error on an unknown flag, and on one without its value.
    _, left, _ = command.make_parser(context).parse_args(args=rest)
    assert left == [], f"{left} of {arguments} means nothing to the program"


@pytest.fixture(autouse=True)
def _bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith("LIFELINE_"):
            monkeypatch.delenv(name)


@pytest.mark.parametrize("name", OURS)
def test_every_service_runs_a_command_that_there_is(name: str) -> None:
    _check_command(SERVICES[name]["command"])


def test_the_image_runs_a_command_that_there_is() -> None:
    (entrypoint,), (command,) = _rests("ENTRYPOINT"), _rests("CMD")
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert json.loads(entrypoint) == list(scripts)
    _check_command(json.loads(command))


@pytest.mark.parametrize("arguments", [["nod"], ["node", "--no-such-flag"], ["topics"], ["topics", "creat"]])
def test_the_check_finds_what_there_is_not(arguments: list[str]) -> None:
    with pytest.raises(Exception, match=r"no command|No such option|stops at a group"):
        _check_command(arguments)


def test_the_comments_show_commands_that_there_are() -> None:
    text = "".join(path.read_text() for path in DEPLOY.iterdir())
    shown = re.findall(r"(?:`|node )lifeline ((?:[\w-]+ ?)+)", text)
    assert {"get user0000", "config show --origin"} <= {command.strip() for command in shown}
    for command in shown:
        _check_command([*command.split(), "REPO"] if command.strip() == "produce --git" else command.split())


def test_the_node_is_healthy_when_it_says_so_itself() -> None:
    word, program, *arguments = SERVICES["node"]["healthcheck"]["test"]
    assert (word, program) == ("CMD", "lifeline")
    _check_command(arguments)


@pytest.mark.parametrize("name", OURS)
def test_every_variable_is_one_that_the_program_reads(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = {key: value for key, value in _environment(name).items() if key.startswith("LIFELINE_")}
    assert ours.pop("LIFELINE_CONFIG") == CONFIG_IN_IMAGE
    for key, value in ours.items():
        monkeypatch.setenv(key, value)
    loaded = load_settings(DEPLOY / "lifeline.toml")
    assert set(ours) == {origin.removeprefix("env ") for origin in loaded.origin.values() if origin.startswith("env ")}
    assert loaded.settings.kafka.bootstrap_servers == "kafka:9092"


def _settings(service: str | None, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Return what the image starts with, alone or as a service."""
    environment = _image_environment() if service is None else _environment(service)
    for key, value in environment.items():
        if key.startswith("LIFELINE_") and key != "LIFELINE_CONFIG":
            monkeypatch.setenv(key, value)
    return load_settings(DEPLOY / "lifeline.toml").settings


def test_the_image_does_not_start_open(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = _settings(None, monkeypatch)
    with pytest.raises(SecurityError, match="does not say who may call"):
        settings.security.listening_addresses(settings.node.grpc_address)


def test_the_compose_file_opens_its_node_by_word_and_publishes_on_loopback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = _settings("node", monkeypatch)
    assert settings.security.open
    assert settings.security.listening_addresses(settings.node.grpc_address) == (settings.node.grpc_address,)
    assert all(port.startswith("127.0.0.1:") for service in SERVICES.values() for port in service.get("ports", ()))
    others = [name for name in OURS if "LIFELINE_SECURITY__OPEN" in _environment(name)]
    assert others == ["node"]


def test_the_image_has_the_example_configuration_where_it_says() -> None:
    assert f"deploy/lifeline.toml {CONFIG_IN_IMAGE}" in _rests("COPY")


def test_the_example_configuration_is_valid_and_shows_every_part() -> None:
    path = DEPLOY / "lifeline.toml"
    loaded = load_settings(path)
    shown = tomllib.loads(path.read_text())
    assert set(shown) == set(Settings.model_fields)
    assert loaded.settings == Settings()  # An example that differs from the defaults would be copied unread.
    assert set(loaded.origin.values()) == {DEFAULT, str(path)}


def test_the_vocabulary_of_git_histories_is_that_of_the_source() -> None:
    assert load_settings(DEPLOY / "git-vocabulary.toml").settings.vocabulary == FILES_VOCABULARY
    assert (DEPLOY / "git-vocabulary.toml").samefile(FILES_VOCABULARY_FILE)


def test_the_history_that_is_produced_is_told_in_the_configured_vocabulary() -> None:
    assert "--history" in SERVICES["produce"]["command"]
    assert load_settings(DEPLOY / "lifeline.toml").settings.vocabulary == generated_history().vocabulary


def test_the_settings_that_the_example_comments_out_exist(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text = re.sub(r"(?m)^# (\w+ = |\[)", r"\1", (DEPLOY / "lifeline.toml").read_text())
    (tmp_path / "whole.toml").write_text(text)
    monkeypatch.setenv("LIFELINE_KAFKA__SASL_PASSWORD", "x")
    assert load_settings(tmp_path / "whole.toml").settings.kafka.uses_sasl


def test_the_image_is_built_from_what_there_is() -> None:
    sources = [source for rest in _rests("COPY") if not rest.startswith("--from") for source in rest.split()[:-1]]
    allowed = {
        line[1:] for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines() if line.startswith("!")
    }
    assert set(sources) == allowed
    assert [source for source in sources if not (ROOT / source).exists()] == []
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]) < set(sources)
    links = {str(path.readlink()) for path in (ROOT / "lifeline").iterdir() if path.is_symlink()}
    assert links == {"../scorer", "../store", "../stream"}
    assert {link.removeprefix("../") for link in links} < set(sources)
    extras = re.findall(r"--extra (\w+)", " ".join(_rests("RUN")))
    assert extras
    assert set(extras) <= set(project["project"]["optional-dependencies"])


def test_what_the_image_copies_is_enough_for_the_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for rest in _rests("COPY"):
        *sources, target = rest.split()
        if rest.startswith("--from") or "lifeline.toml" in rest:
            continue
        for source in sources:
            if (ROOT / source).is_dir():
                ignore = shutil.ignore_patterns("__pycache__", "lifeline_kernels.so", ".build-*")
                shutil.copytree(ROOT / source, tmp_path / target, symlinks=True, ignore=ignore)
            else:
                (tmp_path / target).mkdir(exist_ok=True)
                shutil.copy(ROOT / source, tmp_path / target)
    monkeypatch.setenv("CXX", "no-compiler")
    build("wheel", tmp_path, tmp_path / "dist")
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert {"lifeline/node/node.py", "lifeline/store/partition.py", "lifeline/scorer/kernels/library.py"} <= set(
            archive.namelist()
        )


def test_state_lies_in_named_volumes() -> None:
    environment = _environment("node")
    places = dict(reversed(volume.split(":")) for volume in SERVICES["node"]["volumes"])
    assert places[environment["LIFELINE_NODE__DATA_DIR"]] in COMPOSE["volumes"]
    assert places[environment["LIFELINE_SCORER__MODELS_DIR"]] in COMPOSE["volumes"]
    (kafka,) = SERVICES["kafka"]["volumes"]
    assert kafka == f"kafka:{SERVICES['kafka']['environment']['KAFKA_LOG_DIRS']}"
    assert set(COMPOSE["volumes"]) == {*places.values(), "kafka"}


def test_ports_are_those_that_are_listened_on() -> None:
    addresses = [_environment("node")[f"LIFELINE_NODE__{kind}_ADDRESS"] for kind in ("GRPC", "HTTP")]
    ports = [address.rpartition(":")[2] for address in addresses]
    assert SERVICES["node"]["ports"] == [f"127.0.0.1:{port}:{port}" for port in ports]
    assert _rests("EXPOSE") == [" ".join(ports)]
    kafka = SERVICES["kafka"]["environment"]
    assert "HOST://127.0.0.1:29092" in kafka["KAFKA_ADVERTISED_LISTENERS"]
    assert SERVICES["kafka"]["ports"] == ["127.0.0.1:29092:29092"]


def test_the_broker_is_the_version_that_is_developed_on() -> None:
    assert SERVICES["kafka"]["image"] == f"apache/kafka:{KAFKA_VERSION}"


def test_a_stop_has_the_time_that_it_may_take() -> None:
    grace = float(SERVICES["node"]["stop_grace_period"].removesuffix("s"))
    assert grace > load_settings(DEPLOY / "lifeline.toml").settings.node.stop_deadline_s


def test_services_wait_for_services_that_can_tell() -> None:
    for name, service in SERVICES.items():
        for other, wait in service.get("depends_on", {}).items():
            match wait["condition"]:
                case "service_healthy":
                    assert "healthcheck" in SERVICES[other], name
                case condition:
                    assert condition == "service_completed_successfully"
                    assert SERVICES[other]["restart"] == "no", name
    assert all("healthcheck" in service for service in SERVICES.values() if service.get("restart") != "no")
