"""The quantizer: nearest entries, residual stages, masks, gradients, calibration."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from aligned_vq.codec import CodecSpec, FeatureCodec
from aligned_vq.errors import ConfigError
from aligned_vq.quantizer.aligned import AlignedVQ
from aligned_vq.quantizer.calibration import calibrate
from aligned_vq.quantizer.codebook import Codebook
from aligned_vq.split.residual_link import LearnedLink
from aligned_vq.types import FeatureSpec, QuantizerConfig

FEATURES = FeatureSpec(num_tokens=20, dim=24)


def calibrated(config: QuantizerConfig) -> tuple[AlignedVQ, LearnedLink, torch.Tensor]:
    torch.manual_seed(0)
    features = torch.randn(30, FEATURES.num_tokens, FEATURES.dim) + torch.randn(
        FEATURES.num_tokens, FEATURES.dim
    )
    quantizer, link = AlignedVQ(FEATURES, config), LearnedLink(FEATURES, config.codebook_dim)
    calibrate(quantizer, link, features, 2 * features + 1)
    return quantizer.eval(), link, features


def test_the_nearest_entry_is_found_and_ties_go_to_the_lowest_index() -> None:
    codebook = Codebook(5, 2)
    entries = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 2.0], [5.0, 5.0]])
    codebook.entries.data = entries
    points = torch.tensor([[0.9, 0.1], [0.1, 1.9], [0.5, 0.0], [9.0, 9.0]])
    assert codebook.encode(points).tolist() == [1, 3, 0, 4]
    assert torch.equal(codebook.decode(torch.tensor([3])), entries[3:4])


@pytest.mark.parametrize("groups", [1, 2])
def test_forward_gives_what_decoding_its_indices_gives(groups: int) -> None:
    config = QuantizerConfig(24, 8, (64, 32), groups)
    quantizer, _, features = calibrated(config)
    out = quantizer(features[:3])
    decoded = quantizer.codebooks.decode(out.indices, [None, None])
    assert torch.allclose(out.latents_hat, decoded, atol=1e-5)
    assert [tuple(i.shape) for i in out.indices] == [(3, 20, groups)] * 2


def test_every_stage_and_every_mask_lowers_the_error() -> None:
    config = QuantizerConfig(24, 8, (64, 32, 32))
    quantizer, _, features = calibrated(config)
    latents = quantizer.latents(features)
    errors = []
    for count, shares in ((1, ()), (2, (1.0, 0.5)), (2, ()), (3, ())):
        indices, masks = quantizer.encode(features, count, shares)
        decoded = quantizer.codebooks.decode(indices, masks)
        errors.append((decoded - latents).square().mean().item())
    assert errors == sorted(errors, reverse=True)
    assert len(set(errors)) == 4
    _, masks = quantizer.encode(features, 2, (1.0, 0.35))
    assert masks[0] is None
    assert masks[1] is not None
    assert set(masks[1].sum(1).tolist()) == {7}


def test_gradients_pass_straight_through_and_dropout_shortens_the_stages() -> None:
    config = QuantizerConfig(24, 8, (64, 32, 32))
    quantizer, _, features = calibrated(config)
    quantizer.train()
    given = features[:2].clone().requires_grad_(True)
    out = quantizer(given)
    out.latents_hat.sum().backward()
    expected = quantizer.project_down.weight.sum(0).expand(2, 20, 24)
    assert given.grad is not None
    assert torch.allclose(given.grad, expected, atol=1e-4)
    (out.commitment.detach() + out.codebook.detach()).item()
    used = {quantizer(features[:1], dropout=1.0).num_quantizers for _ in range(40)}
    assert used == {1, 2, 3}
    quantizer.eval()
    assert {quantizer(features[:1], dropout=1.0).num_quantizers for _ in range(10)} == {3}


def test_nothing_learns_while_encoding() -> None:
    quantizer, _, features = calibrated(QuantizerConfig(24, 8, (64,)))
    before = {name: t.clone() for name, t in quantizer.state_dict().items()}
    quantizer.train()
    quantizer.encode(features)
    quantizer(features)
    assert all(torch.equal(t, before[name]) for name, t in quantizer.state_dict().items())


def test_calibration_is_far_better_than_the_position_mean_and_fits_the_link() -> None:
    config = QuantizerConfig(24, 24, (256, 256))
    quantizer, link, features = calibrated(config)
    indices, masks = quantizer.encode(features)
    latents_hat = quantizer.codebooks.decode(indices, masks)
    rebuilt = quantizer.reconstruct(latents_hat)
    error = (rebuilt - features).square().mean()
    assert error < 0.5 * (features - features.mean(0)).square().mean()
    residual = link(rebuilt, latents_hat, None)
    assert torch.allclose(residual, 2 * rebuilt + 1, atol=0.2)


def test_too_few_or_broken_examples_are_refused() -> None:
    config = QuantizerConfig(24, 8, (64,))
    quantizer, link = AlignedVQ(FEATURES, config), LearnedLink(FEATURES, 8)
    few = torch.randn(2, 20, 24)
    with pytest.raises(ConfigError, match="give more images"):
        calibrate(quantizer, link, few, few)
    broken = torch.randn(9, 20, 24)
    broken[3, 4, 5] = np.nan
    with pytest.raises(ConfigError, match="NaN"):
        calibrate(quantizer, link, broken, broken)


@pytest.mark.parametrize("shares", [(), (1.0, 0.5), (0.5, 0.25)])
def test_a_payload_decodes_to_what_the_indices_say(shares: tuple[float, ...]) -> None:
    config = QuantizerConfig(24, 8, (64, 48), 2)
    quantizer, link, features = calibrated(config)
    spec = CodecSpec(bytes(16), FEATURES, config, statistics=False, layer_norm_eps=1e-5)
    codec = FeatureCodec(spec, quantizer, link)
    payload = codec.compress(features[0], features[0], shares=shares)
    rebuilt, residual = codec.decompress(payload)
    indices, masks = quantizer.encode(features[:1], shares=shares)
    latents_hat = quantizer.codebooks.decode(indices, masks)
    assert torch.allclose(rebuilt, quantizer.reconstruct(latents_hat)[0], atol=1e-5)
    assert torch.allclose(residual, link(rebuilt[None], latents_hat, None)[0], atol=1e-5)
    assert rebuilt.shape == residual.shape == (20, 24)
    if not shares:
        assert payload.coding == "fixed"
        assert len(payload.body) == config.payload_bytes(20)
