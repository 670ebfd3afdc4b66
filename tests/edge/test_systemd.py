"""The unit starts what there is: its command line is one that `edge-client` takes."""

from __future__ import annotations

import shlex
from configparser import ConfigParser
from pathlib import Path

from edge_client.cli import _parser

UNIT = Path(__file__).parents[2] / "systemd" / "aligned-vq-edge.service"
DOCUMENT = Path(__file__).parents[2] / "docs" / "devices.md"


def test_the_unit_and_its_document_give_options_that_exist() -> None:
    unit = ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(UNIT)
    program, *arguments = shlex.split(unit["Service"]["ExecStart"])
    assert Path(program).name == "edge-client"
    told = DOCUMENT.read_text().partition("AVQ_OPTIONS=")[2].partition("'")[0]
    given = [word for word in arguments if word != "$AVQ_OPTIONS"] + shlex.split(told)
    found = _parser().parse_args(given)
    assert found.subcommand == "serve"
    assert found.serve.target == "cloud.local:50051"
    assert float(unit["Service"]["TimeoutStopSec"]) > found.serve.drain_seconds
