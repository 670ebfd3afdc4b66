"""Logging of the cloud process, including transformers' messages."""

from __future__ import annotations

import logging
import sys

from aligned_vq.telemetry import logs


def configure(level: str, form: str) -> None:
    """As `telemetry.logs.configure`; transformers logs only errors unless `level` is debug."""
    if logs.configure(level, form):
        _redirect_transformers(level, quiet=form == "json" or not sys.stderr.isatty())


def _redirect_transformers(level: str, quiet: bool) -> None:
    """Route transformers' messages to the root logger instead of its handler on stderr."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_default_handler()
    transformers_logging.enable_propagation()
    transformers_logging.set_verbosity(logging.DEBUG if level == "debug" else logging.ERROR)
    if quiet:
        transformers_logging.disable_progress_bar()
