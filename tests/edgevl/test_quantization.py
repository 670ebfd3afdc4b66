"""Quantized students: ranges, training, states."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from aligned_vq.edgevl.quantization.fake_quantize import ChannelWeight
from aligned_vq.edgevl.quantization.ranges import RangeRecord, grid
from aligned_vq.edgevl.quantization.student import QuantizedStudent
from aligned_vq.edgevl.students.build import build_student
from aligned_vq.errors import ConfigError
from tests.edgevl.tiny import CONFIGS, WIDTH, calibrated, images


def snapshot(student: QuantizedStudent) -> dict[str, Tensor]:
    """The state as it is now."""
    return {name: tensor.clone() for name, tensor in student.state_dict().items()}


def train(student: QuantizedStudent, optimiser: torch.optim.Optimizer, steps: int) -> list[float]:
    """Fit the embeddings of eight images to fixed targets; returns the losses."""
    target = torch.nn.functional.normalize(torch.randn(8, WIDTH, generator=seeded(9)), dim=1)
    losses = []
    student.train()
    for step in range(steps):
        torch.manual_seed(step)  # of stochastic depth
        loss = (1 - (student(images(8, 4)) * target).sum(1)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    return losses


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("architecture", CONFIGS)
def test_training_lowers_the_loss_under_static_ranges(architecture: str) -> None:
    student = calibrated(architecture)
    before = snapshot(student)
    optimiser = torch.optim.AdamW(student.parameters(), 3e-3)
    losses = train(student, optimiser, 12)
    assert losses[-1] < losses[0] - 0.1
    ranges = [name for name in before if name.endswith((".scale", ".zero_point", ".extremes"))]
    after = student.state_dict()
    assert len(ranges) == 3 * len(student.ranges())
    for name in ranges:
        torch.testing.assert_close(after[name], before[name], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("architecture", CONFIGS)
def test_every_weight_is_trained(architecture: str) -> None:
    student = calibrated(architecture)
    (student(images(4, 0)) * torch.randn(4, WIDTH, generator=seeded(1))).sum().backward()
    without = [
        name
        for name, parameter in student.named_parameters()
        if parameter.grad is None or not parameter.grad.any()
    ]
    assert [name for name in without if not name.endswith("k_proj.bias")] == []
    float_names = {name for name, _ in build_student(CONFIGS[architecture], 0).named_parameters()}
    assert {f"graph.{name}" for name in float_names} == set(dict(student.named_parameters()))


def test_a_resumed_run_is_bitwise_the_same(tmp_path: Path) -> None:
    whole = calibrated("dat")
    optimiser = torch.optim.AdamW(whole.parameters(), 1e-3)
    train(whole, optimiser, 2)
    torch.save([whole.state_dict(), optimiser.state_dict()], tmp_path / "state.pt")
    losses = train(whole, optimiser, 2)

    resumed = QuantizedStudent(build_student(CONFIGS["dat"], 7))
    state, moments = torch.load(tmp_path / "state.pt", weights_only=True)
    resumed.load_state_dict(state)
    assert resumed.is_calibrated
    optimiser = torch.optim.AdamW(resumed.parameters(), 1e-3)
    optimiser.load_state_dict(moments)
    assert train(resumed, optimiser, 2) == losses
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(
            resumed.state_dict()[name], tensor, rtol=0, atol=0, equal_nan=True
        )


def test_stochastic_depth_acts_in_training_only() -> None:
    student = calibrated("swin")
    pixels = images(16, 0)
    with torch.no_grad():
        assert torch.equal(student(pixels), student(pixels))
        student.train()
        torch.manual_seed(0)
        assert not torch.equal(student(pixels), student(pixels))
        student.eval()
        assert torch.equal(student(pixels), student(pixels))


@pytest.mark.parametrize("architecture", CONFIGS)
def test_rounding_changes_embeddings_a_little(architecture: str) -> None:
    exact, rounded = build_student(CONFIGS[architecture], 0).eval(), calibrated(architecture)
    with torch.no_grad():
        for batch in (1, 5):
            cosines = (exact(images(batch, 3)) * rounded(images(batch, 3))).sum(1)
            assert float(cosines.min()) > 0.99
            assert not torch.equal(exact(images(batch, 3)), rounded(images(batch, 3)))


def test_every_batch_has_its_share_of_a_range() -> None:
    record = RangeRecord()
    for batch in range(200):
        record.add(torch.full((5000,), float(batch)), "rgb")
    values = record._samples
    assert 20_000 < len(values) <= 65_536
    counts = torch.bincount(values.long(), minlength=200)
    assert counts.min() > 0.6 * counts.float().mean()
    assert counts.max() < 1.5 * counts.float().mean()


def test_ranges_are_recorded_by_modality_and_narrow_ones_are_named() -> None:
    student = QuantizedStudent(build_student(CONFIGS["vit"], 0))
    batch = images(4, 1)
    student.calibrate([{"rgb": batch}, {"rgb": 2 * batch, "depth": 0.1 * batch}])
    assert student.is_calibrated
    patches = "trunk.model.embeddings.patch_embeddings.projection"
    ranges = student.ranges()[patches]
    assert set(ranges) == {"rgb", "depth"}
    low, high = (float(extreme) for extreme in batch.aminmax())
    assert ranges["rgb"] == pytest.approx((2 * low, 2 * high))
    assert ranges["depth"] == pytest.approx((0.1 * low, 0.1 * high))
    narrow = {(one.layer, one.modality): one.share for one in student.narrow_ranges()}
    assert narrow[patches, "depth"] == pytest.approx(0.05)
    assert not any(modality == "rgb" for _, modality in narrow)


def test_a_range_loses_rare_extremes_where_that_pays() -> None:
    record = RangeRecord()
    values = torch.randn(1 << 18, generator=seeded(0))
    values[0] = 40.0
    record.add(values, "rgb")
    low, high = record.best_range()
    assert high < 40.0
    assert low < -1.0
    even = RangeRecord()
    even.add(torch.linspace(-1, 3, 1 << 16), "rgb")
    low, high = even.best_range()
    assert (low, high) == pytest.approx((-1, 3), rel=0.05)


@pytest.mark.parametrize(("low", "high", "zero"), [(0, 2.55, 0), (-2.55, 0, 255), (-1, 1, 128)])
def test_grids_hold_zero_exactly(low: float, high: float, zero: int) -> None:
    scale, point = grid(low, high)
    assert point == zero
    assert scale == pytest.approx((high - low) / 255)


def test_weights_have_a_grid_for_each_output_channel() -> None:
    weight = torch.tensor([[0.64, 0.004, 0.006], [0.0064, 0.00004, -0.00006]], requires_grad=True)
    rounded = ChannelWeight()(weight)
    expected = torch.tensor([[0.64, 0.0, 0.01], [0.0064, 0.0, -0.0001]])
    torch.testing.assert_close(rounded.detach(), expected)
    rounded.sum().backward()
    assert weight.grad is not None
    assert torch.equal(weight.grad, torch.ones(2, 3))  # straight-through


def test_wrong_use_is_refused(tmp_path: Path) -> None:
    student = QuantizedStudent(build_student(CONFIGS["vit"], 0))
    assert not student.is_calibrated
    with pytest.raises(ConfigError, match="call calibrate"):
        student.export_onnx(tmp_path / "student.onnx")
    with pytest.raises(ConfigError, match="at least one image"):
        student.calibrate([])
    with pytest.raises(ConfigError, match="unknown modality 'sonar'"):
        student.calibrate([{"rgb": images(1, 0)}, {"sonar": images(1, 0)}])  # type: ignore[dict-item]
    assert not student.is_calibrated
    with pytest.raises(ConfigError, match=r"expected pixels \[B, 3, 32, 32\]"):
        student(torch.zeros(1, 3, 16, 16))
    with pytest.raises(ConfigError, match="does not fit this vit student"):
        student.load_state_dict(calibrated("dat").state_dict())
