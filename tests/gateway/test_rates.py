"""What a picture costs at every operating point, before anything is sent."""

from __future__ import annotations

from pathlib import Path

from aligned_vq.images.load import load_image
from benchmarks.harness.processes import CloudProcess, GatewayProcess
from edge_client.encoder import EdgeEncoder
from edge_client.gateway.config import GatewayConfig
from tests.gateway.asking import call, data_uri, image_bytes


def test_rates_are_the_sizes_of_payloads(gateway: GatewayProcess, bundle_directory: Path) -> None:
    data = image_bytes(61)
    found = call(f"{gateway.url}/v1/rates", {"image": data_uri(data)}).json()
    encoder = EdgeEncoder(bundle_directory)
    picture = load_image(data)
    names = [point.name for point in encoder.manifest.operating_points]
    sizes = [len(encoder.encode(picture, quality=name).payload.body) for name in names]
    assert found["rates"] == [
        {"quality": name, "payload_bytes": size} for name, size in zip(names, sizes, strict=True)
    ]
    assert found["image"]["file_bytes"] == len(data)
    assert found["image"]["jpeg_bytes"] > 0


def test_rates_of_what_is_no_picture(gateway: GatewayProcess) -> None:
    url = f"{gateway.url}/v1/rates"
    assert call(url, {"image": data_uri(b"no picture")}).error["code"] == "invalid_image"
    assert call(url, {"image": "http://127.0.0.1:1/x.png"}).error["param"] == "image"
    assert call(url, {}).error["code"] == "missing_required_parameter"
    good = data_uri(image_bytes())
    assert call(url, {"image": good, "quality": "fixed"}).error["param"] == "quality"


def test_raw_features_have_no_rates(cloud: CloudProcess, identity_bundle_directory: Path) -> None:
    with GatewayProcess(cloud.target, identity_bundle_directory) as gateway:
        found = call(f"{gateway.url}/v1/rates", {"image": data_uri(image_bytes())}).json()
        assert found["rates"] == []


def long_image(size: int) -> bytes:
    """A request of so many bytes whose image is base64 of nothing that is one."""
    begin, end = b'{"image": "data:image/png;base64,', b'"}'
    text = (size - len(begin) - len(end)) // 4 * 4
    return begin + b"A" * text + end + b" " * (size - len(begin) - text - len(end))


def test_requests_may_be_as_large_as_is_said(gateway: GatewayProcess) -> None:
    most = call(f"{gateway.url}/v1/bundle").json()["max_request_bytes"]
    assert most == GatewayConfig().max_body_mib * 2**20
    assert call(f"{gateway.url}/v1/rates", long_image(most)).error["code"] == "invalid_image"
