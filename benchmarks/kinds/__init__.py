"""What experiments can measure: a module for each kind, see `benchmarks.experiment.Kind`."""

KINDS = {
    "bytes": "benchmarks.kinds.socket_bytes",
    "cloud_cost": "benchmarks.kinds.cloud_cost",
    "edge_cost": "benchmarks.kinds.edge_cost",
    "end_to_end": "benchmarks.end_to_end",
    "leakage": "benchmarks.leakage.kind",
}
"""Modules by kind, imported only where an experiment names them."""
