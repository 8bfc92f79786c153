"""The dashboard and the alert rules ask for metrics that there are, with labels and values that they have."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from reliq.core.pulse import Pulse
from reliq.core.reasons import find
from reliq.telemetry import prometheus
from reliq.telemetry.prometheus import Seen
from reliq.telemetry.tally import Tally

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"
DASHBOARD: dict[str, Any] = json.loads((SCRIPTS / "grafana" / "reliq.json").read_text("utf-8"))
RULES: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((SCRIPTS / "prometheus" / "alerts.yaml").read_text("utf-8"))["groups"]
    for rule in group["rules"]
]


def queries() -> list[str]:
    panels = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    variables = [v["query"]["query"] for v in DASHBOARD["templating"]["list"] if v["type"] == "query"]
    return [*panels, *variables, *(rule["expr"] for rule in RULES)]


@pytest.fixture(scope="module")
def exported() -> dict[str, dict[str, set[str]]]:
    """Every metric that a worker and the exporter serve: its labels, with the values that they can have."""
    tally = Tally(["emails"])
    row = tally.rows["emails"]
    row.headroom(10.0, prometheus.clock())
    pulse = Pulse(0, 1, 0, 0, 0, 5, [], 0)
    pages = [
        prometheus.worker_page([tally]),
        prometheus.queues_page([Seen("emails", pulse, 0, {}, {"POISON": 1})], up=True),
    ]
    found: dict[str, dict[str, set[str]]] = {}
    for page in pages:
        for family in text_string_to_metric_families(page.body):
            for sample in family.samples:
                labels = found.setdefault(sample.name, {})
                for label, value in sample.labels.items():
                    labels.setdefault(label, set()).add(value)
    return found


def selectors(query: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Each metric that a query names, with the labels that it is selected by."""
    for name, braces in re.findall(r"\b(reliq_\w+)(?:\{([^}]*)\})?", query):
        yield name, {label: value for label, _, value in re.findall(r'(\w+)(=~|!=|=)"([^"]*)"', braces)}


@pytest.mark.parametrize("query", queries())
def test_every_metric_is_exported(query: str, exported: dict[str, dict[str, set[str]]]) -> None:
    """Also what is selected or summed by is a label of it, and a value that it can have."""
    found = list(selectors(query))
    assert found
    for name, labels in found:
        assert name in exported, name
        for label, value in labels.items():
            assert label in exported[name], (name, label)
            if label != "queue":
                assert set(value.split("|")) <= exported[name][label], (name, value)
        for label in re.findall(r"\w+", " ".join(re.findall(r"\bby \(([^)]*)\)", query))):
            assert label in exported[name], (name, label)


def test_every_metric_is_shown_or_watched(exported: dict[str, dict[str, set[str]]]) -> None:
    """But for the number of round trips, and the parts of histograms."""
    named = {name for query in queries() for name, _ in selectors(query)}
    unseen = {name for name in exported if not name.endswith(("_sum", "_count"))} - named
    assert unseen == {"reliq_trips_total", "reliq_dead_letters_total"}


def test_rules_say_what_to_do() -> None:
    """Each has a severity, what is wrong, and the next step; a code that it names is one."""
    assert len({rule["alert"] for rule in RULES}) == len(RULES)
    for rule in RULES:
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert set(rule["annotations"]) == {"summary", "next"}
        for code in re.findall(r"reliq errors (\w+)", rule["annotations"]["next"]):
            assert find(code)


def test_panels_stand_side_by_side() -> None:
    """Their numbers differ, and none lies on another."""
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    cells = [
        (x, panel["gridPos"]["y"])
        for panel in DASHBOARD["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24
