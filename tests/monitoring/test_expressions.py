"""Alert rules and dashboard ask for what is there, and the guide says what each of them is."""

from __future__ import annotations

import os
import re

import pytest
import yaml
from jsonschema import Draft202012Validator, ValidationError

from aligned_vq.errors import AlignedVQError
from edge_client.gateway.openai.refusal import STATUSES
from protos.status import STATUS_CODES
from tests import commands
from tests.monitoring.conftest import Scraped
from tests.monitoring.dashboard_schema import DASHBOARD_SCHEMA
from tests.monitoring.expressions import (
    COMPONENT,
    ROOT,
    RULES,
    Selector,
    dashboard,
    expressions,
    rules,
    selectors,
)

pytestmark = pytest.mark.timeout(300)  # the first starts four processes

GUIDE = (ROOT / "docs" / "monitoring.md").read_text()
EXPRESSIONS = expressions()
FOREIGN = {
    "container_memory_working_set_bytes",
    "kube_job_status_failed",
    "kube_pod_container_resource_limits",
    "up",
}
"""Of Prometheus itself and of Kubernetes."""
SCRAPED = {"container", "instance", "job", "namespace", "pod"}
"""Labels that Prometheus adds."""
CLOUD_OUTCOMES = {error.__name__ for error in STATUS_CODES} | {
    *("answered", "bug", "cancelled", "cut off", "timeout"),
}
GATEWAY_OUTCOMES = {row.code for row in STATUSES.values()} | {"ok", "cancelled"}


def read(where: str) -> list[Selector]:
    return selectors(EXPRESSIONS[where])


@pytest.mark.parametrize("where", EXPRESSIONS)
def test_it_parses_and_every_series_is_there(where: str, running: Scraped) -> None:
    found = read(where)
    assert found
    for own in found:
        if own.name in FOREIGN:
            continue
        assert own.name in running.labels, own.name
        if known := running.labels[own.name]:
            assert own.labels.keys() - SCRAPED - {"__name__"} <= known, own


@pytest.mark.parametrize("where", EXPRESSIONS)
def test_outcomes_are_real_ones(where: str) -> None:
    for own in read(where):
        if "outcome" in own.labels:
            known = CLOUD_OUTCOMES if own.name == "avq_questions_total" else GATEWAY_OUTCOMES
            assert set(own.labels["outcome"].split("|")) <= known


def test_every_error_is_somebodys_fault_and_watched() -> None:
    """So that a new kind of error is not forgotten."""
    watched = set()
    for rule in rules():
        for own in selectors(str(rule["expr"])):
            if own.name == "avq_questions_total" and "outcome" in own.labels:
                watched |= set(own.labels["outcome"].split("|"))
    harmless = {"answered", "cancelled", "DeadlineExceeded", "ImageNotHeld", "InvalidInput"}
    never = {AlignedVQError.__name__, "ConfigError", "TrainingError"}
    assert watched == CLOUD_OUTCOMES - harmless - never


def test_rules_do_what_they_should() -> None:
    command = ["promtool", "test", "rules", str(RULES.with_name("alerts.test.yaml"))]
    try:
        done = commands.run(command, timeout=60)
    except FileNotFoundError as error:
        words = "expected promtool, got none; apt-get install prometheus"
        raise AssertionError(words) from error
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_rule_has_a_case_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    cases = yaml.safe_load(RULES.with_name("alerts.test.yaml").read_text())["tests"]
    fires: dict[bool, set[str]] = {True: set(), False: set()}
    for case in cases:
        for own in case["alert_rule_test"]:
            fires[bool(own["exp_alerts"])].add(own["alertname"])
    names = {rule["alert"] for rule in rules()}
    assert fires == {True: names, False: names}


def test_the_operator_gets_the_same_rules() -> None:
    path = COMPONENT / "alerts.yaml"
    groups = yaml.safe_load(RULES.read_text())["groups"]
    own = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "aligned-vq"},
        "spec": {"groups": groups},
    }
    if os.environ.get("REGENERATE"):
        head = "# Made from docker/monitoring/alerts.yaml: REGENERATE=1 pytest tests/monitoring\n"
        path.write_text(head + yaml.safe_dump(own, sort_keys=False, width=10_000))
    assert yaml.safe_load(path.read_text()) == own


def test_the_dashboard_is_what_grafana_reads() -> None:
    board = dashboard()
    validator = Draft202012Validator(DASHBOARD_SCHEMA)
    validator.validate(board)
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids))
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells
    board["panels"][1]["targets"][0].pop("expr")
    with pytest.raises(ValidationError):
        validator.validate(board)


def test_the_guide_names_every_alert_and_every_metric(running: Scraped) -> None:
    for rule in rules():
        assert f"`{rule['alert']}`" in GUIDE, rule["alert"]
    told = set(re.findall(r"`(avq_\w+)", GUIDE))
    there = {
        name + ("_total" if family.type == "counter" else "")
        for name, family in running.families.items()
        if name.startswith("avq_") and not name.endswith("_created")
    }
    assert told == there
