"""docs/limits.md lists every limit, with the setting's name and default as they are in the code."""

from __future__ import annotations

import re
from dataclasses import MISSING, fields
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from cloud_server.config import CloudConfig
from edge_client.config import EdgeConfig
from edge_client.gateway.config import GatewayConfig

GUIDE = (Path(__file__).parents[2] / "docs" / "limits.md").read_text()
CONFIGS: dict[str, Any] = {"cloud": CloudConfig, "gateway": GatewayConfig, "edge": EdgeConfig}
NO_LIMITS = {"port", "http_port"}
NUMBER = re.compile(r"[\d_.]+(?: \* [\d_]+)?(?:\*\*\d+)?")


class Row(NamedTuple):
    port: str
    limit: str
    owner: str
    name: str
    default: float


def rows() -> list[Row]:
    found = []
    for line in GUIDE.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("| ") or cells[0] == "port":
            continue
        port, limit, setting, default, _ = cells
        match = re.fullmatch(r"(cloud|gateway|edge|fixed) `([\w.]+)`", setting)
        assert match, line
        words = re.match(r"`([^`]+)`", default)
        assert words, line
        assert NUMBER.fullmatch(words[1]), line
        found.append(Row(port, limit, match[1], match[2], eval(words[1])))
    return found


ROWS = rows()


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_the_default_is_that_of_the_code(row: Row) -> None:
    if row.owner == "fixed":
        module, _, name = row.name.rpartition(".")
        actual = getattr(import_module(module), name)
    else:
        (own,) = [each for each in fields(CONFIGS[row.owner]) if each.name == row.name]
        actual = own.default
    assert actual == row.default
    assert type(actual) is type(row.default)


@pytest.mark.parametrize("owner", CONFIGS)
def test_every_number_that_can_be_set_is_there_once(owner: str) -> None:
    listed = [row.name for row in ROWS if row.owner == owner]
    numbers = [
        own.name
        for own in fields(CONFIGS[owner])
        if own.default is not MISSING and type(own.default) in (int, float)
    ]
    assert sorted(listed) == sorted(set(numbers) - NO_LIMITS)


def test_ports_are_together() -> None:
    order = [row.port for row in ROWS]
    assert order == sorted(order, key=order.index)
