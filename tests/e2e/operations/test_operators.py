"""The HTTP face: health, metrics and manifest, and nothing a user said."""

from __future__ import annotations

import json
import platform
import re
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from aligned_vq import __version__
from aligned_vq.codec.bundle_files import read_manifest
from aligned_vq.errors import ConfigError, InvalidInput
from benchmarks.harness.processes import CloudProcess
from cloud_server.config import CloudConfig
from edge_client import EdgeClient

QUESTION = "Is the purple zeppelin visible?"


def fetched(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as response:
        found: str = response.read().decode()
    return found


def test_operators_see_counts_and_times_and_no_words(
    llava_directory: Path, bundle_directory: Path
) -> None:
    picture = np.zeros((56, 56, 3), np.uint8)
    with CloudProcess(bundle_directory, llava_directory, "--http_port=0") as cloud:
        assert fetched(f"{cloud.http}/healthz") == "ok\n"
        assert fetched(f"{cloud.http}/readyz") == "ready\n"
        manifest = json.loads(fetched(f"{cloud.http}/v1/manifest"))
        assert manifest == json.loads(read_manifest(bundle_directory).to_json())
        with EdgeClient(cloud.target, bundle_directory) as client:
            client.ask(picture, QUESTION, max_tokens=5)
            client.ask(picture, QUESTION, max_tokens=5)
            with pytest.raises(InvalidInput):
                client.ask(picture, "What is <image>?", max_tokens=5)
        text = fetched(f"{cloud.http}/metrics")
        log = cloud.log
    assert 'avq_questions_total{outcome="answered"} 2.0' in text
    assert 'avq_questions_total{outcome="InvalidInput"} 1.0' in text
    assert 'avq_images_total{source="held"} 1.0' in text
    assert "avq_payload_bytes_count 1.0" in text
    assert 'avq_decode_batch_size_bucket{le="1.0"} 1.0' in text
    assert "avq_in_flight 0.0" in text
    assert "avq_in_flight_limit 128.0" in text
    assert "avq_ready 1.0" in text
    assert "avq_first_token_seconds_count 2.0" in text  # the refused question has none
    build = {
        "engine": "transformers",
        "manifest": read_manifest(bundle_directory).digest().hex(),
        "python": platform.python_version(),
        "version": __version__,
    }
    labels = ",".join(f'{name}="{value}"' for name, value in build.items())
    assert f"avq_build_info{{{labels}}} 1.0" in text
    assert re.search(r"^process_resident_memory_bytes \d", text, re.MULTILINE)
    for stage in ("receive", "unpack", "rebuild", "suffix", "projector", "wait", "prefill"):
        assert f'avq_stage_seconds_count{{stage="{stage}"}}' in text
    for words in (QUESTION, "zeppelin"):
        assert words not in text
        assert words not in log


def test_a_port_that_is_taken_is_named(llava_directory: Path, bundle_directory: Path) -> None:
    with CloudProcess(bundle_directory, llava_directory) as cloud:
        command = CloudProcess(bundle_directory, llava_directory, f"--http_port={cloud.port}")
        with pytest.raises(RuntimeError, match="another http_port"):
            command.__enter__()
    with pytest.raises(ConfigError, match="expected http_port from 0 to 65535"):
        CloudConfig(bundle_directory, str(llava_directory), http_port=70_000)
