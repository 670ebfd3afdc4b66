"""A plug-in for vLLM: LLaVA whose image input is codebook indices.

vLLM finds `register` by its entry point in every process it starts. `python -m
cloud_server.vllm_plugin` starts a vLLM server with this model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

ARCHITECTURE = "SplitLlavaForConditionalGeneration"
CONNECTOR = "aligned_vq"
"""Name of the media connector, for the environment variable `VLLM_MEDIA_CONNECTOR`."""
BUNDLE = "aligned_vq_bundle"
"""Key of the bundle's directory among the overrides of the checkpoint's config."""


def register() -> None:
    """Register the model and its media connector with vLLM."""
    # Imported late: services without vLLM import this package, too.
    from vllm import ModelRegistry
    from vllm.multimodal.media import MEDIA_CONNECTOR_REGISTRY

    from cloud_server.vllm_plugin.connector import IndexConnector

    # A name instead of the class: vLLM imports the module where it creates the model.
    model = f"cloud_server.vllm_plugin.model:{ARCHITECTURE}"
    ModelRegistry.register_model(ARCHITECTURE, model)
    MEDIA_CONNECTOR_REGISTRY.register(CONNECTOR)(IndexConnector)


def overrides(bundle: Path) -> dict[str, Any]:
    """vLLM's `hf_overrides` to serve a checkpoint with a bundle."""
    # An absolute path, as other processes open it.
    return {"architectures": [ARCHITECTURE], BUNDLE: str(bundle.resolve())}
