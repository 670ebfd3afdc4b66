"""What a camera costs a service's front: bytes around a payload, memory of an idle connection, CPU
time of a handshake and of a payload's check. The measured inputs of docs/scaling.md.

Connections are mutual TLS, as cameras make them; bytes are counted at the socket. CPU time is the
service's own, of all its threads.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import grpc
import torch
from tqdm import tqdm

from aligned_vq.codec.bundle import open_cloud_bundle
from aligned_vq.data.scenes.exam import exam_images
from aligned_vq.files.atomic_file import write_file
from aligned_vq.shipped import BUNDLE, CHECKPOINT
from aligned_vq.types import Payload
from benchmarks.harness.processes import CloudProcess
from benchmarks.links.counting_proxy import CountingProxy
from cloud_server.certificates import issuing
from edge_client import EdgeClient, EdgeConfig
from protos.alignedvq.v1 import inference_pb2 as pb
from protos.alignedvq.v1 import inference_pb2_grpc as rpc

QUESTION = "What is the colour of the largest object?"
PICTURES = 8
CHECKS = 200


def socket_bytes(cloud: CloudProcess, config: EdgeConfig) -> tuple[dict[str, float], list[Payload]]:
    """Medians over pictures; one client, one connection, its first call told apart."""
    pictures = [image.image for image in exam_images(PICTURES * 8)][: PICTURES + 1]
    around, again, payloads = [], [], []
    with (
        CountingProxy(cloud.port) as proxy,
        EdgeClient(f"127.0.0.1:{proxy.port}", BUNDLE, config) as client,
    ):
        client.check()
        first = proxy.take()
        client.ask(pictures[0], QUESTION)
        for picture in pictures[1:]:
            payload = client.compress(picture).payload
            payloads.append(payload)
            proxy.take()
            client.ask(picture, QUESTION)
            around.append(proxy.take().up - len(payload.body))
            client.ask(picture, QUESTION)
            again.append(proxy.take().up)
    found = {
        "question_characters": len(QUESTION),
        "connect_and_manifest_bytes_up": first.up,
        "connect_and_manifest_bytes_down": first.down,
        "around_payload_bytes_up": statistics.median(around),
        "follow_up_bytes_up": statistics.median(again),
    }
    return found, payloads


def connections(cloud: CloudProcess, config: EdgeConfig, count: int) -> dict[str, float]:
    """Memory and CPU time of so many connections, each with one call behind it."""
    assert config.ca is not None
    assert config.certificate is not None
    assert config.key is not None
    credentials = grpc.ssl_channel_credentials(
        config.ca.read_bytes(), config.key.read_bytes(), config.certificate.read_bytes()
    )
    options = (("grpc.use_local_subchannel_pool", 1),)
    before, spent = cloud.resident_bytes(), cpu_seconds(cloud.process.pid)
    with ExitStack() as stack:
        for _ in tqdm(range(count), desc="connections"):
            channel = stack.enter_context(grpc.secure_channel(cloud.target, credentials, options))
            rpc.SplitInferenceStub(channel).GetManifest(pb.GetManifestRequest(), timeout=30)
        spent = cpu_seconds(cloud.process.pid) - spent
        held = cloud.resident_bytes() - before
    return {
        "connections": count,
        "idle_connection_kib": round(held / count / 1024, 1),
        "handshake_and_call_cpu_ms": round(1e3 * spent / count, 2),
    }


def check_ms(payloads: list[Payload]) -> float:
    """Median time of one payload's check, one core."""
    torch.set_num_threads(1)
    codec = open_cloud_bundle(BUNDLE).codec
    times = []
    for number in range(CHECKS):
        started = time.perf_counter()
        codec.unpack(payloads[number % len(payloads)])
        times.append(time.perf_counter() - started)
    return round(1e3 * statistics.median(times), 2)


def cpu_seconds(pid: int) -> float:
    """User and system time of a process, so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> int:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--connections", type=int, default=400)
    parser.add_argument("--out", type=Path, help="write the figures here, as JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        own = Path(directory)
        issuing.make(own, None, ["camera-1"])
        served = ("server.pem", "server-key.pem", "ca.pem")
        names = ("tls_certificate", "tls_key", "tls_clients")
        flags = [f"--{name}={own / file}" for name, file in zip(names, served, strict=True)]
        config = EdgeConfig(
            tls=True,
            ca=own / "ca.pem",
            certificate=own / "client-camera-1.pem",
            key=own / "client-camera-1-key.pem",
        )
        with CloudProcess(BUNDLE, CHECKPOINT, *flags) as cloud:
            found, payloads = socket_bytes(cloud, config)
            found |= connections(cloud, config, options.connections)
    found["payload_check_ms"] = check_ms(payloads)
    text = json.dumps(found, indent=2)
    print(text)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_file(options.out, text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
