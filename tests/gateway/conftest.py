"""A real gateway beside a real cloud, and official clients."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from openai import OpenAI

from benchmarks.harness.processes import CloudProcess, GatewayProcess

MODEL = "tiny-llava"


@pytest.fixture(scope="session")
def gateway(cloud: CloudProcess, bundle_directory: Path) -> Iterator[GatewayProcess]:
    options = (f"--model_name={MODEL}", "--log_level=debug")
    with GatewayProcess(cloud.target, bundle_directory, *options) as process:
        yield process


@pytest.fixture(scope="module")
def client(gateway: GatewayProcess) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{gateway.url}/v1", api_key="any", max_retries=0) as opened:
        yield opened


@pytest.fixture(autouse=True, scope="module")
def _private_logs(private_logs: None) -> None:
    """Of every module here."""
