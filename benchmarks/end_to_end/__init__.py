"""Time to the first and to the last token, stage by stage, over several links.

Compares the split model with two baselines: a cloud that receives the camera image as a JPEG of
quality 90 from the same client over the same protocol, and the whole model on the edge. Both clouds
run on the same machine with the same engine. Questions alternate between the systems, over warm
connections. The times of a cloud half on a CPU do not carry over to a GPU.
"""

from __future__ import annotations

from benchmarks.end_to_end.measure import measure
from benchmarks.end_to_end.report import plot, table
from benchmarks.end_to_end.settings import EndToEndSettings

SETTINGS = EndToEndSettings

__all__ = ["SETTINGS", "EndToEndSettings", "measure", "plot", "table"]
