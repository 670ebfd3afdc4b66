"""Schemas of the custom resources, which Kubernetes does not carry.

They hold the fields that the manifests use or that must be there, as their projects document them,
and no others.
"""

from __future__ import annotations

from typing import Any

_TEXT = {"type": "string", "minLength": 1}
_COUNT = {"type": "integer", "minimum": 0}
_SECONDS = {"type": "string", "pattern": r"^\d+[smh]$"}


def _object(required: dict[str, Any], optional: dict[str, Any] | None = None) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": required | (optional or {}),
        "required": list(required),
        "additionalProperties": False,
    }


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": 1}


def _resource(spec: dict[str, Any]) -> dict[str, Any]:
    metadata = _object({"name": _TEXT}, {"namespace": _TEXT})
    return _object({"apiVersion": _TEXT, "kind": _TEXT, "metadata": metadata, "spec": spec})


_SCALING = _object(
    {},
    {
        "stabilizationWindowSeconds": {"type": "integer", "minimum": 0, "maximum": 3600},
        "selectPolicy": {"enum": ["Max", "Min", "Disabled"]},
        "policies": _list(
            _object(
                {
                    "type": {"enum": ["Pods", "Percent"]},
                    "value": {"type": "integer", "minimum": 1},
                    "periodSeconds": {"type": "integer", "minimum": 1, "maximum": 1800},
                }
            )
        ),
    },
)
_BEHAVIOR = _object({}, {"scaleUp": _SCALING, "scaleDown": _SCALING})
_PROMETHEUS_TRIGGER = _object(
    {
        "type": {"const": "prometheus"},
        # All of its metadata is text, numbers too.
        "metadata": _object(
            {"serverAddress": _TEXT, "query": _TEXT, "threshold": _TEXT},
            {"activationThreshold": _TEXT, "ignoreNullValues": {"enum": ["true", "false"]}},
        ),
    },
    {"metricType": {"enum": ["AverageValue", "Value"]}, "name": _TEXT},
)

_ALERT = _object(
    {
        "alert": {"type": "string", "pattern": "^[A-Z][A-Za-z]+$"},
        "expr": _TEXT,
        "labels": _object({"severity": {"enum": ["critical", "warning", "info"]}}),
        "annotations": _object({"summary": _TEXT}),
    },
    {"for": _SECONDS},
)

SCHEMAS: dict[tuple[str, str], dict[str, Any]] = {
    ("keda.sh/v1alpha1", "ScaledObject"): _resource(
        _object(
            {
                "scaleTargetRef": _object({"name": _TEXT}, {"kind": _TEXT, "apiVersion": _TEXT}),
                "triggers": _list(_PROMETHEUS_TRIGGER),
            },
            {
                "minReplicaCount": _COUNT,
                "maxReplicaCount": _COUNT,
                "pollingInterval": _COUNT,
                "cooldownPeriod": _COUNT,
                "advanced": _object(
                    {}, {"horizontalPodAutoscalerConfig": _object({}, {"behavior": _BEHAVIOR})}
                ),
            },
        )
    ),
    ("cert-manager.io/v1", "Issuer"): _resource(
        _object({"ca": _object({"secretName": _TEXT})}),
    ),
    ("cert-manager.io/v1", "Certificate"): _resource(
        _object(
            {
                "secretName": _TEXT,
                "issuerRef": _object(
                    {"name": _TEXT, "kind": {"enum": ["Issuer", "ClusterIssuer"]}}
                ),
                "dnsNames": _list(_TEXT),
            },
            {
                "usages": _list({"enum": ["digital signature", "server auth", "client auth"]}),
                "privateKey": _object(
                    {"algorithm": {"const": "ECDSA"}, "size": {"enum": [256, 384, 521]}},
                    {"rotationPolicy": {"enum": ["Always", "Never"]}},
                ),
                "duration": _SECONDS,
                "renewBefore": _SECONDS,
            },
        )
    ),
    ("monitoring.coreos.com/v1", "PodMonitor"): _resource(
        _object(
            {
                "selector": _object({"matchLabels": {"type": "object"}}),
                "podMetricsEndpoints": _list(
                    _object({"port": _TEXT}, {"path": _TEXT, "interval": _SECONDS})
                ),
            }
        )
    ),
    ("monitoring.coreos.com/v1", "PrometheusRule"): _resource(
        _object({"groups": _list(_object({"name": _TEXT, "rules": _list(_ALERT)}))})
    ),
}
