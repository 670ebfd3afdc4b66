"""The refiner: nothing at first, then what neighbours say of a latent."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from aligned_vq.calibration.codec import CodecPlan, CutFeatures, calibrate_codec, export_bundle
from aligned_vq.codec.bundle import open_cloud_bundle, open_edge_bundle
from aligned_vq.errors import ConfigError
from aligned_vq.llava.checkpoint import LlavaCheckpoint
from aligned_vq.quantizer.refiner import Refiner
from aligned_vq.types import QuantizerConfig, SplitPoint

CONFIG = QuantizerConfig(16, 4, (16,), refiner_blocks=1, refiner_width=32)


def test_an_untrained_refiner_changes_nothing() -> None:
    latents = torch.randn(3, 10, 4)
    assert torch.equal(Refiner(10, CONFIG)(latents), latents)


def test_it_learns_what_tokens_of_a_picture_share() -> None:
    torch.manual_seed(0)
    refiner = Refiner(10, CONFIG)
    refiner.scale.copy_(torch.tensor([0.5, 1.0, 2.0, 4.0]))

    def errors() -> tuple[torch.Tensor, torch.Tensor]:
        shared = torch.randn(32, 1, 4) * refiner.scale
        rough = shared + 0.5 * torch.randn(32, 10, 4) * refiner.scale
        scaled = ((refiner(rough) - shared) / refiner.scale).square().mean()
        return scaled, ((rough - shared) / refiner.scale).square().mean()

    optimiser = torch.optim.Adam(refiner.parameters(), 3e-3)
    for _ in range(150):
        optimiser.zero_grad()
        torch.autograd.backward(errors()[0])
        optimiser.step()
    with torch.no_grad():
        refined, rough = errors()
    assert refined < 0.4 * rough  # a mean over ten tokens could reach 0.1


def test_no_width_is_refused() -> None:
    with pytest.raises(ConfigError, match="refiner_width positive, got 1 and 0"):
        QuantizerConfig(16, 4, (16,), refiner_blocks=1, refiner_width=0)


@pytest.mark.parametrize("width", [16, 40])
def test_a_width_without_whole_heads_is_refused(width: int) -> None:
    config = QuantizerConfig(16, 4, (16,), refiner_blocks=1, refiner_width=width)
    with pytest.raises(ConfigError, match=rf"multiple of 32, got 1 of width {width}"):
        Refiner(10, config)


def test_a_bundle_gives_the_refiner_to_the_cloud_alone(
    llava_directory: Path, examples: CutFeatures, tmp_path: Path
) -> None:
    checkpoint = LlavaCheckpoint(llava_directory)
    plan = CodecPlan(
        SplitPoint(1, "ln1"),
        codebook_sizes=(64,),
        codebook_dim=16,
        refiner_blocks=2,
        refiner_width=32,
    )
    calibrated = calibrate_codec(checkpoint, plan, examples)
    quantizer = calibrated.codec.quantizer
    assert quantizer is not None
    assert quantizer.refiner is not None
    latents = quantizer.latents(examples.features)
    assert torch.allclose(quantizer.refiner.scale, latents.flatten(0, 1).std(0), rtol=1e-5)
    torch.nn.init.normal_(quantizer.refiner.project_out.weight)
    export_bundle(checkpoint, calibrated, tmp_path)
    with safe_open(tmp_path / "edge.safetensors", "pt") as file:
        assert not [name for name in file.keys() if "refiner" in name]  # noqa: SIM118
    edge, cloud = open_edge_bundle(tmp_path).codec, open_cloud_bundle(tmp_path).codec
    features, residual = examples.features[0], examples.residual[0]
    found, _ = cloud.decompress(edge.compress(features, residual))
    with torch.inference_mode():
        latents_hat = quantizer(features[None]).latents_hat
        wanted = quantizer.reconstruct(quantizer.refine(latents_hat))[0]
        unrefined = quantizer.reconstruct(latents_hat)[0]
    assert torch.allclose(found, wanted, atol=1e-4)
    assert not torch.allclose(found, unrefined, atol=1e-2)
