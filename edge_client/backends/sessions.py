"""Settings of every ONNX Runtime session on a device."""

from __future__ import annotations

import onnxruntime

_ERROR_SEVERITY = 3
"""ONNX Runtime's log level for errors."""


def session_options(threads: int) -> onnxruntime.SessionOptions:
    """Options for a device that has other work, too.

    Args:
        threads: threads of an operator; 0: one per core.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERROR_SEVERITY
    options.intra_op_num_threads = threads
    # A memory pattern reserves one block for a whole run: more than the peak without it.
    options.enable_mem_pattern = False
    # Idle threads sleep instead of spinning: other programs of an edge device need the cores.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options
