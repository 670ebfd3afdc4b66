"""Two vLLM servers behind a front tier, in processes of their own."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import Iterator
from itertools import chain

import httpx2
import pytest
import torch
from PIL import Image

from aligned_vq.codec.bundle_files import read_manifest
from aligned_vq.shipped import BUNDLE, CHECKPOINT
from benchmarks.harness.engines import EngineProcess
from benchmarks.harness.load import clients, run
from benchmarks.harness.processes import CloudProcess
from benchmarks.harness.scraped import samples
from benchmarks.robustness.replicas import ask_all, figures, wait_for_engines
from cloud_server.decode.index_arrays import IndexLayout
from cloud_server.vllm_plugin.endpoint_filter import GENERATE
from edge_client import EdgeClient
from tests.vllm.conftest import blank


@pytest.fixture(scope="module")
def engines() -> Iterator[list[EngineProcess]]:
    with EngineProcess(BUNDLE, CHECKPOINT) as first, EngineProcess(BUNDLE, CHECKPOINT) as second:
        first.wait()
        second.wait()
        yield [first, second]


def picture() -> str:
    content = io.BytesIO()
    Image.new("RGB", (336, 336)).save(content, "PNG")
    return "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()


def asked_about_nothing(cloud: CloudProcess) -> tuple[int, ...]:
    with EdgeClient(cloud.target, BUNDLE) as client:
        return client.ask(None, "How many objects are there?", max_tokens=8).details.token_ids


def test_a_server_takes_indices_and_nothing_else(engines: list[EngineProcess]) -> None:
    layout = IndexLayout.of(read_manifest(BUNDLE))
    body = {
        "token_ids": [1, *[4] * 576, 203, 398],
        "sampling_params": {"max_tokens": 2, "temperature": 0.0},
    }
    out_of_range = torch.full_like(blank(), 4096)
    refused = [
        picture(),
        "http://127.0.0.1:1/picture.png",
        layout.url(out_of_range),
        layout.url(blank()[:100]),
        layout.url(blank()).replace(layout.manifest_digest.hex(), "0" * 32),
    ]
    with httpx2.Client(base_url=engines[0].url, timeout=60, trust_env=False) as client:

        def asked(url: str, **more: object) -> httpx2.Response:
            part = {"type": "image_url", "url": url}
            return client.post(GENERATE, json=body | {"content_parts": [part]} | more)

        for url in refused:
            assert asked(url).status_code == 400, url[:60]
        assert asked(layout.url(blank()), features={}).status_code == 400
        for path in ("/v1/chat/completions", "/v1/completions", "/pause"):
            assert client.post(path, json={}).status_code == 404
        answer = asked(layout.url(blank()))
        assert answer.status_code == 200
        assert len(answer.json()["choices"][0]["token_ids"]) == 2


def test_a_killed_server_costs_no_answer(engines: list[EngineProcess]) -> None:
    own = clients(4, 6)
    with CloudProcess(BUNDLE, CHECKPOINT) as cloud:
        _, _, expected = asyncio.run(run(cloud.target, own, together=False))
        without_image = asked_about_nothing(cloud)
    urls = f"--engine_urls={','.join(engine.url for engine in engines)}"
    with CloudProcess(BUNDLE, CHECKPOINT, "--engine=replicas", urls, "--http_port=0") as cloud:
        wait_for_engines(cloud.http, 2)
        assert asked_about_nothing(cloud) == without_image
        outcomes = asyncio.run(ask_all(cloud.target, own, 8, engines[1].kill))
        wait_for_engines(cloud.http, 1)
        retried = int(samples(cloud.http)["avq_engine_retries_total", ""])
    found = figures([*chain(*outcomes)], [*chain(*expected)], retried)
    assert found.answered == 24
    assert found.wrong == found.answered_twice == 0
    # A server has at most the questions of the four clients when it dies.
    assert found.moved_to_another_engine <= 4
