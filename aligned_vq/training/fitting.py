"""The part of a run without gradients: the first codec, and rates to start from."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from aligned_vq.calibration.codec import CodecPlan, CutFeatures
from aligned_vq.calibration.quantizer import calibrate
from aligned_vq.calibration.rate import fit_rate_weight, mean_rate_bits
from aligned_vq.quantizer.aligned import AlignedVQ
from aligned_vq.split.residual_link import ResidualLink
from aligned_vq.training.rate_control import RateControl


def fit_start(
    quantizer: AlignedVQ,
    link: ResidualLink,
    control: RateControl,
    plan: CodecPlan,
    examples: CutFeatures,
    seed: int,
) -> None:
    """Calibrate a blank codec and find the rate weights that meet its points' targets, in place."""
    calibrate(quantizer, link, *examples, plan.calibration(seed))
    meet_targets(quantizer, control, plan, examples.features)


@torch.no_grad()
def meet_targets(
    quantizer: AlignedVQ, control: RateControl, plan: CodecPlan, features: Tensor
) -> None:
    """Rate weights at which the points' estimated rates on features `[M, N, D]` are as wanted."""
    latents = torch.cat([quantizer.latents(part) for part in torch.split(features, 16)])
    for number, point in enumerate(plan.operating_points):
        target = control.targets_bits[number]
        if target is not None:
            fitted = fit_rate_weight(point, target, lambda p: mean_rate_bits(quantizer, latents, p))
            control.log_weights[number] = math.log(fitted.rate_weight)
