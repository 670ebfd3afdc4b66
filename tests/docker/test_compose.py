"""The pair of `docker-compose.yml` in a real engine: what it answers, and what it forbids."""

from __future__ import annotations

import json
import re
import socket
import threading
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest

from benchmarks.harness.compose import KNOWN_GOOD, SERVICES, ComposePair, Reply, docker
from tests.privacy import Secrets

pytestmark = pytest.mark.timeout(1800)  # the first builds the images

ASKERS = 4
GATEWAY_ERRORS = {429, 502, 503, 504}
OWNERS = """
import json, os, sys
found = {}
for folder in sys.argv[1:]:
    for name in ["", *os.listdir(folder)]:
        status = os.stat(os.path.join(folder, name))
        found[os.path.join(folder, name)] = [status.st_uid, status.st_mode & 0o777]
print(json.dumps(found))
"""
KEYS = """
import os
for folder, _, names in os.walk("/"):
    if not folder.startswith(("/proc", "/sys")):
        for name in names:
            if name.endswith((".pem", ".key")):
                path = os.path.join(folder, name)
                if os.path.isfile(path) and b"PRIVATE KEY" in open(path, "rb").read():
                    print(path)
"""


def test_the_answers_are_the_known_ones(pair: ComposePair) -> None:
    for item in KNOWN_GOOD:
        reply = pair.ask(question=item["question"])
        assert (reply.status, reply.answer) == (200, item["answer"])


def test_a_follow_up_sends_no_picture(pair: ComposePair) -> None:
    colour, count, _ = KNOWN_GOOD
    assert pair.ask(question=count["question"]).answer == count["answer"]
    turn = (count["question"], count["answer"])
    reply = pair.ask(turn, question=colour["question"])
    assert (reply.status, reply.answer) == (200, colour["answer"])
    assert reply.body["split"]["image_held"]
    assert reply.body["split"]["payload_bytes"] == 0


def test_the_page_is_there_for_this_machine_only(pair: ComposePair) -> None:
    with urllib.request.urlopen(f"http://localhost:{pair.port}/", timeout=30) as response:
        assert response.headers["Content-Type"].startswith("text/html")
    # A page elsewhere whose name was made to resolve to this machine.
    strange = urllib.request.Request(f"{pair.url}/v1/models", headers={"Host": "evil.example"})
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(strange, timeout=30)
    with caught.value:
        assert caught.value.code == 403


def test_nothing_is_published_beyond_loopback(pair: ComposePair) -> None:
    ports = {name: pair.inspect(name)["NetworkSettings"]["Ports"] for name in SERVICES}
    assert not any(ports["cloud"].values())
    assert ports["edge"] == {"8080/tcp": [{"HostIp": "127.0.0.1", "HostPort": str(pair.port)}]}
    others = _other_addresses(pair)
    assert all(others)
    for address in others:
        with socket.socket() as caller:
            caller.settimeout(5)
            assert caller.connect_ex((address, pair.port)) != 0, address


def test_the_cloud_wants_a_certificate_and_tls(pair: ComposePair) -> None:
    check = ["edge-client", "check", "--bundle=/models/bundle", "--target=cloud:50051"]
    ca = ["--tls=true", "--ca=/tls/ca.pem"]
    own = ["--certificate=/tls/client-edge.pem", "--key=/tls/client-edge-key.pem"]
    assert pair.run_in("edge", *check, *ca, *own).returncode == 0
    for less in (check, [*check, *ca]):
        done = pair.run_in("edge", *less)
        assert done.returncode == 1
        assert "TLS" in done.stderr


def test_processes_are_nobody_in_particular(pair: ComposePair) -> None:
    for name in SERVICES:
        done = pair.run_in(name, "cat", "/proc/1/status")
        status = dict(re.findall(r"(\w+):\s+(.*)", done.stdout))
        assert set(status["Uid"].split()) == {"10001"}
        assert int(status["CapBnd"], 16) == 0
        assert status["NoNewPrivs"] == "1"
        assert pair.inspect(name)["HostConfig"]["ReadonlyRootfs"]
        assert pair.run_in(name, "touch", "/models/new").returncode != 0


