import os
from pathlib import Path

import pytest

from tests.support.callers_file import write_callers


@pytest.fixture
def config_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a configuration file whose caller has the token "old"; the environment holds no setting."""
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith("LIFELINE_"):
            monkeypatch.delenv(name)
    path = tmp_path / "lifeline.toml"
    write_callers(path, "old")
    return path
