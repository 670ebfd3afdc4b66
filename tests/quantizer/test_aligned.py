"""The quantizer: nearest entries, residual stages, masks, gradients, calibration."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from aligned_vq.calibration.quantizer import calibrate
from aligned_vq.codec.feature_codec import FeatureCodec
from aligned_vq.codec.spec import CodecSpec
from aligned_vq.errors import ConfigError
from aligned_vq.quantizer.aligned import AlignedVQ, GradientEstimator, _rotate_to
from aligned_vq.quantizer.codebook import Codebook
from aligned_vq.quantizer.residual import StageChoice
from aligned_vq.split.residual_link import LearnedLink
from aligned_vq.types import FeatureSpec, OperatingPoint, QuantizerConfig

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


@pytest.mark.parametrize("size", [128, 192, 512])
def test_of_equal_entries_the_first_is_taken_wherever_the_others_are(size: int) -> None:
    torch.manual_seed(0)
    codebook = Codebook(size, 3)
    codebook.entries.data = torch.randn(64, 3).repeat(size // 64, 1)
    points = torch.randn(400, 3)
    found = codebook.search(points)
    wanted = torch.cdist(points, codebook.entries[:64]).argmin(1)
    assert torch.equal(found.indices, wanted)
    squares = (points - codebook.entries[wanted]).square().sum(1) - points.square().sum(1)
    assert torch.allclose(found.cost, squares.detach(), atol=1e-5)


@pytest.mark.parametrize("groups", [1, 2])
def test_forward_gives_what_decoding_its_indices_gives(groups: int) -> None:
    config = QuantizerConfig(24, 8, (64, 32), groups)
    quantizer, _, features = calibrated(config)
    out = quantizer(features[:3])
    indices = [choice.indices for choice in out.choices]
    decoded = quantizer.codebooks.decode(indices, [None, None])
    assert torch.allclose(out.latents_hat, decoded, atol=1e-5)
    assert [tuple(i.shape) for i in indices] == [(3, 20, groups)] * 2


def decoded_of(quantizer: AlignedVQ, choices: list[StageChoice]) -> torch.Tensor:
    return quantizer.codebooks.decode([c.indices for c in choices], [c.mask for c in choices])


def test_every_stage_and_every_mask_lowers_the_error() -> None:
    config = QuantizerConfig(24, 8, (64, 32, 32))
    quantizer, _, features = calibrated(config)
    latents = quantizer.latents(features)
    errors, rates = [], []
    for stages, weight in (((0,), 0.0), ((0, 1), 0.3), ((0, 1), 0.0), ((0, 1, 2), 0.0)):
        choices = quantizer.encode(features, stages, weight)
        errors.append((decoded_of(quantizer, choices) - latents).square().mean().item())
        rates.append(quantizer.codebooks.rate_bits(choices).mean().item())
    assert errors == sorted(errors, reverse=True)
    assert rates == sorted(rates)
    assert len(set(errors)) == 4


def test_a_token_is_covered_exactly_when_its_error_falls_by_more_than_its_bits_cost() -> None:
    quantizer, _, features = calibrated(QuantizerConfig(24, 8, (64, 32)))
    weight = 0.3
    first, second = quantizer.encode(features, (0, 1), weight)
    assert first.mask is None
    assert second.mask is not None
    assert 0 < second.mask.float().mean() < 1
    stage = quantizer.codebooks.stage(1)
    before = second.inputs.square().sum(-1)
    after = (second.inputs - stage.decode(second.indices)).square().sum(-1)
    worth = before - after - weight * stage.length_bits(second.indices)
    assert (
        torch.equal(second.mask, worth > 0) or worth[second.mask != (worth > 0)].abs().max() < 1e-4
    )


def test_importance_moves_bits_to_the_tokens_that_matter() -> None:
    quantizer, _, features = calibrated(QuantizerConfig(24, 8, (2, 32)))
    book = quantizer.codebooks.stage(0).codebooks()[0]
    plain = quantizer.encode(features, (0, 1), 0.3)
    book.importance.copy_(torch.tensor([8.0, 1 / 8]))
    weighed = quantizer.encode(features, (0, 1), 0.3)
    masks = plain[1].mask, weighed[1].mask
    assert masks[0] is not None
    assert masks[1] is not None
    matters = plain[0].indices[..., 0] == 0
    assert masks[1][matters].float().mean() > masks[0][matters].float().mean()
    assert masks[1][~matters].float().mean() < masks[0][~matters].float().mean()


def test_a_stage_left_out_covers_nothing_and_rates_may_differ_by_image() -> None:
    quantizer, _, features = calibrated(QuantizerConfig(24, 8, (64, 32, 32)))
    choices = quantizer.encode(features[:2], (1, 2), torch.tensor([0.01, 5.0]))
    assert choices[0].mask is not None
    assert not choices[0].mask.any()
    assert choices[1].mask is None
    assert choices[2].mask is not None
    kept, dropped = choices[2].mask.float().mean(1).tolist()
    assert kept > dropped


@pytest.mark.parametrize("estimator", ["straight_through", "rotation"])
def test_gradients_reach_latents_and_entries(estimator: GradientEstimator) -> None:
    quantizer, _, features = calibrated(QuantizerConfig(24, 8, (64, 32)))
    given = features[:2].clone().requires_grad_(True)
    out = quantizer(given, estimator=estimator)
    decoded = decoded_of(quantizer, out.choices)
    assert torch.allclose(out.latents_hat, decoded, atol=1e-5)
    out.latents_hat.sum().backward()
    assert given.grad is not None
    straight = quantizer.project_down.weight.sum(0).expand(2, 20, 24)
    assert torch.allclose(given.grad, straight, atol=1e-4) == (estimator == "straight_through")
    for number, choice in enumerate(out.choices):
        entries = quantizer.codebooks.stage(number).codebooks()[0].entries
        used = torch.bincount(choice.indices.flatten(), minlength=len(entries)).float()
        assert entries.grad is not None
        assert torch.allclose(entries.grad, used[:, None].expand_as(entries))


def test_the_rotation_keeps_lengths_and_angles_of_gradients() -> None:
    """The rotated pass scales a gradient by the ratio of the norms and turns it, no more."""
    quantizer, _, features = calibrated(QuantizerConfig(24, 8, (64,)))
    latents = quantizer.latents(features[:2]).detach().requires_grad_(True)
    chosen = quantizer.codebooks.decode(
        [quantizer.codebooks.stage(0).encode(latents)], [None]
    ).detach()
    rotated = _rotate_to(latents, chosen)
    direction = torch.randn_like(rotated)
    (gradient,) = torch.autograd.grad((rotated * direction).sum(), latents)
    scale = chosen.norm(dim=-1) / latents.norm(dim=-1)
    assert torch.allclose(gradient.norm(dim=-1), direction.norm(dim=-1) * scale, rtol=1e-3)


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
    latents_hat = decoded_of(quantizer, quantizer.encode(features))
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


POINTS = (
    OperatingPoint("fixed", (0, 1)),
    OperatingPoint("adaptive", (0, 1), 0.3),
    OperatingPoint("limited", (0, 1), 0.01, max_bytes=40),
    OperatingPoint("second", (1,)),
)


def codec_of(config: QuantizerConfig) -> tuple[FeatureCodec, torch.Tensor]:
    quantizer, link, features = calibrated(config)
    spec = CodecSpec(bytes(16), FEATURES, config, False, 1e-5, operating_points=POINTS)
    return FeatureCodec(spec, quantizer, link), features


@pytest.mark.parametrize("point", POINTS, ids=lambda point: point.name)
def test_a_payload_decodes_to_what_the_indices_say(point: OperatingPoint) -> None:
    config = QuantizerConfig(24, 8, (64, 48), 2)
    codec, features = codec_of(config)
    assert codec.quantizer is not None
    payload = codec.compress(features[0], features[0], point=point.name)
    rebuilt, residual = codec.decompress(payload)
    assert rebuilt.shape == residual.shape == (20, 24)
    if point.max_bytes is not None:
        assert len(payload.body) <= point.max_bytes
        return
    latents_hat = decoded_of(
        codec.quantizer, codec.quantizer.encode(features[:1], point.stages, point.rate_weight)
    )
    assert torch.allclose(rebuilt, codec.quantizer.reconstruct(latents_hat)[0], atol=1e-5)
    assert torch.allclose(residual, codec.link(rebuilt[None], latents_hat, None)[0], atol=1e-5)
    if point.name == "fixed":
        assert payload.coding == "fixed"
        assert len(payload.body) == config.payload_bytes(20)


def test_a_byte_budget_is_used_and_never_exceeded() -> None:
    codec, features = codec_of(QuantizerConfig(24, 8, (16, 256)))
    full = len(codec.compress(features[0], features[0], point=POINTS[0]).body)
    sizes = {}
    for budget in (full, full - 5, full - 9):
        point = OperatingPoint("budget", (0, 1), 0.0, budget)
        sizes[budget] = [len(codec.compress(own, own, point=point).body) for own in features[:6]]
        assert max(sizes[budget]) <= budget
    assert sizes[full] == [full] * 6
    assert min(sizes[full - 5]) > full - 9
    with pytest.raises(ConfigError, match=r"allows 3 bytes.*raise max_bytes"):
        codec.compress(features[0], features[0], point=OperatingPoint("tiny", (0, 1), 0.1, 3))


def test_an_unknown_operating_point_is_refused_by_name() -> None:
    codec, features = codec_of(QuantizerConfig(24, 8, (64, 48), 2))
    with pytest.raises(ConfigError, match=r"fixed, adaptive, limited, second.*'best'"):
        codec.compress(features[0], features[0], point="best")


def test_images_decoded_together_are_those_decoded_alone() -> None:
    codec, features = codec_of(QuantizerConfig(24, 8, (64, 48), 2))
    points = (*POINTS, OperatingPoint("first", (0,)))
    images = [codec.encode(own, own, point) for own, point in zip(features, points, strict=False)]
    assert len({len(own.stages) for own in images}) > 1
    together = codec.decode_many(images)
    for number, own in enumerate(images):
        for found, alone in zip(together, codec.decode(own), strict=True):
            assert torch.allclose(found[number], alone, atol=1e-6)
