"""Which backend runs a bundle; what is missing for it is told by name.

A backend's library is imported only where that backend is taken.
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
    """The backend chosen; `auto` is ONNX Runtime where it can run this bundle, torch otherwise.

    Args:
        bundle: its directory.
        manifest: the bundle's.
        choice: `auto`, `onnx` or `torch`.
        dtype: of the vision prefix; ONNX Runtime runs float32 only.
        threads: that compute; 0 leaves it to the library.

    Raises:
        ConfigError: a library or the graph is missing, or the bundle is incomplete or damaged.
    """
    no_onnx = None if choice == "torch" else _missing_for_onnx(bundle, manifest, dtype)
    if choice == "onnx" and no_onnx:
        raise ConfigError(f"the backend onnx expects {no_onnx}, or choose the backend torch")
    if choice != "torch" and no_onnx is None:
        from edge_client.backends.onnx import OnnxBackend

        return OnnxBackend(bundle, manifest, threads)
    if not _installed("torch"):
        instead = f"; for the backend onnx, it expects {no_onnx}" if no_onnx else ""
        raise ConfigError(
            "the backend torch expects torch, which is not installed; pip install "
            f"'aligned-vq[edge-torch]'{instead}"
        )
    from edge_client.backends.torch import TorchBackend

    return TorchBackend(bundle, dtype, threads)


def _missing_for_onnx(bundle: Path, manifest: SplitManifest, dtype: Precision) -> str | None:
    """What ONNX Runtime would need to run a bundle, and where to get it; None: nothing."""
    if manifest.edge_graph_digest is None:
        return f"{bundle / GRAPH}, which the bundle lacks; run: aligned-vq export-onnx {bundle}"
    if dtype != "float32":
        return f"dtype float32, got {dtype}; leave dtype out"
    if not _installed("onnxruntime"):
        return "onnxruntime, which is not installed; pip install 'aligned-vq[edge]'"
    return None


def _installed(library: str) -> bool:
    try:
        import_module(library)
    except ModuleNotFoundError:
        return False
    return True
