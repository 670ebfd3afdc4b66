"""The model `aligned_vq` for lmms-eval: evaluates a LLaVA with or without the codec.

lmms-eval discovers it by the entry point in `pyproject.toml`. No other package of this project
imports lmms-eval.
"""

from __future__ import annotations

from typing import Any

__all__ = ["manifest"]


def manifest() -> Any:
    """lmms-eval's `ModelManifest` of the model.

    It names a class for the simple interface only, which passes a context and its images: enough
    for a model that takes one image before a question. If it named a chat class as well, lmms-eval
    would prefer that, and pass messages, in which images may be anywhere.
    """
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest("aligned_vq", simple_class_path="lmms_plugin.model.AlignedVQModel")
