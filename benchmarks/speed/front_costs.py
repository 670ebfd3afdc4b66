"""What a camera costs the front tier; the measured inputs of docs/scaling.md.

Measures the bytes sent around a payload, the memory of an idle connection, and the CPU time of a
handshake and of checking a payload. Connections use mutual TLS, as cameras do; bytes are counted at
the socket; CPU time is that of all threads of the service.
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
IMAGES = 8
CHECKS = 200


def socket_bytes(cloud: CloudProcess, config: EdgeConfig) -> tuple[dict[str, float], list[Payload]]:
    """Medians over images on one connection, with its first call listed separately; the payloads.

    The first image warms up the connection.
    """
    images = [image.image for image in exam_images(IMAGES * 8)][: IMAGES + 1]
    around, follow_up, payloads = [], [], []
    with (
        CountingProxy(cloud.port) as proxy,
        EdgeClient(f"127.0.0.1:{proxy.port}", BUNDLE, config) as client,
    ):
        client.check()
        first = proxy.take()
        client.ask(images[0], QUESTION)
        for image in images[1:]:
            payload = client.compress(image).payload
            payloads.append(payload)
            proxy.take()  # drops frames that followed the previous answer
            # The first question carries the payload, the second one only its digest.
            client.ask(image, QUESTION)
            around.append(proxy.take().up - len(payload.body))
            client.ask(image, QUESTION)
            follow_up.append(proxy.take().up)
    figures = {
        "question_characters": len(QUESTION),
        "connect_and_manifest_bytes_up": first.up,
        "connect_and_manifest_bytes_down": first.down,
        "around_payload_bytes_up": statistics.median(around),
        "follow_up_bytes_up": statistics.median(follow_up),
    }
    return figures, payloads


def connections(cloud: CloudProcess, config: EdgeConfig, count: int) -> dict[str, float]:
    """Memory and CPU time for each of `count` open connections, after one call on each."""
    assert config.ca is not None
    assert config.certificate is not None
    assert config.key is not None
    credentials = grpc.ssl_channel_credentials(
        config.ca.read_bytes(), config.key.read_bytes(), config.certificate.read_bytes()
    )
    # Without this option gRPC would share one connection between all channels to a target.
    options = (("grpc.use_local_subchannel_pool", 1),)
    memory_before, cpu_before = cloud.resident_bytes(), cpu_seconds(cloud.process.pid)
    with ExitStack() as stack:
        for _ in tqdm(range(count), desc="connections"):
            channel = stack.enter_context(grpc.secure_channel(cloud.target, credentials, options))
            rpc.SplitInferenceStub(channel).GetManifest(pb.GetManifestRequest(), timeout=30)
        cpu = cpu_seconds(cloud.process.pid) - cpu_before
        memory = cloud.resident_bytes() - memory_before
    return {
        "connections": count,
        "idle_connection_kib": round(memory / count / 1024, 1),
        "handshake_and_call_cpu_ms": round(1e3 * cpu / count, 2),
    }


def check_ms(payloads: list[Payload]) -> float:
    """Median milliseconds to check one payload on one core."""
    torch.set_num_threads(1)
    codec = open_cloud_bundle(BUNDLE).codec
    times = []
    for number in range(CHECKS):
        started = time.perf_counter()
        codec.unpack(payloads[number % len(payloads)])
        times.append(time.perf_counter() - started)
    return round(1e3 * statistics.median(times), 2)


def cpu_seconds(pid: int) -> float:
    """User and system CPU time that a process has used."""
    # The second field is the command in parentheses and may contain spaces: split behind it.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    # utime and stime, fields 14 and 15 of proc(5): `fields` starts at the third.
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> int:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--connections", type=int, default=400)
    parser.add_argument("--out", type=Path, help="write the figures here, as JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        issuing.make(folder, None, ["camera-1"])
        files = ("server.pem", "server-key.pem", "ca.pem")
        names = ("tls_certificate", "tls_key", "tls_clients")
        flags = [f"--{name}={folder / file}" for name, file in zip(names, files, strict=True)]
        config = EdgeConfig(
            tls=True,
            ca=folder / "ca.pem",
            certificate=folder / "client-camera-1.pem",
            key=folder / "client-camera-1-key.pem",
        )
        with CloudProcess(BUNDLE, CHECKPOINT, *flags) as cloud:
            figures, payloads = socket_bytes(cloud, config)
            figures |= connections(cloud, config, options.connections)
    figures["payload_check_ms"] = check_ms(payloads)
    text = json.dumps(figures, indent=2)
    print(text)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_file(options.out, text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
