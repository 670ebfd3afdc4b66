"""A check of several targets: one that serves this client is enough, and who is wrong is known."""

from __future__ import annotations

from pathlib import Path

import pytest

from aligned_vq.errors import ManifestMismatch
from edge_client import EdgeClient
from protos.messages import ServiceInfo
from tests.e2e.raw import GOOD_QUESTION, assert_clear, picture
from tests.edge.connection.fake_service import QUICK, FakeService, server, whole_answer


def of_bundle(digest: bytes) -> FakeService:
    return FakeService(lambda _: whole_answer(), ServiceInfo("{}", digest, 100, 100, "1"))


@pytest.fixture
def digest(bundle_directory: Path) -> bytes:
    with EdgeClient("127.0.0.1:1", bundle_directory) as client:
        return client.encoder.digest


@pytest.mark.parametrize("wrong", [of_bundle(bytes(16)), None], ids=["bundle", "service"])
def test_it_goes_on_to_who_serves_us(
    bundle_directory: Path, digest: bytes, wrong: FakeService | None
) -> None:
    with (
        server(wrong) as first,
        server(of_bundle(digest)) as second,
        EdgeClient([first, second], bundle_directory, QUICK) as client,
    ):
        assert client.check().manifest_digest == digest
        answer = client.ask(picture(), GOOD_QUESTION)
    assert answer.details.target == second
    assert answer.details.attempts == 1  # who is wrong is left alone


def test_it_names_all_where_all_are_wrong(bundle_directory: Path) -> None:
    with (
        server(of_bundle(bytes(16))) as first,
        server(of_bundle(bytes(16))) as second,
        EdgeClient([first, second], bundle_directory, QUICK) as client,
        pytest.raises(ManifestMismatch) as caught,
    ):
        client.check()
    assert_clear(str(caught.value))
    for target in (first, second):
        assert f"{target} tried once, circuit open" in str(caught.value)
