"""Selects the backend that runs a bundle; errors name the missing requirement.

A backend's library is imported only if that backend is selected.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from aligned_vq.codec.bundle_files import GRAPH
from aligned_vq.codec.manifest import SplitManifest
from aligned_vq.errors import ConfigError
from edge_client.backends.base import Backend, BackendChoice, Precision


def open_backend(
    bundle: Path,
    manifest: SplitManifest,
    choice: BackendChoice = "auto",
    dtype: Precision = "float32",
    threads: int = 0,
) -> Backend:
    """A backend for a bundle; `auto` is ONNX Runtime if it can run this bundle, else torch.

    Args:
        bundle: directory of the bundle.
        manifest: of the bundle.
        choice: `auto`, `onnx` or `torch`.
        dtype: precision of the vision prefix; ONNX Runtime runs float32 only.
        threads: compute threads; 0: the library's default.

    Raises:
        ConfigError: a library or the graph is missing, or the bundle is incomplete or damaged.
    """
    # Checking imports onnxruntime, which takes time and memory that torch has no use for.
    missing = None if choice == "torch" else _missing_for_onnx(bundle, manifest, dtype)
    if choice == "onnx" and missing:
        raise ConfigError(f"the backend onnx expects {missing}, or choose the backend torch")
    if choice != "torch" and missing is None:
        from edge_client.backends.onnx import OnnxBackend

        return OnnxBackend(bundle, manifest, threads)
    if not _is_installed("torch"):
        alternative = f"; the backend onnx expects {missing}" if missing else ""
        raise ConfigError(
            "the backend torch expects torch, which is not installed; pip install "
            f"'aligned-vq[edge-torch]'{alternative}"
        )
    from edge_client.backends.torch import TorchBackend

    return TorchBackend(bundle, dtype, threads)


def _missing_for_onnx(bundle: Path, manifest: SplitManifest, dtype: Precision) -> str | None:
    """The requirement of ONNX Runtime that is missing, and how to meet it; None if none is."""
    if manifest.edge_graph_digest is None:
        return f"{bundle / GRAPH}, which the bundle lacks; run: aligned-vq export-onnx {bundle}"
    if dtype != "float32":
        return f"dtype float32, got {dtype}; leave dtype out"
    if not _is_installed("onnxruntime"):
        return "onnxruntime, which is not installed; pip install 'aligned-vq[edge]'"
    return None


def _is_installed(library: str) -> bool:
    # Imported, not just located: a library that is installed may lack one of its dependencies.
    try:
        import_module(library)
    except ModuleNotFoundError:
        return False
    return True
