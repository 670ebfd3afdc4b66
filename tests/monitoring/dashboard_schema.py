"""As much of a Grafana dashboard as ours uses, as documented there; nothing else passes."""

from __future__ import annotations

from typing import Any

_TEXT = {"type": "string"}
_NAME = {"type": "string", "minLength": 1}
_COUNT = {"type": "integer", "minimum": 0}


def _object(required: dict[str, Any], optional: dict[str, Any] | None = None) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": required | (optional or {}),
        "required": list(required),
        "additionalProperties": False,
    }


_SOURCE = _object({"type": {"const": "prometheus"}, "uid": {"const": "${datasource}"}})
_POSITION = _object({"x": {**_COUNT, "maximum": 23}, "y": _COUNT, "w": _COUNT, "h": _COUNT})
_TARGET = _object(
    {
        "refId": {"type": "string", "pattern": "^[A-Z]$"},
        "datasource": _SOURCE,
        "expr": _NAME,
        "legendFormat": _TEXT,
    },
    {"format": {"enum": ["table", "time_series"]}, "instant": {"type": "boolean"}},
)
_STEP = _object({"color": _NAME, "value": {"type": ["number", "null"]}})
_DEFAULTS = _object(
    {"unit": {"enum": ["none", "s", "bytes", "Bps", "reqps", "percentunit"]}},
    {
        "min": {"type": "number"},
        "max": {"type": "number"},
        "custom": _object(
            {
                "fillOpacity": {**_COUNT, "maximum": 100},
                "stacking": _object({"mode": {"enum": ["none", "normal"]}, "group": _NAME}),
            }
        ),
        "thresholds": _object(
            {"mode": {"const": "absolute"}, "steps": {"type": "array", "items": _STEP}}
        ),
    },
)
_FIELDS = _object({"defaults": _DEFAULTS, "overrides": {"type": "array", "maxItems": 0}})
_OPTIONS = _object(
    {},
    {
        "legend": _object({"displayMode": {"enum": ["list"]}, "placement": {"enum": ["bottom"]}}),
        "tooltip": _object({"mode": {"enum": ["multi", "single"]}}),
        "reduceOptions": _object({"calcs": {"const": ["lastNotNull"]}}),
        "colorMode": {"enum": ["background"]},
    },
)
_PANEL = _object(
    {
        "id": _COUNT,
        "type": {"enum": ["stat", "table", "timeseries"]},
        "title": _NAME,
        "description": _TEXT,
        "datasource": _SOURCE,
        "gridPos": _POSITION,
        "fieldConfig": _FIELDS,
        "targets": {"type": "array", "items": _TARGET, "minItems": 1},
        "options": _OPTIONS,
    }
)
_ROW = _object(
    {
        "id": _COUNT,
        "type": {"const": "row"},
        "title": _NAME,
        "collapsed": {"const": False},
        "gridPos": _POSITION,
        "panels": {"type": "array", "maxItems": 0},
    }
)
_CHOICE = _object(
    {"name": _NAME, "label": _NAME, "type": {"const": "datasource"}, "query": _NAME},
    {"current": {"type": "object"}, "refresh": _COUNT},
)
_QUERY = _object(
    {
        "name": _NAME,
        "label": _NAME,
        "type": {"const": "query"},
        "datasource": _SOURCE,
        "query": _object({"query": _NAME, "refId": _NAME}),
        "refresh": {"enum": [1, 2]},
    },
    {
        "multi": {"type": "boolean"},
        "includeAll": {"type": "boolean"},
        "allValue": _TEXT,
        "current": {"type": "object"},
        "sort": _COUNT,
    },
)
_NONE = {"type": "array", "maxItems": 0}

DASHBOARD_SCHEMA = _object(
    {
        "title": _NAME,
        "uid": {"type": "string", "pattern": "^[a-zA-Z0-9_-]{1,40}$"},
        "schemaVersion": {"type": "integer", "minimum": 36},
        "version": _COUNT,
        "panels": {"type": "array", "items": {"oneOf": [_PANEL, _ROW]}, "minItems": 1},
        "templating": _object({"list": {"type": "array", "items": {"oneOf": [_CHOICE, _QUERY]}}}),
        "time": _object({"from": _NAME, "to": _NAME}),
    },
    {
        "description": _TEXT,
        "tags": {"type": "array", "items": _NAME},
        "editable": {"type": "boolean"},
        "graphTooltip": {"enum": [0, 1, 2]},
        "refresh": _NAME,
        "timezone": _NAME,
        "annotations": _object({"list": _NONE}),
        "links": _NONE,
    },
)
