"""The model `aligned_vq` of lmms-eval: its tasks asked through the codec, or without it.

lmms-eval finds it by the entry point in `pyproject.toml`; nothing else of this project imports
lmms-eval.
"""

from __future__ import annotations

from typing import Any

__all__ = ["manifest"]


def manifest() -> Any:
    """lmms-eval's `ModelManifest` of the model.

    It names a class for the simple interface only: a context and its pictures are all that a model
    has a use for that is shown one picture before a question. Given a chat class too, lmms-eval
    would prefer it, and hand over the same as messages, in which pictures may come anywhere.
    """
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest("aligned_vq", simple_class_path="lmms_plugin.model.AlignedVQModel")
