"""What the alert rules and the dashboard ask of Prometheus."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import promql_parser
import yaml

ROOT = Path(__file__).parents[2]
RULES = ROOT / "docker" / "monitoring" / "alerts.yaml"
COMPONENT = ROOT / "docker" / "k8s" / "components" / "monitoring"
DASHBOARD = COMPONENT / "dashboard.json"
_VARIABLES = {"$__rate_interval": "5m", "$job": "a", "$gateway": "b"}
_LABELS = "label_values("


class Selector(NamedTuple):
    """A series that an expression reads, by its name and what its labels must be."""

    name: str
    labels: dict[str, str]


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return found


def expressions() -> dict[str, str]:
    """By where they stand; Grafana's variables have values."""
    found = {rule["alert"]: str(rule["expr"]) for rule in rules()}
    board = dashboard()
    for panel in board["panels"]:
        for target in panel.get("targets", ()):
            found[f"{panel['id']} {panel['title']} {target['refId']}"] = target["expr"]
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            query = variable["query"]["query"]
            assert query.startswith(_LABELS)
            found[f"${variable['name']}"] = query.removeprefix(_LABELS).partition(",")[0]
    for name, words in found.items():
        for variable, value in _VARIABLES.items():
            words = words.replace(variable, value)
        found[name] = words
    return found


def selectors(expression: str) -> list[Selector]:
    """Every series that it reads.

    Raises:
        ValueError: it is no PromQL.
    """
    return list(_selectors(promql_parser.parse(expression)))


def _selectors(node: Any) -> Iterator[Selector]:
    """Of a tree, and of whatever it holds."""
    match node:
        case promql_parser.VectorSelector():
            labels = {own.name: own.value for own in node.matchers.matchers}
            yield Selector(node.name or labels["__name__"], labels)
        case promql_parser.MatrixSelector():
            yield from _selectors(node.vector_selector)
        case promql_parser.BinaryExpr():
            yield from _selectors(node.lhs)
            yield from _selectors(node.rhs)
        case promql_parser.Call():
            for argument in node.args:
                yield from _selectors(argument)
        case promql_parser.AggregateExpr():
            yield from _selectors(node.expr)
        case promql_parser.ParenExpr() | promql_parser.UnaryExpr() | promql_parser.SubqueryExpr():
            yield from _selectors(node.expr)
        case promql_parser.NumberLiteral() | promql_parser.StringLiteral():
            return
        case _:
            raise ValueError(f"expected a part of PromQL that is known here, got {type(node)}")
