"""`lifeline quantize`, on a directory like a node's."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from lifeline.cli import app
from lifeline.config import Settings, load_settings
from lifeline.learning.quantization import HEADING, write_report
from lifeline.node.models import Models
from lifeline.scorer.errors import ModelCorruptError, PrecisionError
from lifeline.scorer.evaluate.precision import BFLOAT16, Agreement
from lifeline.scorer.kernels.instruction_set import InstructionSet, best
from lifeline.scorer.weights import PRECISION, MeasuredPrecision
from tests.support.embedding_tables import Table
from tests.support.training_runs import build, manifest, run


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("data"), planted=False)


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of models with one version in it; not to be written."""
    models = tmp_path_factory.mktemp("models")
    manifest(run(data, models))
    return models


@pytest.fixture
def models(trained: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained, tmp_path / "models")


def version_in(models: Path) -> tuple[Path, dict[str, Any]]:
    """Return the directory of the version, and its manifest."""
    (path,) = models.rglob("manifest.json")
    return path.parent, json.loads(path.read_text())


def quantize(data: Path, models: Path, *more: str) -> Result:
    command = ["quantize", "--data-dir", str(data), "--requests", "10", "--candidates", "8", *more]
    return CliRunner().invoke(app, command, env={"LIFELINE_SCORER__MODELS_DIR": str(models)})


def node_settings(models: Path, precision: str = "auto") -> Settings:
    flags = {"scorer.models_dir": str(models), "scorer.device": "cpu", "scorer.precision": precision}
    return load_settings(None, flags).settings


def test_what_is_measured_stands_beside_the_version_and_nodes_go_by_it(data: Path, models: Path) -> None:
    directory, found = version_in(models)
    assert directory == models / found["name"] / found["version"]
    scorer = Models(node_settings(models), Table()).holder.scorer
    assert scorer is not None
    assert scorer.kernels != "bf16"
    done = quantize(data, models, "--json")
    assert done.exit_code == 0, done.output
    answer: dict[str, Any] = json.loads(done.stdout)
    assert answer["version"] == found["version"]
    assert len(answer["products"]) == 13
    kept = MeasuredPrecision.model_validate_json((directory / PRECISION).read_bytes())
    assert kept.weights_sha256 == found["weights_sha256"]
    assert kept.requests == answer["bfloat16"]["requests"] <= 20
    has = best() >= InstructionSet.AVX512_BF16
    assert kept.bfloat16_accepted == (has and Agreement(**answer["bfloat16"]).reaches(BFLOAT16))
    for accepted in (True, False):
        (directory / PRECISION).write_text(kept.model_copy(update={"bfloat16_accepted": accepted}).model_dump_json())
        scorer = Models(node_settings(models), Table()).holder.scorer
        assert scorer is not None
        assert (scorer.kernels == "bf16") == (accepted and has)
    (directory / PRECISION).write_text("{}")
    with pytest.raises(ModelCorruptError, match="run lifeline quantize again"):
        Models(node_settings(models), Table())
    assert quantize(data, models, "--json").exit_code == 0
    assert MeasuredPrecision.model_validate_json((directory / PRECISION).read_bytes()) == kept
    (directory / PRECISION).write_text(kept.model_copy(update={"int8_accepted": True}).model_dump_json())
    scorer = Models(node_settings(models, "int8"), Table()).holder.scorer
    assert scorer is not None
    assert scorer.kernels == ("int8" if has else best().label)
    (directory / PRECISION).write_text(kept.model_copy(update={"int8_accepted": False}).model_dump_json())
    with pytest.raises(PrecisionError, match="is not accepted in int8: run lifeline quantize, or set"):
        Models(node_settings(models, "int8"), Table())


def test_a_report_gets_the_tables_in_the_place_of_those_before(data: Path, models: Path, tmp_path: Path) -> None:
    report = tmp_path / "model-report.md"
    report.write_text("# A report\n\ntext\n")
    for _ in range(2):
        done = quantize(data, models, "--report", str(report))
        assert done.exit_code == 0, done.output
    text = report.read_text()
    assert text.startswith("# A report\n\ntext\n\n## Precision\n")
    assert text.count(HEADING) == 1
    assert "| int8, all products |" in text
    assert "| layer 2 narrow |" in text


def test_what_follows_the_section_stays(tmp_path: Path) -> None:
    report = tmp_path / "model-report.md"
    report.write_text(f"# A\n\n{HEADING}\n\nold\n\n## B\n\ntext\n")
    write_report(report, f"{HEADING}\n\nnew\n")
    assert report.read_text() == f"# A\n\n{HEADING}\n\nnew\n\n## B\n\ntext\n"
    write_report(tmp_path / "other.md", f"{HEADING}\n\nnew\n")
    assert (tmp_path / "other.md").read_text() == f"{HEADING}\n\nnew\n"


def test_a_model_without_such_an_encoder_is_refused(data: Path, tmp_path: Path) -> None:
    run(data, tmp_path, "--variant", "none")
    done = quantize(data, tmp_path)
    assert isinstance(done.exception, PrecisionError)
    assert "measure a model with transact" in str(done.exception)
