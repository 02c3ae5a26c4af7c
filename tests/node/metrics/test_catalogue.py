"""The catalogue, and everything that is written about it: the document, the alerts and the runbook."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from lifeline.node.metrics.catalogue import CATALOGUE, MetricKind, MetricSpec, as_markdown

ROOT = Path(__file__).resolve().parents[3]
ALERTS: list[dict[str, Any]] = [
    rule for group in yaml.safe_load((ROOT / "deploy" / "alerts.yaml").read_text())["groups"] for rule in group["rules"]
]
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text()
ALL_SERVICES = {metric.name for metric in CATALOGUE if metric.kind is not MetricKind.HISTOGRAM} | {
    f"{metric.name}_{part}"
    for metric in CATALOGUE
    if metric.kind is MetricKind.HISTOGRAM
    for part in ("bucket", "count", "sum")
}


@pytest.mark.parametrize("metric", CATALOGUE, ids=lambda metric: metric.name)
def test_names_and_labels_follow_prometheus_rules(metric: MetricSpec) -> None:
    assert re.fullmatch(r"(lifeline|grpc_server)_[a-z0-9_]+", metric.name)
    assert (metric.kind is MetricKind.COUNTER) == metric.name.endswith("_total")
    assert metric.help.endswith(".")
    assert not re.search(r"_(ms|mib|kib|minutes|percent)\b", metric.name)
    assert not {"user", "user_id", "item", "item_id", "key"} & set(metric.labels)
    assert bool(metric.buckets) == (metric.kind is MetricKind.HISTOGRAM)
    assert list(metric.buckets) == sorted(set(metric.buckets))


def test_no_name_comes_twice() -> None:
    assert len({metric.name for metric in CATALOGUE}) == len(CATALOGUE) > 40


def test_the_document_is_the_catalogue() -> None:
    assert (ROOT / "docs" / "metrics.md").read_text() == as_markdown(), "run: lifeline metrics > docs/metrics.md"


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_an_alert_uses_what_is_served_and_has_its_section(alert: dict[str, Any]) -> None:
    used = set(re.findall(r"\b(?:lifeline|grpc_server)_[a-z0-9_]+", re.sub(r"\{[^}]*\}", "", alert["expr"])))
    assert used
    assert used <= ALL_SERVICES
    assert alert["labels"]["severity"] in {"page", "ticket"}
    assert alert["annotations"]["summary"]
    name = alert["alert"]
    assert alert["annotations"]["runbook_url"] == f"docs/runbook.md#{name.lower()}"
    section = re.search(rf"^## {name}\n\n(.+?)(?=^## |\Z)", RUNBOOK, re.MULTILINE | re.DOTALL)
    assert section is not None
    assert len(section[1].split()) > 20


def test_the_runbook_has_no_section_without_an_alert() -> None:
    assert re.findall(r"^## (\w+)$", RUNBOOK, re.MULTILINE) == [alert["alert"] for alert in ALERTS]


def test_labels_that_alerts_choose_by_exist() -> None:
    labels = {metric.name: set(metric.labels) for metric in CATALOGUE}
    for alert in ALERTS:
        for name, chosen in re.findall(r"\b(\w+)\{([^}]*)\}", alert["expr"]):
            described = name.removesuffix("_bucket")
            assert set(re.findall(r"(\w+)(?==|!)", chosen)) - {"le"} <= labels[described], alert["alert"]
