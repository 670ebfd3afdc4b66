"""The code, libraries and machine that produced a figure."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import aligned_vq
from aligned_vq.evaluation.sweep_config import git_commit

LIBRARIES = ("grpcio", "numpy", "onnxruntime", "openai", "pillow", "torch", "transformers")


def provenance() -> dict[str, Any]:
    """Commit (ends with `-dirty` for a changed tree; None outside a repository), date (UTC,
    ISO 8601), versions and machine."""
    return {
        "commit": git_commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {
            "aligned_vq": aligned_vq.__version__,
            "python": platform.python_version(),
            **{name: version(name) for name in LIBRARIES},
        },
        "machine": machine(),
    }


def machine() -> dict[str, Any]:
    """Processor, cores that this process may use, memory, GPU (None without one), operating system,
    and the load average of the last minute."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "processor": _processor(),
        # Not `os.cpu_count`, which includes cores that this process may not use.
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(pages / 2**30, 1),
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
        "system": f"{platform.system()} {platform.machine()}",
        "load_average": round(os.getloadavg()[0], 2),
    }


def _processor() -> str:
    # From the kernel first, as `platform.processor` is often empty on Linux.
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()
