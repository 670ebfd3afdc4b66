"""Loads what the cloud runs: codecs, vision suffixes, projector and language model."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch

from aligned_vq.codec.bundle import CloudBundle, open_cloud_bundle
from aligned_vq.codec.manifest import SplitManifest
from aligned_vq.errors import ConfigError, ManifestMismatch
from aligned_vq.llava.checkpoint import LlavaCheckpoint
from aligned_vq.split.loading import load_suffixes, suffix_names
from aligned_vq.split.vision import VisionSuffix
from cloud_server.config import CloudConfig
from cloud_server.fair_lock import compute_lock_for

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CloudCut:
    """A bundle and the vision suffix behind its cut."""

    bundle: CloudBundle
    suffix: VisionSuffix


@dataclass(frozen=True)
class CloudModel:
    """All modules in eval mode on one device."""

    cuts: Mapping[bytes, CloudCut]
    """By manifest digest, in the order of the settings."""
    llava: Any
    """transformers' `LlavaForConditionalGeneration` without its vision tower."""
    processor: Any
    """transformers' `LlavaProcessor`."""
    device: torch.device
    dtype: torch.dtype
    compute_lock: AbstractContextManager[None]
    """Held during every forward pass on the device, so that passes do not compete for cores."""


def load_cloud_model(config: CloudConfig) -> CloudModel:
    """Open the bundles and the checkpoint, and check that they match.

    Raises:
        ConfigError: one of them is unusable.
        ManifestMismatch: a bundle was made for other vision weights.
    """
    device = chosen_device(config.device)
    dtype = chosen_dtype(config.dtype, device)
    bundles = [open_cloud_bundle(path, device) for path in config.bundles]
    checkpoint = LlavaCheckpoint(config.model, config.revision)
    # Before the model is loaded, which may take minutes.
    for bundle in bundles:
        check_vision_weights(bundle.manifest, checkpoint)
    suffixes = load_suffixes(
        checkpoint, [bundle.manifest.split for bundle in bundles], dtype, device
    )
    cuts = {
        bundle.manifest.digest(): CloudCut(bundle, suffix)
        for bundle, suffix in zip(bundles, suffixes, strict=True)
    }
    llava, processor = load_llava(checkpoint, dtype)
    llava.model.vision_tower = None  # the suffix replaces it; the prefix is on the edge
    # Moved only now, so that the vision tower never takes memory on the device.
    llava = llava.to(device)
    cuts_text = ", ".join(str(bundle.manifest.split) for bundle in bundles)
    _log.info("loaded %s on %s as %s, cut at %s", checkpoint.model_id, device, dtype, cuts_text)
    return CloudModel(cuts, llava, processor, device, dtype, compute_lock_for(device))


def load_llava(checkpoint: LlavaCheckpoint, dtype: torch.dtype) -> tuple[Any, Any]:
    """transformers' `LlavaForConditionalGeneration`, complete, in eval mode, on the CPU; and its
    `LlavaProcessor`.

    Raises:
        ConfigError: transformers cannot load them.
    """
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    directory = checkpoint.directory()
    try:
        llava = LlavaForConditionalGeneration.from_pretrained(directory, dtype=dtype)
        processor = AutoProcessor.from_pretrained(directory, use_fast=False)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{directory}: expected a checkpoint that transformers can load, got: {error}; check "
            "that it is a complete LLaVA checkpoint in Hugging Face format"
        ) from error
    return llava.eval().requires_grad_(False), processor


def check_vision_weights(manifest: SplitManifest, checkpoint: LlavaCheckpoint) -> None:
    """Check that the bundle was made for the checkpoint's vision weights.

    Raises:
        ManifestMismatch: the vision tower or its weights differ.
    """
    if checkpoint.tower != manifest.tower:
        raise ManifestMismatch(
            f"{checkpoint.source}: expected the vision tower of the bundle's manifest "
            f"({manifest.tower}), got {checkpoint.tower}; serve the checkpoint the bundle was made "
            f"from ({manifest.model_id})"
        )
    names = suffix_names(checkpoint, manifest.split)
    if checkpoint.vision_digest(names) != manifest.vision_digest:
        raise ManifestMismatch(
            f"{checkpoint.source}: expected the vision weights of {manifest.model_id}, for which "
            "the bundle was made, got others; serve that checkpoint, or export a bundle for this "
            "one"
        )


def chosen_device(name: str) -> torch.device:
    """The device that a setting names: auto, cpu, cuda, cuda:1 and so on.

    Raises:
        ConfigError: it names another one, or a GPU that this machine does not have.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise ConfigError(
            f"expected device auto, cpu or cuda[:n], got {name!r}; choose one of these"
        )
    if device.type == "cuda":
        usable = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= usable:
            raise ConfigError(
                f"expected device {name} to exist, got a machine with {usable} usable GPUs; use "
                "one of them or cpu"
            )
    return device


def chosen_dtype(name: str, device: torch.device) -> torch.dtype:
    """The dtype that a setting names; `auto` is float32 on a CPU, else bfloat16."""
    if name == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    dtype: torch.dtype = getattr(torch, name)
    return dtype
