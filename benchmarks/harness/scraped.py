"""Reads the metrics of a service as Prometheus does."""

from __future__ import annotations

import urllib.request

from prometheus_client.parser import text_string_to_metric_families


def samples(http: str) -> dict[tuple[str, str], float]:
    """Every sample of `/metrics`, by metric name and value of its first label ("" without labels).

    Args:
        http: base URL of the service's HTTP port.
    """
    text = urllib.request.urlopen(f"{http}/metrics", timeout=10).read().decode()
    return {
        (sample.name, next(iter(sample.labels.values()), "")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
