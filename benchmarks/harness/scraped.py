"""Reading a service's own figures, as Prometheus would."""

from __future__ import annotations

import urllib.request

from prometheus_client.parser import text_string_to_metric_families


def samples(http: str) -> dict[tuple[str, str], float]:
    """By name and by the value of the one label, "" without: everything `/metrics` says."""
    text = urllib.request.urlopen(f"{http}/metrics", timeout=10).read().decode()
    return {
        (sample.name, next(iter(sample.labels.values()), "")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