def test_keys_are_read_by_their_service_only(pair: ComposePair) -> None:
    expected = {
        "cloud": {"", "ca.pem", "server.pem", "server-key.pem"},
        "edge": {"", "ca.pem", "client-edge.pem", "client-edge-key.pem"},
    }
    for service, names in expected.items():
        found = json.loads(pair.run_in(service, "python", "-c", OWNERS, "/tls").stdout)
        assert set(found) == {f"/tls/{name}" for name in names}
        for path, (owner, mode) in found.items():
            assert owner == 10001, path
            assert mode & 0o077 == 0, path
        (key,) = (f"/tls/{name}" for name in names if name.endswith("-key.pem"))
        assert pair.run_in(service, "cat", key, user="10002:10002").returncode != 0


def test_certificates_are_made_once(pair: ComposePair) -> None:
    before = pair.run_in("cloud", "cat", "/tls/server.pem").stdout
    assert before.startswith("-----BEGIN CERTIFICATE-----")
    pair.compose("up", "-d", "--force-recreate", "certs")
    assert docker("wait", pair.compose("ps", "-aq", "certs").strip()) == "0\n"
    assert pair.run_in("cloud", "cat", "/tls/server.pem").stdout == before


def test_images_hold_no_secrets(pair: ComposePair) -> None:
    for name in SERVICES:
        image = pair.inspect(name)["Image"]
        told = docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", image)
        told += docker("image", "inspect", image)
        assert not re.search(r"PRIVATE KEY|://[^/\s\"]*@|PIP_\w*INDEX_URL", told)
        assert not re.search(r"(?i)(token|secret|passw)\w*=", told)
        run = ["run", "--rm", "--network=none", "--entrypoint=python", "--user=0", image]
        assert docker(*run, "-c", KEYS) == ""


def test_the_engine_sees_both_healthy(pair: ComposePair) -> None:
    pair.wait_healthy()


def test_a_restart_of_the_cloud_leaves_no_question_open(pair: ComposePair) -> None:
    replies: list[tuple[str, Reply]] = []
    over = threading.Event()

    def keep_asking(number: int) -> None:
        while not over.is_set():
            item = KNOWN_GOOD[number % len(KNOWN_GOOD)]
            replies.append((item["answer"], pair.ask(question=item["question"], seconds=200)))
            number += 1
            over.wait(0.2)

    def wait_for_more() -> None:
        enough = len(replies) + 2 * ASKERS
        while len(replies) < enough and not any(asker.done() for asker in askers):
            over.wait(0.1)

    with ThreadPoolExecutor(ASKERS) as threads:
        askers = [threads.submit(keep_asking, number) for number in range(ASKERS)]
        try:
            wait_for_more()
            pair.compose("restart", "cloud", seconds=300)
            pair.wait_ready()
            wait_for_more()
        finally:
            over.set()
    for asker in askers:
        asker.result()
    for answer, reply in replies:
        if reply.status == 200:
            assert reply.answer == answer
        else:
            assert reply.status in GATEWAY_ERRORS, reply.body
            assert reply.body["error"]["code"]
            assert len(reply.body["error"]["message"]) > 20
    assert {reply.status for _, reply in replies[-ASKERS:]} == {200}


def test_logs_hold_no_questions_and_answers(pair: ComposePair) -> None:
    secrets = Secrets()
    for item in KNOWN_GOOD:
        assert pair.ask(question=item["question"]).status == 200
        secrets.add_text("question", item["question"])
        secrets.add_text("answer", item["answer"])
    logs = pair.compose("logs", "--no-color")
    assert "serving on" in logs
    assert secrets.found_in(logs) == []


def test_nothing_is_left_behind(pair: ComposePair) -> None:
    label = f"label=com.docker.compose.project={pair.project}"
    listings = (("ps", "-aq"), ("volume", "ls", "-q"), ("network", "ls", "-q"))
    assert all(docker(*listing, "--filter", label) for listing in listings)
    pair.down()
    assert [docker(*listing, "--filter", label) for listing in listings] == ["", "", ""]


def _other_addresses(pair: ComposePair) -> set[str]:
    """Of this machine, beyond loopback; the network of the page has one at least."""
    networks = pair.inspect("edge")["NetworkSettings"]["Networks"]
    found = {str(networks[f"{pair.project}_page"]["Gateway"])}
    for own in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET):
        found.add(str(own[4][0]))
    return {address for address in found if not address.startswith("127.")}
