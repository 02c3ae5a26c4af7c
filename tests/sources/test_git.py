import os
import subprocess
from pathlib import Path

import pytest

from lifeline.core.vocabulary import Role, Vocabulary
from lifeline.sources.files import SourceError
from lifeline.sources.git import FILES_VOCABULARY, git_source, item_of, surface_of, user_of


class Repository:
    """A repository whose commits have the clocks that a test gives them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.git("init", "--quiet", str(path))

    def git(self, *arguments: str, **environment: str) -> None:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
        clean |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"} | environment
        subprocess.run(["git", "-C", str(self.path.parent), *arguments], check=True, env=clean, capture_output=True)

    def commit(self, email: str, authored: int, committed: int, **files: str | None) -> None:
        """Write files ("a__b" is a/b), delete those that are None, and commit."""
        for name, text in files.items():
            path = self.path / name.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            if text is None:
                path.unlink()
            else:
                path.write_text(text)
        self.git("-C", str(self.path), "add", "--all")
        self.git(
            *("-C", str(self.path), "commit", "--quiet", "--allow-empty", "--message", "A\n\nM\tnot a file"),
            GIT_AUTHOR_NAME="a",
            GIT_AUTHOR_EMAIL=email,
            GIT_AUTHOR_DATE=f"@{authored} +0000",
            GIT_COMMITTER_NAME="c",
            GIT_COMMITTER_EMAIL="c@example.org",
            GIT_COMMITTER_DATE=f"@{committed} +0000",
        )


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "repository")


def test_every_touch_of_a_file_is_an_action_in_the_order_of_the_commits(repository: Repository) -> None:
    repository.commit("Ann@example.org", 2_000, 2_000, lib__a="1\n2\n3\n", top="1")
    repository.commit("bob@example.org", 1_000, 3_000, lib__a="changed")
    repository.commit("ann@example.org", 3_000, 4_000)
    repository.commit("ann@example.org", 4_000, 5_000, top=None, other__top="1")
    source = git_source(repository.path, FILES_VOCABULARY)
    assert (source.name, source.total) == ("git repository", None)
    ann, bob = user_of(b"ann@example.org"), user_of(b"bob@example.org")
    rows = [(a.user_id, a.item_id, a.timestamp_ms, a.action_type) for a in source]
    assert rows == [
        (ann, item_of(b"lib/a"), 2_000_000, 1),
        (ann, item_of(b"top"), 2_000_000, 1),
        (bob, item_of(b"lib/a"), 1_000_000, 2),
        (ann, item_of(b"other/top"), 4_000_000, 1),
        (ann, item_of(b"top"), 4_000_000, 3),
    ]
    surfaces = [a.surface for a in source]
    assert surfaces[0] == FILES_VOCABULARY.surfaces[surface_of(b"lib/anything")]
    assert surfaces[1] == FILES_VOCABULARY.surfaces[surface_of(b"another file at the top")]


def test_names_of_files_may_be_anything(repository: Repository) -> None:
    odd = {"a b\n\tM": "1", '"quoted"': "1", "ü": "1", "\x01A": "1"}
    repository.commit("a@example.org", 1, 1, **odd)
    assert {a.item_id for a in git_source(repository.path, FILES_VOCABULARY)} == {
        item_of(name.encode()) for name in odd
    }


def test_reading_may_stop_early(repository: Repository) -> None:
    repository.commit("a@example.org", 1, 1, **{f"file{n}": "1" for n in range(300)})
    actions = iter(git_source(repository.path, FILES_VOCABULARY))
    assert next(actions).timestamp_ms == 1_000
    actions.close()  # type: ignore[attr-defined]


def test_the_ids_of_the_configured_vocabulary_are_used(repository: Repository) -> None:
    repository.commit("a@example.org", 1, 1, a="1")
    types = {"add": {"id": 11}, "modify": {"id": 12}, "delete": {"id": 13}}
    surfaces = {name: number + 100 for name, number in FILES_VOCABULARY.surfaces.items()}
    vocabulary = Vocabulary.model_validate({"action_types": types, "surfaces": surfaces})
    (action,) = git_source(repository.path, vocabulary)
    assert action.action_type == 11
    assert action.surface == FILES_VOCABULARY.surfaces[surface_of(b"a")] + 100


def test_ids_are_stable() -> None:
    assert user_of(b" Someone@Example.org ") == user_of(b"someone@example.org") == "ua3ad5ad7388f"
    assert item_of(b"lib/a") == 3_168_835_489_842_470_310
    assert surface_of(b"lib/a") == "dir08"


def test_the_vocabulary_of_files() -> None:
    assert FILES_VOCABULARY.action_type_names == {1: "add", 2: "modify", 3: "delete"}
    assert FILES_VOCABULARY.ids_with_role(Role.NEGATIVE) == [3]
    assert FILES_VOCABULARY.surfaces["dir00"] == 1
    assert FILES_VOCABULARY.surfaces["dir15"] == 16


def test_a_vocabulary_without_the_names_is_an_error(repository: Repository) -> None:
    with pytest.raises(
        SourceError, match=r"the vocabulary has no add, modify, .*lifeline/sources/git-vocabulary\.toml"
    ):
        git_source(repository.path, Vocabulary())


def test_a_directory_without_a_history_is_an_error(repository: Repository, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="it has no commit yet"):
        git_source(repository.path, FILES_VOCABULARY)
    with pytest.raises(SourceError, match="name a clone with commits"):
        git_source(tmp_path / "nothing", FILES_VOCABULARY)


def test_without_git_it_says_what_to_install(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SourceError, match="apt-get install git"):
        git_source(repository.path, FILES_VOCABULARY)


def test_a_history_that_breaks_off_is_an_error(repository: Repository) -> None:
    repository.commit("a@example.org", 1, 1, a="1")
    repository.commit("a@example.org", 2, 2, a="2")
    source = git_source(repository.path, FILES_VOCABULARY)
    for packed in (repository.path / ".git" / "objects").glob("*/*"):
        packed.unlink()
    with pytest.raises(SourceError, match="git cannot read the history"):
        list(source)
