"""OpenAI's own client for Node against a gateway; `make node` installs it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.harness.processes import GatewayProcess
from tests import commands
from tests.gateway.asking import data_uri, image_bytes
from tests.gateway.conftest import MODEL

FOLDER = Path(__file__).parent / "node"


@pytest.fixture(scope="module")
def told(gateway: GatewayProcess) -> dict[str, Any]:
    """What the client got."""
    assert (FOLDER / "node_modules" / "openai").is_dir(), "expected the client for Node: make node"
    arguments = (f"{gateway.url}/v1", MODEL, data_uri(image_bytes()))
    done = commands.run(
        ["node", str(FOLDER / "client.mjs"), *arguments],
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_models(told: dict[str, Any]) -> None:
    assert told["models"] == [MODEL]
    assert told["retrieved"] == MODEL


def test_an_answer_plain_streamed_and_with_the_clients_help(told: dict[str, Any]) -> None:
    answer = told["plain"]["choices"][0]["message"]["content"]
    assert answer
    assert told["streamed"] == answer
    assert told["helped"] == answer
    assert told["usage"] == told["plain"]["usage"]
    assert told["split"]["image_held"]


def test_errors(told: dict[str, Any]) -> None:
    bad = {"name": "BadRequestError", "status": 400}
    assert told["bad_field"] == {**bad, "code": "unsupported_value", "param": "n"}
    assert told["bad_image"] == {
        **bad,
        "code": "invalid_image_url",
        "param": "messages[0].content[1].image_url",
    }
    assert told["unknown_model"] == {
        "name": "NotFoundError",
        "status": 404,
        "code": "model_not_found",
        "param": "model",
    }


def test_the_lock_names_no_other_registry() -> None:
    lock = json.loads((FOLDER / "package-lock.json").read_text())
    assert not [name for name, package in lock["packages"].items() if "resolved" in package]
    assert all("integrity" in package for name, package in lock["packages"].items() if name)
