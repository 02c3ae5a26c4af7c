import errno
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lifeline.dev import kafka_jars as module
from lifeline.dev.broker import free_port
from lifeline.dev.kafka_jars import COORDINATES, BrokerError, FetchProgress, Jar, fetch_kafka

CONTENTS = {"a": b"abc", "b": b"defg"}


@pytest.fixture(autouse=True)
def _small_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "jars.lock"
    lines = [f"{hashlib.sha256(b).hexdigest()} {len(b)} org.some:{name}:1.0" for name, b in CONTENTS.items()]
    path.write_text("\n".join(lines) + "\n")
    monkeypatch.setattr(module, "LOCK", path)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    path = tmp_path / "cache"
    path.mkdir()
    return path


class _Maven:
    """Answers as jgo does: every method returns itself, `resolve` the path of what it downloaded."""

    def __init__(self, repository: Path, content: Callable[[str], bytes]) -> None:
        self._repository, self._content = repository, content

    def project(self, _group: str, artifact: str) -> Any:
        outer = self

        class _Artifact:
            def at_version(self, _version: str) -> "_Artifact":
                return self

            def artifact(self) -> "_Artifact":
                return self

            def resolve(self) -> Path:
                path = outer._repository / artifact
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(outer._content(artifact))
                return path

        return _Artifact()


def answer(monkeypatch: pytest.MonkeyPatch, content: Callable[[str], bytes]) -> None:
    monkeypatch.setattr(module, "_maven", lambda repository: _Maven(repository, content))


def test_what_is_missing_is_fetched_and_then_no_more(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, CONTENTS.__getitem__)
    steps: list[FetchProgress] = []
    home = cache / f"kafka-{module.KAFKA_VERSION}"
    expected = [home / "org.some.a-1.0.jar", home / "org.some.b-1.0.jar"]
    assert fetch_kafka(steps.append, cache=cache) == expected
    assert steps[-1][:3] == (2, 2, 7)
    monkeypatch.setattr(module, "_maven", lambda _: pytest.fail("the network was asked"))
    assert fetch_kafka(cache=cache) == expected
    expected[0].unlink()
    answer(monkeypatch, CONTENTS.__getitem__)
    assert fetch_kafka(cache=cache) == expected
    assert sorted(home.iterdir()) == expected
    assert list(cache.iterdir()) == [home]


@pytest.mark.parametrize("content", [b"abd", b"ab", b""])
def test_a_jar_that_differs_is_named_and_nothing_is_fetched_over_it(
    cache: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    answer(monkeypatch, CONTENTS.__getitem__)
    changed, _ = fetch_kafka(cache=cache)
    changed.write_bytes(content)
    monkeypatch.setattr(module, "_maven", lambda _: pytest.fail("the network was asked"))
    with pytest.raises(BrokerError, match=rf"{changed} is not the jar that .* names.*remove .*--bootstrap-servers"):
        fetch_kafka(cache=cache)


def test_what_comes_with_other_bytes_is_not_kept(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, lambda _: b"abc")
    with pytest.raises(BrokerError, match=r"org\.some\.b-1\.0\.jar has another size or SHA-256"):
        fetch_kafka(cache=cache)
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "full"), "no space left .*XDG_CACHE_HOME"),
        (PermissionError(errno.EACCES, "no"), "cannot be written: make it writable"),
        (ConnectionError("no route"), "could not be fetched .*check the network"),
        (RuntimeError("not found"), "a part of Kafka was not found.*Try again later"),
    ],
)
def test_a_fetch_that_fails_says_what_to_do_and_leaves_nothing(
    cache: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    def refuse(_: str) -> bytes:
        raise error

    answer(monkeypatch, refuse)
    with pytest.raises(BrokerError, match=message):
        fetch_kafka(cache=cache)
    assert list(cache.iterdir()) == []


def test_an_unreachable_registry_is_one_clear_sentence(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(BrokerError, match=r"could not be fetched .*--bootstrap-servers") as caught:
        fetch_kafka(cache=cache)
    assert "\n" not in str(caught.value)
    assert list(cache.iterdir()) == []


def test_nobody_but_maven_central_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither jgo's settings, wherever they lie, nor a repository of the user's are looked at."""
    settings = tmp_path / "jgo.conf"
    settings.write_text("[repositories]\nmine = https://mirror.example\n[settings]\nrepo_cache = /elsewhere\n")
    (tmp_path / ".jgorc").write_text(settings.read_text())
    for name, value in {"JGO_CONFIG_FILE": settings, "XDG_CONFIG_HOME": tmp_path, "HOME": tmp_path}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("M2_REPO", "/elsewhere")
    constants = pytest.importorskip("jgo.constants")
    maven = module._maven(tmp_path / "repository")
    assert maven.remote_repos == {"central": constants.MAVEN_CENTRAL_URL}
    assert maven.local_repos == []
    assert maven.repo_cache == tmp_path / "repository"


def test_the_lock_names_what_is_run() -> None:
    real = [Jar.of(line) for line in Path(module.__file__).with_suffix(".lock").read_text().splitlines()]
    assert len(real) == 46
    assert set(COORDINATES) <= {f"{jar.group}:{jar.artifact}:{jar.version}" for jar in real}
    assert all(len(bytes.fromhex(jar.sha256)) == 32 and jar.size_bytes > 0 for jar in real)
    assert len({jar.name for jar in real}) == len(real)
