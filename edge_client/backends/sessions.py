"""Settings of every ONNX Runtime session on a device."""

from __future__ import annotations

import onnxruntime

from aligned_vq.errors import ConfigError

MAX_THREADS = 1024
"""More than the cores of any device; thousands take seconds to start."""
_ERROR_SEVERITY = 3
"""ONNX Runtime's log level for errors."""


def session_options(threads: int) -> onnxruntime.SessionOptions:
    """Options for a device that has other work, too.

    Args:
        threads: threads of an operator; 0: one per core.

    Raises:
        ConfigError: the number is below 0 or above `MAX_THREADS`.
    """
    if type(threads) is not int or not 0 <= threads <= MAX_THREADS:
        raise ConfigError(f"threads must be an integer of 0 to {MAX_THREADS}, got {threads!r}")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERROR_SEVERITY
    options.intra_op_num_threads = threads
    # A memory pattern reserves one block for a whole run: more than the peak without it.
    options.enable_mem_pattern = False
    # Idle threads sleep instead of spinning: other programs of an edge device need the cores.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options
