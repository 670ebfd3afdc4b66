"""A plug-in for vLLM: LLaVA whose image input is codebook indices.

vLLM finds `register` by its entry point in every process it starts. The model runs when it is asked
for: `python -m cloud_server.vllm_plugin` says how.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

ARCHITECTURE = "SplitLlavaForConditionalGeneration"
CONNECTOR = "aligned_vq"
"""Name of the media connector, for the environment variable `VLLM_MEDIA_CONNECTOR`."""
BUNDLE = "aligned_vq_bundle"
"""Name of the bundle's directory among the overrides of the checkpoint's settings."""


def register() -> None:
    """Tell vLLM of the model and of the way its images come over HTTP."""
    from vllm import ModelRegistry
    from vllm.multimodal.media import MEDIA_CONNECTOR_REGISTRY

    from cloud_server.vllm_plugin.connector import IndexConnector

    model = f"cloud_server.vllm_plugin.model:{ARCHITECTURE}"
    ModelRegistry.register_model(ARCHITECTURE, model)
    MEDIA_CONNECTOR_REGISTRY.register(CONNECTOR)(IndexConnector)


def overrides(bundle: Path) -> dict[str, Any]:
    """What vLLM must be told of the checkpoint (`hf_overrides`) to serve it with a bundle."""
    return {"architectures": [ARCHITECTURE], BUNDLE: str(bundle.resolve())}
