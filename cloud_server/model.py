"""Loading what the cloud runs: codec, vision suffix, projector and language model."""

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
from cloud_server.fair_lock import turns_on

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CloudCut:
    """A bundle and the rest of the vision tower behind its cut."""

    bundle: CloudBundle
    suffix: VisionSuffix


@dataclass(frozen=True)
class CloudModel:
    """Everything that answers: all modules in eval mode on one device."""

    cuts: Mapping[bytes, CloudCut]
    """By the digest of their manifests, in the order the settings name them."""
    llava: Any
    """transformers' `LlavaForConditionalGeneration` without its vision tower."""
    processor: Any
    """transformers' `LlavaProcessor`."""
    device: torch.device
    dtype: torch.dtype
    turns: AbstractContextManager[None]
    """Taken by every heavy pass on the device."""


def load_cloud_model(config: CloudConfig) -> CloudModel:
    """Open bundles and checkpoint, and check that they belong together.

    Raises:
        ConfigError: one of them cannot be used.
        ManifestMismatch: a bundle was made for other vision weights.
    """
    device = chosen_device(config.device)
    dtype = chosen_dtype(config.dtype, device)
    bundles = [open_cloud_bundle(path, device) for path in config.bundles]
    checkpoint = LlavaCheckpoint(config.model, config.revision)
    for bundle in bundles:
        check_belongs(bundle.manifest, checkpoint)
    suffixes = load_suffixes(checkpoint, [own.manifest.split for own in bundles], dtype, device)
    cuts = {
        bundle.manifest.digest(): CloudCut(bundle, suffix)
        for bundle, suffix in zip(bundles, suffixes, strict=True)
    }
    llava, processor = load_llava(checkpoint, dtype)
    llava.model.vision_tower = None  # the suffix replaces it; the prefix is on the edge
    llava = llava.to(device)
    places = ", ".join(str(bundle.manifest.split) for bundle in bundles)
    _log.info("loaded %s on %s as %s, cut at %s", checkpoint.model_id, device, dtype, places)
    return CloudModel(cuts, llava, processor, device, dtype, turns_on(device))


def load_llava(checkpoint: LlavaCheckpoint, dtype: torch.dtype) -> tuple[Any, Any]:
    """transformers' `LlavaForConditionalGeneration`, whole, in eval mode, on the CPU; and its
    `LlavaProcessor`. ConfigError where transformers cannot load them."""
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    directory = checkpoint.directory()
    try:
        llava = LlavaForConditionalGeneration.from_pretrained(directory, dtype=dtype)
        processor = AutoProcessor.from_pretrained(directory, use_fast=False)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{directory}: transformers cannot load it ({error})") from error
    return llava.eval().requires_grad_(False), processor


def check_belongs(manifest: SplitManifest, checkpoint: LlavaCheckpoint) -> None:
    """ManifestMismatch unless the checkpoint's vision weights are those a bundle was made for."""
    if checkpoint.tower != manifest.tower:
        raise ManifestMismatch(
            f"{checkpoint.source}: expected the vision tower of the bundle's manifest "
            f"({manifest.tower}), got {checkpoint.tower}; serve the checkpoint the bundle was made "
            f"from ({manifest.model_id})"
        )
    names = suffix_names(checkpoint, manifest.split)
    if checkpoint.vision_digest(names) != manifest.vision_digest:
        raise ManifestMismatch(
            f"{checkpoint.source}: its vision weights differ from those the bundle was made for "
            f"({manifest.model_id}); serve that checkpoint, or export a bundle for this one"
        )


def chosen_device(name: str) -> torch.device:
    """The device of a setting: auto, cpu, cuda, cuda:1 and so on; ConfigError for any other."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise ConfigError(
            f"device must be auto, cpu or cuda[:n], got {name!r}; choose one of these"
        )
    if device.type == "cuda":
        usable = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= usable:
            raise ConfigError(
                f"device {name} was asked for, but this machine has {usable} usable GPUs; "
                "use one of them or cpu"
            )
    return device


def chosen_dtype(name: str, device: torch.device) -> torch.dtype:
    """The dtype of a setting; `auto` is float32 on a CPU, else bfloat16."""
    if name == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    found: torch.dtype = getattr(torch, name)
    return found
