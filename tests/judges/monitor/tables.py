"""The tables of Application Insights, as queries know them, and what they make of the items that are sent.

Only columns that queries may want are here. Their names and types are those of Microsoft's reference of these tables.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

_ALL = {
    "timestamp": "datetime",
    "itemType": "string",
    "customDimensions": "dynamic",
    "operation_Name": "string",
    "operation_Id": "string",
    "operation_ParentId": "string",
    "cloud_RoleName": "string",
    "cloud_RoleInstance": "string",
    "sdkVersion": "string",
}
_COUNTED = {**_ALL, "itemCount": "int"}
_CALL = {
    **_COUNTED,
    "id": "string",
    "name": "string",
    "success": "string",
    "resultCode": "string",
    "duration": "real",
}
SCHEMA: Mapping[str, Mapping[str, str]] = {
    "customMetrics": {
        **_ALL,
        "name": "string",
        "value": "real",
        "valueCount": "int",
        "valueSum": "real",
        "valueMin": "real",
        "valueMax": "real",
    },
    "customEvents": {**_COUNTED, "name": "string"},
    "requests": {**_CALL, "url": "string", "source": "string"},
    "dependencies": {**_CALL, "type": "string", "target": "string", "data": "string"},
    "traces": {**_COUNTED, "message": "string", "severityLevel": "int"},
    "exceptions": {
        **_COUNTED,
        "type": "string",
        "message": "string",
        "outerType": "string",
        "outerMessage": "string",
        "problemId": "string",
        "severityLevel": "int",
    },
}
_TABLES = {
    "MetricData": ("customMetrics", "customMetric"),
    "EventData": ("customEvents", "customEvent"),
    "RequestData": ("requests", "request"),
    "RemoteDependencyData": ("dependencies", "dependency"),
    "MessageData": ("traces", "trace"),
    "ExceptionData": ("exceptions", "exception"),
}

Row = dict[str, Any]


def rows_of(envelopes: Iterable[Mapping[str, Any]]) -> dict[str, list[Row]]:
    """What the tables have once these items were taken in."""
    tables: dict[str, list[Row]] = {name: [] for name in SCHEMA}
    for envelope in envelopes:
        kind, data = envelope["data"]["baseType"], envelope["data"]["baseData"]
        if kind not in _TABLES:
            continue
        table, item_type = _TABLES[kind]
        tags = envelope["tags"]
        common = {
            "timestamp": envelope["time"],
            "itemType": item_type,
            "customDimensions": json.dumps(data.get("properties") or {}),
            "operation_Name": tags.get("ai.operation.name", ""),
            "operation_Id": tags.get("ai.operation.id", ""),
            "operation_ParentId": tags.get("ai.operation.parentId", ""),
            "cloud_RoleName": tags.get("ai.cloud.role", ""),
            "cloud_RoleInstance": tags.get("ai.cloud.roleInstance", ""),
            "sdkVersion": tags.get("ai.internal.sdkVersion", ""),
            "itemCount": round(100 / envelope.get("sampleRate", 100)),
        }
        for own in _own(kind, data):
            row = {**common, **own}
            tables[table].append({column: row.get(column) for column in SCHEMA[table]})
    return tables


def _own(kind: str, data: Mapping[str, Any]) -> list[Row]:
    if kind == "MetricData":
        return [
            {
                "name": each["name"],
                "value": each["value"],
                "valueCount": each.get("count", 1),
                "valueSum": each["value"],
                "valueMin": each.get("min"),
                "valueMax": each.get("max"),
            }
            for each in data["metrics"]
        ]
    if kind == "MessageData":
        return [{"message": data["message"], "severityLevel": data.get("severityLevel")}]
    if kind == "ExceptionData":
        outer = data["exceptions"][0]
        named = {"outerType": outer.get("typeName"), "outerMessage": outer.get("message")}
        return [{"type": named["outerType"], **named, "severityLevel": data.get("severityLevel")}]
    if kind == "EventData":
        return [{"name": data["name"]}]
    return [
        {
            **data,
            "success": str(data["success"]),
            "resultCode": data.get("responseCode", data.get("resultCode", "")),
            "duration": _milliseconds(data["duration"]),
        }
    ]


def _milliseconds(duration: str) -> float:
    """``1.02:03:04.5``: days, hours, minutes, seconds."""
    hours, minutes, seconds = duration.rsplit(":", 2)
    days, _, hours = hours.rpartition(".")
    return ((int(days or 0) * 24 + int(hours)) * 60 + int(minutes)) * 60_000 + float(seconds) * 1000
