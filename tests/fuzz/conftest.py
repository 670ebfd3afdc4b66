"""A target asks real questions: its logs are searched."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True, scope="module")
def _private_logs(private_logs: None) -> None:
    """Of every module here."""
