"""torch belongs to models: a node without one never imports it, and the first model brings it in."""

import subprocess
import sys
from pathlib import Path

from lifeline.scorer import weights
from lifeline.scorer.config import default_heads
from lifeline.scorer.model import TransAct
from lifeline.scorer.variants import variant
from tests.support.scorer_factories import VOCABULARY

SCRIPT = """
import sys
from pathlib import Path

import lifeline.node.process
from lifeline.config import Settings
from lifeline.core.partitioner import partition_of
from lifeline.node.metrics.node_metrics import NodeMetrics
from lifeline.node.models import Models
from lifeline.rpc.directory import PartitionDirectory
from lifeline.rpc.score_service import CallSinks, ScoreService
from lifeline.scorer.errors import ModelNotFoundError
from lifeline.scorer.history_cache import HistoryCache
from lifeline.scorer.settings import ScorerSettings
from lifeline.store.embeddings import EmbeddingTable

root = Path(sys.argv[1])
settings = Settings(scorer=ScorerSettings(models_dir=root / "models"))
embeddings = EmbeddingTable.open(root / "items")
models = Models(settings, embeddings)
ScoreService(
    PartitionDirectory(lambda key: partition_of(key, 2), embeddings),
    models.holder,
    settings.vocabulary,
    settings.scorer,
    HistoryCache(1 << 20),
    max_reply_bytes=1 << 20,
    sinks=CallSinks(timings=NodeMetrics().scores),
)
service = models.service()
assert list(service._versions()) == []
try:
    service._load(None)
except ModelNotFoundError:
    pass
assert models.holder.current("ann") is None
assert "torch" not in sys.modules

(root / "trained").rename(root / "models")
models.holder.use(service._load("1"))
assert models.holder.current("ann").scorer.manifest.version == "1"
assert service._versions() == ["1"]
assert sys.modules["torch"].get_num_threads() == settings.scorer.threads
embeddings.close()
"""


def test_a_node_without_a_model_imports_no_torch_until_it_loads_one(tmp_path: Path) -> None:
    model = TransAct(variant("none", default_heads(VOCABULARY))).eval()
    weights.save(tmp_path / "trained", "transact", model, VOCABULARY, version="1")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
