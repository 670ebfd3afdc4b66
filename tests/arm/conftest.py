"""One emulated device for all tests; kept in `build/`, as its packages take a while."""

from __future__ import annotations

import pytest

from tests.arm.emulated import ROOT, EmulatedDevice


@pytest.fixture(scope="session")
def device() -> EmulatedDevice:
    folder = ROOT / "build" / "arm"
    folder.mkdir(parents=True, exist_ok=True)
    return EmulatedDevice(folder)
