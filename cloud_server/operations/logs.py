"""Logs of a cloud process: those of every process that serves, and transformers' among them."""

from __future__ import annotations

import logging
import sys

from aligned_vq.telemetry import logs


def configure(level: str, form: str) -> None:
    """`telemetry.logs.configure`; transformers logs errors only, unless `level` is debug."""
    if logs.configure(level, form):
        _take_over_transformers(level, quiet=form == "json" or not sys.stderr.isatty())


def _take_over_transformers(level: str, quiet: bool) -> None:
    """It writes to stderr by itself, and shows progress there."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_default_handler()
    transformers_logging.enable_propagation()
    transformers_logging.set_verbosity(logging.DEBUG if level == "debug" else logging.ERROR)
    if quiet:
        transformers_logging.disable_progress_bar()
