"""Time to the first token and to the last, stage by stage, over links of every kind.

The split model is compared with a cloud that is sent the camera's picture as a JPEG of quality 90,
by the same client and wire, and with the whole model on the edge. Both clouds run on the same
machine with the same engine; the questions go in turns over connections that are warm. What a CPU
needs for the cloud's half says nothing of a GPU.
"""

from __future__ import annotations

from benchmarks.end_to_end.measure import measure
from benchmarks.end_to_end.report import plot, table
from benchmarks.end_to_end.settings import EndToEndSettings

SETTINGS = EndToEndSettings

__all__ = ["SETTINGS", "EndToEndSettings", "measure", "plot", "table"]
