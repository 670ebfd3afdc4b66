"""`edge-client check --ask`: a question through the whole way, and what is told of its end."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from aligned_vq.errors import Overloaded
from benchmarks.harness.processes import CloudProcess
from benchmarks.harness.scraped import samples
from edge_client.cli import main
from tests.e2e.raw import assert_clear
from tests.edge.connection.fake_service import FakeService, failing, server, silent, whole_answer

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def nobody() -> str:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return f"127.0.0.1:{taken.getsockname()[1]}"


def probed(capsys: Capture, target: str, bundle: Path, *options: str) -> tuple[int, Any, str]:
    """Exit status, the JSON object, and what went to stderr."""
    arguments = ["check", "--ask", "--json", f"--target={target}", f"--bundle={bundle}", *options]
    status = main(arguments)
    out, words = capsys.readouterr()
    return status, json.loads(out), words


def written(path: Path) -> dict[str, float]:
    families = text_string_to_metric_families(path.read_text())
    return {sample.name: sample.value for family in families for sample in family.samples}


def test_it_asks_of_the_engine_and_costs_one_token(
    llava_directory: Path, bundle_directory: Path, capsys: Capture
) -> None:
    with CloudProcess(bundle_directory, llava_directory, "--http_port=0") as cloud:
        for decoded in (1, 2):  # a new image each time: nothing is answered from a cache
            status, told, words = probed(capsys, cloud.target, bundle_directory)
            assert (status, words) == (0, "")
            assert told["ok"]
            assert told["image"]
            assert told["payload_bytes"] > 0
            assert 0 < told["first_token_ms"] <= told["total_ms"]
            assert "prefill" in told["cloud"]
            counted = samples(cloud.http)
            assert counted["avq_images_total", "decoded"] == decoded
            assert counted["avq_tokens_total", "completion"] == decoded
            assert counted["avq_decode_batch_size_count", ""] == decoded
        status, told, _ = probed(capsys, cloud.target, bundle_directory, "--text_only")
        assert status == 0
        assert (told["image"], told["payload_bytes"]) == (False, 0)
        assert samples(cloud.http)["avq_images_total", "none"] == 1
    status, told, words = probed(capsys, cloud.target, bundle_directory, "--deadline=0.5")
    assert (status, told["ok"], told["error"]) == (1, False, "CloudUnreachable")
    assert_clear(words.strip())


def test_it_says_in_plain_words_that_it_is_well(bundle_directory: Path, capsys: Capture) -> None:
    with server(FakeService(lambda _: whole_answer())) as target:
        assert main(["check", "--ask", f"--target={target}", f"--bundle={bundle_directory}"]) == 0
    assert "ok: a question about a generated image was answered in " in capsys.readouterr().out


def test_a_silent_service_fails_within_the_deadline(
    bundle_directory: Path, capsys: Capture
) -> None:
    with server(FakeService(silent(3.0, 0))) as target:
        status, told, words = probed(capsys, target, bundle_directory, "--deadline=0.5")
    assert (status, told["error"]) == (1, "DeadlineExceeded")
    assert told["message"] in words
    assert told["total_ms"] < 3000


def test_a_full_service_fails_by_name(bundle_directory: Path, capsys: Capture) -> None:
    full = failing(Overloaded("expected at most 1 question in flight, got one more; try later"))
    with server(FakeService(full)) as target:
        status, told, _ = probed(capsys, target, bundle_directory, "--attempts=1")
    assert (status, told["error"]) == (1, "Overloaded")


def test_the_textfile_tells_success_and_failure(
    bundle_directory: Path, tmp_path: Path, nobody: str, capsys: Capture
) -> None:
    path = tmp_path / "probe.prom"
    with server(FakeService(lambda _: whole_answer())) as target:
        status, told, _ = probed(capsys, target, bundle_directory, f"--prometheus={path}")
    good = written(path)
    assert (status, good["avq_probe_success"]) == (0, 1)
    assert good["avq_probe_seconds"] == pytest.approx(told["total_ms"] / 1e3)
    assert good["avq_probe_first_token_seconds"] > 0
    assert good["avq_probe_timestamp_seconds"] > 1.7e9
    options = (f"--prometheus={path}", "--deadline=0.3")
    assert probed(capsys, nobody, bundle_directory, *options)[0] == 1
    assert written(path)["avq_probe_success"] == 0
    assert "avq_probe_first_token_seconds" not in written(path)
    assert probed(capsys, nobody, tmp_path / "no-bundle", *options)[1]["error"] == "ConfigError"
    assert written(path)["avq_probe_success"] == 0
    assert [own.name for own in tmp_path.iterdir()] == ["probe.prom"]


def test_a_textfile_that_cannot_be_written_fails(
    bundle_directory: Path, tmp_path: Path, capsys: Capture
) -> None:
    with server(FakeService(lambda _: whole_answer())) as target:
        to = (f"--target={target}", f"--bundle={bundle_directory}")
        assert main(["check", "--ask", *to, f"--prometheus={tmp_path}/no/probe.prom"]) == 1
    assert "no/probe.prom" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--text_only"], "--ask"),
        (["--prometheus=probe.prom"], "--ask"),
        (["--ask", "--deadline=0"], "deadline must be positive"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    bundle_directory: Path, nobody: str, capsys: Capture, options: list[str], words: str
) -> None:
    to = (f"--target={nobody}", f"--bundle={bundle_directory}")
    assert main(["check", *to, *options]) == 1
    assert words in capsys.readouterr().err
