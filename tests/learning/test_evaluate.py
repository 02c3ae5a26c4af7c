"""`lifeline evaluate`: the report."""

import re
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from lifeline.cli import app
from lifeline.learning.evaluation_tasks import history_task
from lifeline.scorer.settings import TrainSettings
from lifeline.scorer.variants import variant
from lifeline.sources.history import generated_history


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["evaluate", *map(str, arguments)])


def test_a_report_has_every_row_the_comparisons_and_the_plots(tmp_path: Path) -> None:
    rows = [part for name in ("none", "v1", "statistics") for part in ("--variant", name)]
    result = run(tmp_path, "--task", "simulator", "--world", 3, "--users", 24, "--seed", 0, "--steps", 2, *rows)
    assert result.exit_code == 0, result.output
    text = (tmp_path / "model-report.md").read_text()
    assert "## Simulator, world 3" in text
    for name in ("*oracle*", "*popularity*", "*mean_of_top_64*", "none", "v1", "statistics"):
        assert re.search(rf"^\| {re.escape(name)} \| 0\.\d{{4}} ", text, re.MULTILINE), name
    assert "| v1 | +7.74 % |" in text
    assert re.search(
        r"^\| v1 - none \| [+-]0\.\d{4} \[[+-]0\.\d{4}, [+-]0\.\d{4}\], p \d\.\d{3} \|", text, re.MULTILINE
    )
    assert "gap from `none` to the oracle" in text
    (plot,) = re.findall(r"\]\((model-report/.*\.png)\)", text)
    assert (tmp_path / plot).read_bytes().startswith(b"\x89PNG")

    # Another task comes behind it, with the command that made it.
    more = ("--world", 4, "--users", 20, "--seed", 0, "--steps", 1, "--variant", "none", "--append")
    result = run(tmp_path, "--task", "simulator", *more)
    assert result.exit_code == 0, result.output
    longer = (tmp_path / "model-report.md").read_text()
    assert longer.startswith(text.rstrip())
    assert "## Simulator, world 4" in longer
    assert longer.count("Made by") == 2
    assert len(list((tmp_path / "model-report").glob("*.png"))) == 2


def test_requests_of_a_history_come_after_what_its_embeddings_know() -> None:
    history = generated_history()
    settings = TrainSettings(steps=50, min_history=20, candidates=12, max_validated=20, max_held_out=30)
    task = history_task(history, settings)
    splits = task.splits(variant("none", task.heads))
    known_ms = np.median(history.timestamp_ms[int(0.7 * len(history)) - 500 : int(0.7 * len(history)) + 500])
    assert splits.training.timestamp_ms.min() >= known_ms
    assert splits.training.timestamp_ms.max() < splits.test.timestamp_ms.min()
    assert set(splits.test.rankings) >= {"popularity", "last_touch", "mean_of_top_64"}


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (("--task", "films"), "use one of simulator, history, movielens"),
        (("--variant", "v3"), "use one of none, none_without_last_touch"),
    ],
)
def test_wrong_use_is_one_sentence(tmp_path: Path, arguments: tuple[str, ...], advice: str) -> None:
    result = run(tmp_path, *arguments)
    assert result.exit_code == 2
    assert advice in " ".join(result.output.split())
