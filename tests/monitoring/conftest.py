"""What is there to be scraped: services of both engines, a gateway, and a probe's file."""

from __future__ import annotations

import urllib.request
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.harness.processes import CloudProcess, GatewayProcess
from cloud_server.certificates import issuing
from edge_client import EdgeClient
from edge_client.cli import main
from tests.cloud.engine.fake_replica import FakeReplica


class Scraped(NamedTuple):
    """What was found, by the name that expressions use: `_total`, `_bucket` and so on."""

    labels: dict[str, set[str]]
    """Names of the labels; of a metric that counted nothing yet they are not known."""
    families: dict[str, Metric]
    """By the name of the family."""


def scraped(http: str) -> list[Metric]:
    with urllib.request.urlopen(f"{http}/metrics", timeout=10) as response:
        return list(text_string_to_metric_families(response.read().decode()))


def series_of(families: list[Metric]) -> dict[str, set[str]]:
    suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}
    found: dict[str, set[str]] = {}
    for family in families:
        for suffix in suffixes.get(family.type, ("",)):
            name = family.name + suffix
            labels = [own.labels.keys() for own in family.samples if own.name == name]
            found.setdefault(name, set()).update(*labels)
    return found


@pytest.fixture(scope="session")
def running(
    cloud: CloudProcess,
    llava_directory: Path,
    bundle_directory: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Scraped:
    """Of processes that have answered a question."""
    folder = tmp_path_factory.mktemp("monitoring")
    issuing.make(folder, None, ("camera",), 30)
    tls = [
        f"--tls_certificate={folder}/server.pem",
        f"--tls_key={folder}/server-key.pem",
        f"--tls_clients={folder}/ca.pem",
    ]
    probed = folder / "probe.prom"
    model = (bundle_directory, llava_directory)
    with (
        FakeReplica() as replica,
        CloudProcess(
            *model, "--http_port=0", "--engine=replicas", f"--engine_urls={replica.url}", *tls
        ) as front,
        GatewayProcess(cloud.target, bundle_directory) as gateway,
    ):
        with EdgeClient(cloud.target, bundle_directory) as client:
            client.ask(np.zeros((56, 56, 3), np.uint8), "What is it?", max_tokens=2)
        arguments = ["check", "--ask", f"--target={cloud.target}", f"--bundle={bundle_directory}"]
        assert main([*arguments, f"--prometheus={probed}"]) == 0
        families = [*scraped(cloud.http), *scraped(front.http), *scraped(gateway.url)]
    families += text_string_to_metric_families(probed.read_text())
    return Scraped(series_of(families), {family.name: family for family in families})


@pytest.fixture(autouse=True, scope="module")
def _private_logs(private_logs: None) -> None:
    """Of every module here."""
