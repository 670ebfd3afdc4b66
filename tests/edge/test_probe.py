"""`edge-client check --ask`: a question from end to end, and what is reported about it."""

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
def closed_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return f"127.0.0.1:{taken.getsockname()[1]}"


def probed(capsys: Capture, target: str, bundle: Path, *options: str) -> tuple[int, Any, str]:
    """Exit status, JSON object, and text on stderr."""
    arguments = ["check", "--ask", "--json", f"--target={target}", f"--bundle={bundle}", *options]
    status = main(arguments)
    out, stderr = capsys.readouterr()
    return status, json.loads(out), stderr


def written(path: Path) -> dict[str, float]:
    families = text_string_to_metric_families(path.read_text())
    return {sample.name: sample.value for family in families for sample in family.samples}


def test_the_probe_asks_the_engine_for_one_token(
    llava_directory: Path, bundle_directory: Path, capsys: Capture
) -> None:
    with CloudProcess(bundle_directory, llava_directory, "--http_port=0") as cloud:
        for decoded in (1, 2):  # a new image each time: nothing is answered from a cache
            status, result, stderr = probed(capsys, cloud.target, bundle_directory)
            assert (status, stderr) == (0, "")
            assert result["ok"]
            assert result["image"]
            assert result["payload_bytes"] > 0
            assert 0 < result["first_token_ms"] <= result["total_ms"]
            assert "prefill" in result["cloud"]
            counted = samples(cloud.http)
            assert counted["avq_images_total", "decoded"] == decoded
            assert counted["avq_tokens_total", "completion"] == decoded
            assert counted["avq_decode_batch_size_count", ""] == decoded
        status, result, _ = probed(capsys, cloud.target, bundle_directory, "--text_only")
        assert status == 0
        assert (result["image"], result["payload_bytes"]) == (False, 0)
        assert samples(cloud.http)["avq_images_total", "none"] == 1
    status, result, stderr = probed(capsys, cloud.target, bundle_directory, "--deadline=0.5")
    assert (status, result["ok"], result["error"]) == (1, False, "CloudUnreachable")
    assert_clear(stderr.strip())


def test_success_is_printed_as_a_sentence(bundle_directory: Path, capsys: Capture) -> None:
    with server(FakeService(lambda _: whole_answer())) as target:
        assert main(["check", "--ask", f"--target={target}", f"--bundle={bundle_directory}"]) == 0
    assert "ok: a question about a generated image was answered in " in capsys.readouterr().out


def test_a_silent_service_fails_within_the_deadline(
    bundle_directory: Path, capsys: Capture
) -> None:
    with server(FakeService(silent(3.0, 0))) as target:
        status, result, stderr = probed(capsys, target, bundle_directory, "--deadline=0.5")
    assert (status, result["error"]) == (1, "DeadlineExceeded")
    assert result["message"] in stderr
    assert result["total_ms"] < 3000


def test_the_error_of_a_full_service_is_named(bundle_directory: Path, capsys: Capture) -> None:
    full = failing(Overloaded("expected at most 1 question in flight, got one more; try later"))
    with server(FakeService(full)) as target:
        status, result, _ = probed(capsys, target, bundle_directory, "--attempts=1")
    assert (status, result["error"]) == (1, "Overloaded")


def test_the_textfile_reports_success_and_failure(
    bundle_directory: Path, tmp_path: Path, closed_address: str, capsys: Capture
) -> None:
    path = tmp_path / "probe.prom"
    with server(FakeService(lambda _: whole_answer())) as target:
        status, result, _ = probed(capsys, target, bundle_directory, f"--prometheus={path}")
    metrics = written(path)
    assert (status, metrics["avq_probe_success"]) == (0, 1)
    assert metrics["avq_probe_seconds"] == pytest.approx(result["total_ms"] / 1e3)
    assert metrics["avq_probe_first_token_seconds"] > 0
    assert metrics["avq_probe_timestamp_seconds"] > 1.7e9
    options = (f"--prometheus={path}", "--deadline=0.3")
    assert probed(capsys, closed_address, bundle_directory, *options)[0] == 1
    assert written(path)["avq_probe_success"] == 0
    assert "avq_probe_first_token_seconds" not in written(path)
    assert (
        probed(capsys, closed_address, tmp_path / "no-bundle", *options)[1]["error"]
        == "ConfigError"
    )
    assert written(path)["avq_probe_success"] == 0
    assert [file.name for file in tmp_path.iterdir()] == ["probe.prom"]


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
    bundle_directory: Path, closed_address: str, capsys: Capture, options: list[str], words: str
) -> None:
    to = (f"--target={closed_address}", f"--bundle={bundle_directory}")
    assert main(["check", *to, *options]) == 1
    assert words in capsys.readouterr().err
