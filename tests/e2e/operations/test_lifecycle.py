"""Starting, refusing to start, hang-ups, draining and coming back."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from benchmarks.harness.processes import CloudProcess
from benchmarks.links.counting_proxy import CountingProxy
from cloud_server import cli
from cloud_server.app import SERVICE_NAME, CloudServer
from cloud_server.config import CloudConfig
from cloud_server.model import load_cloud_model
from edge_client import CloudUnreachable, EdgeClient, EdgeConfig, Overloaded
from tests import commands
from tests.e2e.raw import (
    CHANNEL_OPTIONS,
    GOOD_QUESTION,
    assert_clear,
    assert_serves,
    picture,
)

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
LONG_ANSWER = 1500
ONCE = EdgeConfig(attempts=1, connect_seconds=5)
IMPATIENT = EdgeConfig(attempts=2, connect_seconds=0.5)


@pytest.fixture(scope="module")
def channel(cloud: CloudProcess) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(cloud.target, options=CHANNEL_OPTIONS) as opened:
        yield opened


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def test_health_is_serving_and_reflection_lists_the_service(channel: grpc.Channel) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    for name in ("", SERVICE_NAME):
        request = health_pb2.HealthCheckRequest(service=name)
        assert health.Check(request, timeout=5).status == SERVING
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    asked = reflection_pb2.ServerReflectionRequest(list_services="")
    (response,) = stub.ServerReflectionInfo(iter([asked]), timeout=5)
    names = {service.name for service in response.list_services_response.service}
    assert {SERVICE_NAME, "grpc.health.v1.Health"} <= names


def test_healthy_only_once_warm(
    llava_directory: Path, bundle_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = CloudConfig(bundle_directory, str(llava_directory), port=0)
    model = load_cloud_model(config)

    async def run() -> list[int]:
        server = CloudServer(model, config)
        warm = asyncio.Event()
        listening = asyncio.Event()
        warm_up = server._engine.warm_up

        async def slow_warm_up() -> None:
            listening.set()
            await warm.wait()
            await warm_up()

        monkeypatch.setattr(server._engine, "warm_up", slow_warm_up)
        starting = asyncio.create_task(server.start())
        await asyncio.wait_for(listening.wait(), 10)
        seen = []
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as opened:
            watch = health_pb2_grpc.HealthStub(opened).Watch(
                health_pb2.HealthCheckRequest(service=SERVICE_NAME), timeout=20
            )
            seen.append((await watch.read()).status)
            warm.set()
            seen.append((await watch.read()).status)
            await starting
            stopping = asyncio.create_task(server.stop())
            seen.append((await watch.read()).status)
            await asyncio.wait_for(stopping, 5)  # with the watch still open
            watch.cancel()
        return seen

    assert asyncio.run(run()) == [NOT_SERVING, SERVING, NOT_SERVING]


def test_a_client_that_hangs_up_frees_its_place(talkative: Path, bundle_directory: Path) -> None:
    options = ("--max_in_flight=1", f"--max_answer_tokens={LONG_ANSWER}", "--parallel_answers=1")
    with (
        CloudProcess(bundle_directory, talkative, *options) as cloud,
        EdgeClient(cloud.target, bundle_directory, ONCE) as client,
    ):
        for _ in range(3):
            with client.stream(picture(), GOOD_QUESTION, max_tokens=LONG_ANSWER) as stream:
                next(stream)
                with pytest.raises(Overloaded, match="at most 1 questions in flight"):
                    client.ask(picture(), GOOD_QUESTION, max_tokens=2)
            started = time.monotonic()
            while True:
                try:
                    client.ask(picture(), GOOD_QUESTION, max_tokens=2)
                    break
                except Overloaded:  # the hang-up is still on its way
                    assert time.monotonic() - started < 1
                    time.sleep(0.01)
            # The one thread that answers was free too: a whole answer takes far longer.
            assert time.monotonic() - started < 1
    assert "Traceback" not in cloud.log


def test_sigterm_drains_and_the_client_finds_the_next_process(
    talkative: Path, bundle_directory: Path
) -> None:
    port = f"--port={free_port()}"
    options = (port, f"--max_answer_tokens={LONG_ANSWER}")
    with CloudProcess(bundle_directory, talkative, *options) as cloud:
        client = EdgeClient(cloud.target, bundle_directory)
        with grpc.insecure_channel(cloud.target, options=CHANNEL_OPTIONS) as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch(
                health_pb2.HealthCheckRequest(service=SERVICE_NAME), timeout=60
            )
            assert next(watch).status == SERVING
            with client.stream(picture(), GOOD_QUESTION, max_tokens=LONG_ANSWER) as stream:
                pieces = [next(stream)]
                cloud.process.send_signal(signal.SIGTERM)
                assert next(watch).status == NOT_SERVING
                with (
                    EdgeClient(cloud.target, bundle_directory, IMPATIENT) as late,
                    pytest.raises(CloudUnreachable),
                ):
                    late.ask(picture(), GOOD_QUESTION)
                pieces += stream
            ended = time.monotonic()
            assert cloud.process.wait(10) == 0
            assert time.monotonic() - ended < 3  # the watch is still open
    answer = stream.answer
    assert answer is not None
    assert answer.details.usage.completion_tokens == LONG_ANSWER
    assert "".join(pieces) == answer
    assert "Traceback" not in cloud.log

    with client:
        with (
            EdgeClient(cloud.target, bundle_directory, IMPATIENT) as impatient,
            pytest.raises(CloudUnreachable) as caught,
        ):
            impatient.ask(picture(), GOOD_QUESTION)
        assert_clear(str(caught.value))
        with CloudProcess(bundle_directory, talkative, port):
            again = client.ask(picture(), GOOD_QUESTION, max_tokens=4)
            assert again.usage.completion_tokens == 4
            assert not again.usage.image_cached  # the new process holds nothing, and said so


def test_a_warm_client_finds_the_next_replica_while_the_old_one_drains(
    talkative: Path, bundle_directory: Path
) -> None:
    options = (f"--max_answer_tokens={LONG_ANSWER}",)
    with (
        CloudProcess(bundle_directory, talkative, *options) as old,
        CloudProcess(bundle_directory, talkative, *options) as new,
        CountingProxy(old.port) as balancer,
        EdgeClient(f"127.0.0.1:{balancer.port}", bundle_directory) as client,
        client.stream(picture(), GOOD_QUESTION, max_tokens=LONG_ANSWER) as running,
    ):
        next(running)
        balancer.target_port = new.port  # it takes a pod that drains out of its list
        old.process.send_signal(signal.SIGTERM)
        for _ in range(5):
            answer = client.ask(picture(), GOOD_QUESTION, max_tokens=2)
            assert answer.usage.completion_tokens == 2
        assert old.process.poll() is None  # it still answers the first one
        for _ in running:
            pass
        assert running.answer is not None
        assert running.answer.usage.completion_tokens == LONG_ANSWER
        assert old.process.wait(10) == 0
        assert new.process.poll() is None


def test_a_taken_port_is_one_line(
    cloud: CloudProcess, llava_directory: Path, bundle_directory: Path
) -> None:
    command = [
        *(sys.executable, "-m", "cloud_server.cli", "serve", f"--port={cloud.port}"),
        *(f"--bundle={bundle_directory}", f"--model={llava_directory}"),
    ]
    done = commands.run(command, timeout=60)
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"cloud-server: expected to listen on 127.0.0.1:{cloud.port}, got: ")
    assert_clear(line)
    assert_serves(cloud.target, bundle_directory)


def liuhaotian(folder: Path) -> None:
    """A checkpoint as LLaVA's own repository writes it."""
    config = {"model_type": "llava_llama", "mm_vision_tower": "openai/clip-vit-large-patch14-336"}
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("case", "named"),
    [
        ("no bundle", ["nowhere/manifest.json", "copy the whole bundle"]),
        ("no checkpoint", ["nowhere", "expected a path or an id such as llava-hf/"]),
        ("other weights", ["expected the vision weights", "serve that checkpoint"]),
        ("other tower", ["vision tower", "serve the checkpoint the bundle was made from"]),
        ("original format", ["LLaVA's original format", "llava-hf/llava-1.5-7b-hf"]),
        ("device warp", ["auto, cpu or cuda[:n]", "got 'warp'"]),
        ("device meta", ["auto, cpu or cuda[:n]", "got 'meta'"]),
        ("device mps", ["auto, cpu or cuda[:n]", "got 'mps'"]),
        ("device cuda:99", ["cuda:99", "usable GPUs"]),
        ("host 192.0.2.1", ["192.0.2.1:0", "another host or port"]),
        ("host 0.0.0.0", ["expected TLS", "'0.0.0.0'", "tls_certificate"]),
        ("tls_certificate nowhere.pem", ["tls_key"]),
        ("tokens nowhere.yaml", ["nowhere.yaml", "No such file"]),
    ],
)
def test_what_cannot_be_served_is_one_line(
    case: str,
    named: list[str],
    llava_directory: Path,
    bundle_directory: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    bundle, model, options = bundle_directory, llava_directory, ["--reflection=true"]
    if case.startswith(("device", "host", "tls", "tokens")):
        options.append("--" + case.replace(" ", "="))
        options.append(f"--plaintext={str('192' in case).lower()}")
    elif case == "no bundle":
        bundle = tmp_path / "nowhere"
    elif case == "no checkpoint":
        model = tmp_path / "nowhere"
    else:
        model = tmp_path
        spoil_checkpoint(case, llava_directory, model)
    capfd.readouterr()  # what saving a checkpoint says is not part of it
    code = cli.main(["serve", f"--bundle={bundle}", f"--model={model}", "--port=0", *options])
    assert code == 1
    out, err = capfd.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith("cloud-server: ")
    assert all(words in line for words in named), line
    assert "expected" in line or "must" in line or "asked for" in line or "differ" in line


def spoil_checkpoint(case: str, llava: Path, folder: Path) -> None:
    if case == "original format":
        return liuhaotian(folder)
    from tests.conftest import random_llava

    random_llava(seed=1, width=32 if case == "other weights" else 64).save_pretrained(folder)
    for name in ("processor_config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(llava / name, folder)
    return None


def test_an_unknown_log_level_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(["serve", "--bundle=x", "--model=y", "--log_level=loud"])
    assert left.value.code == 2
    assert "debug" in capsys.readouterr().err
