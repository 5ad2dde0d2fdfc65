"""Writes ``docs/openapi.json``: ``python -m tools.openapi``. With ``--pipelines`` it prints the document with a path
for each pipeline that has a name in the environment's ``BACKENDS``.

Routes and methods come from the rooms' functions, schemas from their models. This module adds the rest. A function
without an operation, or an operation without a function, is an error.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import azure.functions as func
from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, models_json_schema

import backend_webhook
import cache_manager
import operator_console
import request_reporter
import task_logger
from backend_webhook.deliveries import LEGACY_EVENT, MAX_EVENTS, VALIDATION_EVENT
from cache_manager.asked_timing import MAX_RUN_HEADER, START_AFTER_HEADER, START_BEFORE_HEADER
from cache_manager.audit_api import AuditList
from cache_manager.batch_schemas import BatchList, BatchView, NewBatchRequest
from cache_manager.bulk_api import BulkAnswer, BulkRequest
from cache_manager.callback_api import CALLBACK_HEADER
from cache_manager.callback_schemas import CallbackView, ResendRequest, Resent
from cache_manager.health import Health
from cache_manager.history import TaskHistory
from cache_manager.listing import DELAYED, MAX_TEXT_CHARS
from cache_manager.many_api import NDJSON
from cache_manager.many_lines import MIXED, MOST_TASKS
from cache_manager.many_schemas import MOST_WAITED_FOR, LineOutcome, SubmitLine, WaitAnswer, WaitRequest
from cache_manager.queue_schemas import QueueDepth, QueueDepthList, QueueSettings
from cache_manager.request_parsing import PRIORITY_PATTERN, UPLOAD_HEADER
from cache_manager.schedule_schemas import ScheduleDetails, ScheduleList, ScheduleRequest
from cache_manager.schemas import (
    MAX_HEARTBEATS,
    ConflictDocument,
    Heartbeat,
    HeartbeatOutcomes,
    Heartbeats,
    TaskList,
    TaskRelease,
    TaskUpsert,
    TaskView,
)
from cache_manager.series_api import MOST_NUMBERS
from cache_manager.series_schemas import Series, SeriesList
from cache_manager.submitting import BATCH_HEADER, NEXT_BODY_HEADER, PIPELINE_HEADER
from cache_manager.upload_schemas import UploadRequest, UploadView
from operator_console.me import Me
from request_reporter.api import ProcessingReport
from request_reporter.counts_api import RequestCounterList
from shared.backend_settings import MAX_STEPS
from shared.dispatch.dispatcher import Dispatched
from shared.dispatch.registry import MAX_PATH_CHARS, BackendRegistry
from shared.events.publisher import DISPATCH_EVENT
from shared.http.paging import DEFAULT_LIMIT, MAX_LIMIT
from shared.http.problems import ProblemDocument
from shared.http.times import TIME_EXPECTED
from shared.services import ServicesByLoop
from shared.settings import INLINE_LIMIT_BYTES, LONGEST_WAIT_S, Settings
from shared.store import MOST_SCHEDULES
from shared.store.audit import ENTRIES_KEPT
from shared.tasks.ids import TASK_ID_PATTERN
from shared.tasks.media import CODINGS_PATTERN, MAX_HEADER_CHARS
from shared.tasks.schedules import NAME_PATTERN
from shared.tasks.task import MAX_ATTEMPT, State
from shared.tasks.told_slots import INSTANCE_HEADER, MOST_SLOTS, SLOTS_HEADER

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "docs" / "openapi.json"
ROOMS = (backend_webhook, cache_manager, operator_console, request_reporter, task_logger)
OF_THE_CONSOLE = ("Console", "ConsoleRead", "ConsoleContent", "ConsoleOperate", "ConsoleSession")
"""Functions with no operations of their own: the files of a page, and the v1 API at other paths."""
SETTINGS = {
    "REDIS_CONNECTION_STRING": "redis://127.0.0.1",
    "EVENT_GRID_TOPIC_URI": "https://topic.example.org/api/events",
    "BACKENDS": '{"/v1": "https://models.example.org"}',
}
"""Any valid settings: the document does not depend on them."""

Json = dict[str, Any]

LEGACY = "Existing model services"
TASKS = "Tasks"
BATCHES = "Batches"
SCHEDULES = "Schedules"
RESULTS = "Results"
NUMBERS = "Queues and health"
OPERATORS = "Operators"
EVENTS = "Event Grid"
TAGS = {
    TASKS: "Submit tasks and follow them.",
    BATCHES: "Many tasks that are one thing to wait for.",
    SCHEDULES: "What is submitted again and again, by the clock.",
    RESULTS: "The bodies and results of tasks, and how to upload large ones.",
    NUMBERS: "For dashboards, autoscalers, operators and probes.",
    OPERATORS: "Who sees and mends what is everybody's, from the console or by other means. An operator has the role "
    "`read` (queues, tasks, history), `content` (bodies and results too) or `operate` (changes too). "
    "By a key of one of the functions `ConsoleRead`, `ConsoleContent` and `ConsoleOperate`, an operator "
    "finds each operation below `/v1/` that it may do below `/console/read/`, `/console/content/` or "
    "`/console/operate/`: `/v1/tasks` is `/console/read/tasks` there. All else is as here, but for 403 "
    "`role-missing` to what the role may not do. Where the platform signs people in, the same is below "
    "`/console/session/`, without a key.",
    LEGACY: "The contract of the legacy *AI for Earth API Platform*, for its model services and gateways. The app "
    "reads bodies as JSON whatever their content type: an object, or an array whose first element counts. Property "
    "names match in any case.",
    EVENTS: "The endpoint for the subscription of the app's topic.",
}

ID = "3fa85f64-5717-4562-b3fc-2c963f66afa6"
PATH = "v1/landcover/classify"
OPERATOR = "ada@example.org"
OPERATION = "2026-11-22-out-of-memory"
ENDPOINT = f"https://models.example.org/{PATH}"
TASK: Json = {
    "TaskId": ID,
    "Timestamp": "2026-11-22T10:12:44.123000Z",
    "Status": "running model",
    "BackendStatus": "running",
    "Endpoint": f"/{PATH}",
    "Body": None,
    "PublishToGrid": True,
    "EndpointPath": f"/{PATH}",
    "Attempt": 1,
    "CreatedAt": "2026-11-22T10:12:43.907000Z",
    "ResultContentType": None,
    "ResultSize": None,
    "Priority": 5,
    "LeaseSeconds": 3600,
    "Progress": 0.4,
}
CREATED = TASK | {"Progress": None, "Status": "created", "BackendStatus": "created", "Timestamp": TASK["CreatedAt"]}
WAITING = CREATED | {"QueuePosition": 17, "EstimatedStart": "2026-11-22T10:13:20.157000Z"}
LIMIT = {"MaxBodyBytes": 104_857_600, "MaxUploadBytes": 107_374_182_400}
COMPLETED = TASK | {
    "Progress": 1,
    "Status": "completed",
    "BackendStatus": "completed",
    "ResultContentType": "image/tiff",
    "ResultSize": 1_048_576,
}
AT_ITS_URL = {"Endpoint": ENDPOINT}
"""What the legacy functions answer as a task's endpoint."""
CANCELLED = TASK | {"Status": "Cancelled", "BackendStatus": "cancelled"}
BATCH = TASK | {
    "Status": "running",
    "Endpoint": "batches",
    "EndpointPath": "batches",
    "PublishToGrid": False,
    "LeaseSeconds": 0,
    "Progress": 0.97,
    "Name": "scenes of May",
    "Sealed": True,
    "Total": 200,
    "Completed": 191,
    "Failed": 3,
    "Cancelled": 0,
    "Unfinished": 6,
    "Then": "/v1/landcover/mosaic",
}
SCHEDULE: Json = {
    "Name": "nightly",
    "Owner": None,
    "Path": f"/{PATH}",
    "Query": "classes=6",
    "ContentType": "application/json",
    "BodyBytes": 24,
    "Cron": "30 2 * * *",
    "TimeZone": "Europe/Berlin",
    "Overlap": "skip",
    "CatchUp": "last",
    "Until": None,
    "Priority": 5,
    "StartBefore": 21_600,
    "MaxRun": 3_600,
    "Callback": None,
    "Paused": False,
    "CreatedAt": "2026-11-22T10:12:43.907000Z",
    "UpdatedAt": "2026-11-22T10:12:43.907000Z",
    "NextTime": "2026-11-24T01:30:00.000000Z",
}
SCHEDULE_DETAILS = SCHEDULE | {
    "NextTimes": [f"2026-11-{day}T01:30:00.000000Z" for day in range(24, 29)],
    "Runs": [
        {
            "Due": "2026-11-23T01:30:00.000000Z",
            "Outcome": "started",
            "TaskId": ID,
            "BackendStatus": "completed",
            "Reason": None,
            "Asked": False,
        }
    ],
}
QUEUE: Json = {
    "EndpointPath": f"/{PATH}",
    "Waiting": 17,
    "Delayed": 2,
    "Demand": 22,
    "Dispatched": 1,
    "Running": 4,
    "Completed": 2048,
    "Failed": 3,
    "Cancelled": 0,
    "OldestWaitingSeconds": 12.25,
    "OldestWaitingSince": "2026-11-22T10:12:31.873000Z",
    "InFlight": 5,
    "Slots": 5,
    "Limit": None,
    "Rate": None,
    "Burst": False,
    "PerOwner": {"Waiting": 500, "InFlight": 4, "Hard": False},
    "Owners": None,
    "Paused": False,
    "Draining": False,
    "SettingsChanged": None,
    "Outage": None,
    "Backend": {"State": "full", "Until": None, "MeanSeconds": 31.5},
}
LIMITED = QUEUE | {
    "Limit": 8,
    "SettingsChanged": {"At": "2026-11-22T10:12:44.123000Z", "Operator": "ada@example.org"},
}
COUNTER: Json = {"Cluster": "aks", "Path": f"/{PATH}", "Count": 3, "UpdatedAt": "2026-11-22T10:12:44.123000Z"}


SERIES: Json = {
    "Path": f"/{PATH}",
    "From": "2026-11-22T12:00:00.000000Z",
    "To": "2026-11-22T12:02:00.000000Z",
    "StepSeconds": 60,
    "Times": ["2026-11-22T12:00:00.000000Z", "2026-11-22T12:01:00.000000Z"],
    "Created": [12, 9],
    "Completed": [10, 11],
    "Failed": [0, 1],
    "Cancelled": [0, 0],
    "Retried": [2, 0],
    "Waiting": [7, 4],
    "InFlight": [5, 5],
    "Slots": [5, 5],
    "OldestWaitingSeconds": [None, 3.5],
    "WaitSeconds": {"P50": [1.2, 1.4], "P95": [5.6, 6.1], "P99": [6.1, 6.3]},
    "RunSeconds": {"P50": [20.1, 19.8], "P95": [44.0, 43.1], "P99": [49.5, 49.0]},
}


METRICS: str = f"""\
# HELP backbone_queue_waiting Tasks that wait in the queue for a slot.
# TYPE backbone_queue_waiting gauge
backbone_queue_waiting{{path="/{PATH}"}} 3
"""


class DocumentationError(Exception):
    """Raised if the documented operations are not those of the app."""


@dataclass(frozen=True)
class Operation:
    """One method of a function. ``responses`` has its own responses; :attr:`document` adds the common ones."""

    function: str
    method: str
    path: str
    tag: str
    summary: str
    responses: Mapping[int, Json]
    description: str = ""
    parameters: tuple[Json, ...] = ()
    body: Json | None = None
    anonymous: bool = False
    operation_id: str | None = None
    """None: the function's name."""

    @property
    def document(self) -> Json:
        responses = {429: common("Throttled"), **self.responses}
        if self.path.startswith("/v1/") and not self.anonymous:
            responses = {400: common("UnknownParameter"), **responses}
        if not self.anonymous:
            responses = {401: common("Unauthorized"), 503: common("Unavailable"), **responses}
        if self.body:
            responses[411] = common("LengthRequired")
            responses[413] = common("TooLarge")
        responses[500] = common("Failed")
        if self.method == "HEAD":
            responses = {status: without_content(resolved(answer)) for status, answer in responses.items()}
        document: Json = {
            "operationId": self.operation_id or self.function,
            "tags": [self.tag],
            "summary": self.summary,
            **({"description": self.description} if self.description else {}),
            **({"parameters": list(self.parameters)} if self.parameters else {}),
            **({"requestBody": self.body} if self.body else {}),
            "responses": {str(status): responses[status] for status in sorted(responses)},
        }
        return document | {"security": []} if self.anonymous else document


def schema(model: type[BaseModel]) -> Json:
    return {"$ref": f"#/components/schemas/{model.__name__}"}


def common(name: str) -> Json:
    """One of ``COMMON_RESPONSES``."""
    return {"$ref": f"#/components/responses/{name}"}


def resolved(answer: Json) -> Json:
    """The response itself, if the *answer* is a reference to a common one."""
    return COMMON_RESPONSES[answer["$ref"].rpartition("/")[2]] if "$ref" in answer else answer


def without_content(answer: Json) -> Json:
    return {name: part for name, part in answer.items() if name != "content"}


def parameter(where: str, name: str, description: str, schema: Json, example: Any, **more: Any) -> Json:
    return {"name": name, "in": where, "description": description, "schema": schema, "example": example, **more}


def response(
    description: str,
    schema: Json | None = None,
    example: Any = None,
    *,
    media_type: str = "application/json",
    headers: Iterable[str] = (),
) -> Json:
    return {
        "description": description,
        **({"headers": {name: HEADERS[name] for name in headers}} if headers else {}),
        **({"content": {media_type: content(schema, example)}} if schema is not None else {}),
    }


def content(schema: Json, example: Any) -> Json:
    return {"schema": schema, **({"example": example} if example is not None else {})}


def problem(status: int, slug: str, description: str, detail: str, **members: Any) -> Json:
    """The response of an error, with an example that also has *members*."""
    example = {
        "type": f"urn:task-backbone:problem:{slug}",
        "title": description,
        "status": status,
        "detail": detail,
        **members,
    }
    return response(description, schema(ProblemDocument), example, media_type="application/problem+json")


def invalid(pointer: str, detail: str) -> Json:
    return problem(
        HTTPStatus.BAD_REQUEST,
        "invalid-request",
        "The request is not valid.",
        f"{pointer.removeprefix('/')}: {detail}",
        errors=[{"pointer": pointer, "detail": detail}],
    )


def conflict(task: Json) -> Json:
    return response(
        "The task does not take this change: it has ended, or the caller speaks for another attempt than the current "
        "one. Nothing has changed. `Task` is the task as it is.",
        schema(ConflictDocument),
        {
            "type": "urn:task-backbone:problem:conflict",
            "title": "The task does not take this change.",
            "status": 409,
            "detail": "The task is completed and stays so.",
            "Task": task,
        },
        media_type="application/problem+json",
    )


def any_body(description: str) -> Json:
    return {"description": description, "required": False, "content": ANY_CONTENT}


def legacy_body(model: type[BaseModel], example: Json) -> Json:
    return {
        "description": "The app takes an array of such objects too, as the legacy platform's clients send it.",
        "required": True,
        "content": {"application/json": {"schema": schema(model), "example": example}},
    }


def event(description: str, kind: str, data: Json, **members: Json) -> Json:
    """An event, with the members that this app reads."""
    properties = {"eventType": {"type": "string", "enum": [kind]}, **members, "data": data}
    return {"description": description, "type": "object", "properties": properties, "required": [*properties]}


def one_of(member: str, kinds: Mapping[str, str]) -> Json:
    """Any of some schemas; the *kinds* say which by what the *member* has."""
    references = {kind: f"#/components/schemas/{name}" for kind, name in kinds.items()}
    return {
        "oneOf": [{"$ref": reference} for reference in references.values()],
        "discriminator": {"propertyName": member, "mapping": references},
    }


BINARY: Json = {"type": "string", "format": "binary"}
ANY_CONTENT: Json = {"application/octet-stream": {"schema": BINARY}, "*/*": {"schema": BINARY}}
"""Bytes of any type. The first is for generated clients, which have no way to send or read the second."""

TASK_ID: Json = {"type": "string", "pattern": TASK_ID_PATTERN}
TEXT: Json = {"type": "string"}
MOMENT: Json = {"type": "string", "format": "date-time"}

HEADERS: Json = {
    "ETag": {
        "description": "Changes with every change of the task. Weak if the document has the task's position in its "
        "queue, because the position changes without the task.",
        "schema": TEXT,
        "example": '"1a2033330a9-3"',
    },
    "Retry-After": {
        "description": "Seconds until it is worth asking again. For a task that waits in its queue: until it will "
        "start, as far as the app knows. Absent once the task has ended.",
        "schema": {"type": "integer", "minimum": 1},
        "example": 1,
    },
    "Location": {
        "description": "URL of the task's status.",
        "schema": {"type": "string", "format": "uri-reference"},
        "example": f"https://backbone.example.org/api/v1/tasks/{ID}",
    },
    "Preference-Applied": {
        "description": "The wait that the app applied.",
        "schema": TEXT,
        "example": "wait=20",
    },
    "X-Content-Type-Options": {"description": "Always `nosniff`.", "schema": TEXT, "example": "nosniff"},
    "Content-Encoding": {
        "description": "The encoding that the result was stored with. Absent if it had none.",
        "schema": TEXT,
        "example": "gzip",
    },
    "Content-Range": {
        "description": "Which bytes of the result these are, and how many it has.",
        "schema": TEXT,
        "example": "bytes 0-1023/1048576",
    },
    "Repr-Digest": {
        "description": "The SHA-256 of all of it, as the client of an upload has declared it (RFC 9530). Absent if "
        "it was not declared. The app has not checked it.",
        "schema": TEXT,
        "example": "sha-256=:LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=:",
    },
    "Accept-Ranges": {"description": "Always `bytes`.", "schema": TEXT, "example": "bytes"},
    "TaskId": {"description": "The task's id.", "schema": TASK_ID, "example": ID},
    "WebHook-Allowed-Origin": {
        "description": "The origin that may deliver.",
        "schema": TEXT,
        "example": "eventgrid.azure.net",
    },
    "WebHook-Allowed-Rate": {"description": "How fast it may.", "schema": TEXT, "example": "*"},
}
TASK_HEADERS = ("ETag", "Retry-After")
SUBMIT_HEADERS = (*TASK_HEADERS, "Location", "Preference-Applied")
LIST_ETAG: Json = {
    "ETag": {
        "description": "Changes with the answer. Weak if the answer has ages, which grow without a change.",
        "schema": TEXT,
        "example": 'W/"0f343b0931126a20f133d67c2b018a3b"',
    }
}
RESULT_HEADERS = ("X-Content-Type-Options", "TaskId", "Accept-Ranges", "Content-Encoding", "Repr-Digest")
RESULT_ETAG: Json = {
    "ETag": {"description": "The same as long as the result is.", "schema": TEXT, "example": '"8f14e45fceea167a"'}
}

COMMON_RESPONSES: Json = {
    "Unauthorized": response("The key is missing or wrong."),
    "UnknownParameter": invalid("wait", "there is no such query parameter; this request takes none"),
    "Throttled": response("The Functions host has as many requests as it takes, and answers without content."),
    "Unavailable": problem(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "unavailable",
        "A dependency does not answer.",
        "The task store cannot be reached at the moment. Try again.",
    )
    | {"description": "A dependency does not answer, or the app is overloaded."},
    "Failed": problem(
        HTTPStatus.INTERNAL_SERVER_ERROR,
        "internal-error",
        "The app failed.",
        "This is a fault of the app; its log says more.",
    )
    | {
        "description": "The app failed. Or the Functions host answers, without content: the body is over its limit, "
        "the function has taken longer than `functionTimeout`, or the process of the app has ended."
    },
    "LengthRequired": problem(
        HTTPStatus.LENGTH_REQUIRED,
        "length-required",
        "The body has no Content-Length.",
        "A body that is sent in chunks does not arrive. Send it in one piece.",
    ),
    "TooLarge": problem(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        "too-large",
        "The body is too large.",
        "At most 104857600 bytes are taken.",
    ),
    "NoSuchTask": problem(
        HTTPStatus.NOT_FOUND,
        "no-such-task",
        "There is no such task.",
        "The id is unknown, or the task is past retention.",
    ),
    "Conflict": conflict(COMPLETED),
}

HEALTH_LIMITS = {"MaxBodyBytes": 15_728_640, "MaxUploadBytes": 107_374_182_400, "HostBodyBytes": 251_658_240}


def result(description: str, *headers: str) -> Json:
    answer = response(description, headers=(*RESULT_HEADERS, *headers))
    return answer | {"headers": answer["headers"] | RESULT_ETAG, "content": ANY_CONTENT}


LINKED: Json = response("Where it can be read for a while: a URL of Blob Storage.", headers=("TaskId", "Repr-Digest"))
LINKED["headers"] |= {
    "Location": {
        "description": "The URL. Whoever has it can read it: keep it to yourself, and send it no key.",
        "schema": {"type": "string", "format": "uri-reference"},
        "example": "https://account.blob.core.windows.net/task-backbone/u-3fa85f64?snapshot=2026-11-29T09%3A00%3A00.0000000Z&sp=r&sig=a1b2c3",
    }
}
NO_SAS = problem(
    HTTPStatus.NOT_IMPLEMENTED,
    "no-sas",
    "Clients cannot use Blob Storage themselves.",
    "No SAS can be made: AzureWebJobsStorage has no account key, and a SAS makes no other SAS.",
)
NO_BODY = problem(HTTPStatus.NOT_FOUND, "no-body", "There is no body.", "The task has none.", TaskId=ID)
NO_RESULT = problem(
    HTTPStatus.NOT_FOUND,
    "no-result",
    "There is no result.",
    "The task has stored none, or not yet.",
    TaskId=ID,
)
NO_CHECKPOINT = problem(
    HTTPStatus.NOT_FOUND,
    "no-checkpoint",
    "There is no checkpoint.",
    "No attempt has stored one, or the task has ended or gone on to another step.",
    TaskId=ID,
)
OUT_OF_RANGE = problem(
    HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
    "range-not-satisfiable",
    "The range lies outside of what is stored.",
    "There are 1024 bytes.",
) | {"headers": {"Content-Range": HEADERS["Content-Range"] | {"example": "bytes */1024"}}}
UNCHANGED: Json = response("The answer still has the ETag in `If-None-Match`.") | {"headers": LIST_ETAG}
IF_NONE_MATCH = parameter("header", "If-None-Match", "The ETag of an earlier answer.", TEXT, '"1a2033330a9-3"')
SCHEDULE_NAME = parameter(
    "path", "name", "The schedule's name.", {"type": "string", "pattern": NAME_PATTERN}, "nightly", required=True
)
SCHEDULE_OWNER = parameter(
    "query",
    "owner",
    "Whose schedule it is. For operators: an owner has its own.",
    {"type": "string", "pattern": r"^[\x21-\x7e]{1,128}$"},
    "ann",
)
UNKNOWN_SCHEDULE = problem(
    HTTPStatus.NOT_FOUND,
    "no-such-schedule",
    "There is no such schedule.",
    "The name is unknown, or it was deleted.",
)
TASK_ID_IN_PATH = parameter("path", "id", "The task's id.", TASK_ID, ID, required=True)
UNKNOWN_ENDPOINT = problem(
    HTTPStatus.NOT_FOUND,
    "unknown-endpoint",
    "There is no such endpoint.",
    "'/v1/unheard-of': no backend is registered for this path.",
)
UNKNOWN_BATCH = problem(
    HTTPStatus.NOT_FOUND,
    "unknown-batch",
    "There is no such batch.",
    "The id is unknown, or the batch was removed.",
)
QUEUE_FULL = problem(
    HTTPStatus.TOO_MANY_REQUESTS,
    "queue-full",
    "The queue is full.",
    "As many tasks wait at this endpoint as may. Try again.",
) | {
    "description": "The queue is full; or the host has as many requests as it takes, and answers without content.",
    "headers": {"Retry-After": {**HEADERS["Retry-After"], "description": "Seconds until there is room."}},
}
TOO_MANY_ENDPOINTS = problem(
    HTTPStatus.TOO_MANY_REQUESTS,
    "too-many-endpoints",
    "The backend has tasks at too many endpoints.",
    f"The backend has tasks at 1,000 endpoints, and /{PATH} is none of them.",
) | {
    "description": "Nothing is at this path yet, and its backend has as many endpoints as it may; or the host has as "
    "many requests as it takes, and answers without content.",
}
TOO_MANY_REPORTERS = problem(
    HTTPStatus.TOO_MANY_REQUESTS,
    "too-many-reporters",
    "There are too many reporters.",
    "There are as many instances as are kept. One that is silent makes room.",
) | {
    "description": "There is no room for another instance or counter, and nothing was counted; or the host has as "
    "many requests as it takes, and answers without content.",
}
QUEUE_DRAINING = problem(
    HTTPStatus.SERVICE_UNAVAILABLE,
    "queue-draining",
    "The queue takes no new tasks.",
    "The endpoint is being drained: tasks that wait there are still done.",
) | {"description": "The queue takes no new tasks, or the app is overloaded, or a dependency does not answer."}
IDEMPOTENCY_KEY = parameter(
    "header",
    "Idempotency-Key",
    "Makes it safe to repeat a request: the same key, path and body again gives the same task.",
    TEXT | {"pattern": r"^[\x20-\x7e]{1,255}$"},
    "8e03978e-40d5-43e8-bc93-6894a57f9324",
)
PRIORITY = parameter(
    "header",
    "Priority",
    "A digit. 9 goes before 0; a task without a priority has 5. The app ignores values of RFC 9218 in this header.",
    TEXT | {"pattern": PRIORITY_PATTERN.replace(r"\A", "^").replace(r"\Z", "$")},
    "7",
)
START_AFTER = parameter(
    "header",
    START_AFTER_HEADER,
    "When the task starts: after so many seconds, or at a time (RFC 3339). Until then it is in no queue. At most "
    "`MAX_DELAY_S` ahead.",
    TEXT,
    "300",
)
START_BEFORE = parameter(
    "header",
    START_BEFORE_HEADER,
    "Until when a model service must have the task: a number of seconds, or an RFC 3339 time. A task that none has "
    "had by then ends as failed, and is not sent. Without it: what the backend's `expires_s` says.",
    TEXT,
    "300",
)
MAX_RUN = parameter(
    "header",
    MAX_RUN_HEADER,
    "For how many seconds an attempt may run, however often it is heard of, from 1 to a year. What the backend's "
    "`max_run_s` says holds if it is less.",
    TEXT | {"pattern": "^ *[1-9][0-9]{0,7}([.][0-9]{1,3})? *$"},
    "600",
)
LIST_CURSOR = parameter(
    "query",
    "cursor",
    "`NextCursor` of the previous page.",
    TEXT | {"pattern": "^[0-9a-f]{1,12}-[A-Za-z0-9_.-]{1,128}$"},
    f"1a2033330a9-{ID}",
)
NO_CHILDREN = {
    "Status": "created",
    "BackendStatus": "created",
    "Progress": None,
    "Sealed": False,
    **dict.fromkeys(("Total", "Completed", "Failed", "Unfinished"), 0),
}
ATTEMPT_HEADER = parameter(
    "header",
    "X-Task-Attempt",
    "The attempt that the caller speaks for: the value of this header in the dispatch. Without it, the app trusts "
    "the caller to speak for the current attempt.",
    {"type": "integer", "minimum": 0, "maximum": 999_999_999},
    1,
)
REQUIRED_ATTEMPT_HEADER = {
    **ATTEMPT_HEADER,
    "description": "The attempt that the caller speaks for: the value of this header in the dispatch.",
    "required": True,
}
TOLD_SLOTS = (
    parameter(
        "header",
        SLOTS_HEADER,
        "How many tasks this instance of the model service holds at a time; 0 if it takes no more.",
        {"type": "integer", "minimum": 0, "maximum": MOST_SLOTS},
        4,
    ),
    parameter(
        "header",
        INSTANCE_HEADER,
        "The name of the instance among those of its service.",
        TEXT | {"pattern": "^[!-~]{1,128}$"},
        "landcover-7d9f-x2x4q",
    ),
)
COMPLETION_HEADER = parameter(
    "header",
    "X-Task-Complete",
    "Completes the task in the same step, with this text as its status: UTF-8, percent-encoded. Empty: `completed`.",
    TEXT,
    "completed%20-%206%20words",
)
CONTENT_ENCODING = parameter(
    "header",
    "Content-Encoding",
    "The encoding of the body, such as `gzip`. The app keeps it and decodes nothing.",
    TEXT | {"pattern": f"^{CODINGS_PATTERN}$", "maxLength": MAX_HEADER_CHARS},
    "gzip",
)
RANGE = parameter(
    "header",
    "Range",
    "Which bytes to answer: one range in bytes. The app answers the whole result to anything else.",
    TEXT,
    "bytes=0-1023",
)
LINK = parameter(
    "query",
    "link",
    "1: answer with where it can be read, if it lies in Blob Storage.",
    {"type": "string", "enum": ["1", "0", "true", "false"]},
    "1",
)
UPLOAD = parameter(
    "header",
    UPLOAD_HEADER,
    "An upload that takes the place of the body, which is then empty. Its declared type and encoding count.",
    TASK_ID,
    ID,
)
IF_RANGE = parameter(
    "header",
    "If-Range",
    "The ETag of the part that the caller has. If the result has another one, `Range` does not count.",
    TEXT,
    '"8f14e45fceea167a"',
)
ENDPOINT_PATH: Json = {"required": True, "x-ms-skip-url-encoding": True}
"""A path parameter of several segments. Whether a client escapes its slashes does not matter."""
NEXT_PATH = parameter(
    "path",
    "path",
    "The path of the endpoint that the task goes to. Its slashes may come as `%2F`.",
    TEXT,
    "v1/landcover/vectorize",
    **ENDPOINT_PATH,
)
NEXT_BODY_HEADER_PARAMETER = parameter(
    "header",
    NEXT_BODY_HEADER,
    "What becomes the body of the next step, if the request brings none: the stored result, or the body that the "
    "task has. The app moves neither through itself.",
    {"type": "string", "enum": ["result", "current"]},
    "result",
)
QUEUE_PATH = parameter(
    "path", "path", "The endpoint's path. Its slashes may come as `%2F`.", TEXT, PATH, **ENDPOINT_PATH
)
CLUSTER_PARAMETERS = (
    parameter("query", "cluster", "`ServiceCluster` of the reports.", TEXT | {"minLength": 1}, "west", required=True),
    parameter(
        "query",
        "path",
        "`ApiPath` of the reports, with or without its leading slash.",
        TEXT | {"minLength": 1},
        f"/{PATH}",
        required=True,
    ),
)
SUBMIT_PATH = parameter(
    "path",
    "path",
    "The endpoint's path, which names the queue. Its slashes may come as `%2F`.",
    TEXT
    | {
        "pattern": r"^[^/\\;?#%\x00-\x20\x7f]+(/[^/\\;?#%\x00-\x20\x7f]+)*/?$",
        "maxLength": MAX_PATH_CHARS - 1,
    },
    PATH,
    **ENDPOINT_PATH,
)
PIPELINE = parameter(
    "header",
    PIPELINE_HEADER,
    f"The paths of up to {MAX_STEPS} more endpoints, with commas between, each with its query string if "
    "it has one. When a model service completes its step, the task goes on to the next one, with the "
    "result as its body.",
    TEXT | {"pattern": "^/"},
    "/v1/landcover/vectorize?simplify=2, /v1/landcover/publish",
)
IN_BATCH = parameter(
    "header",
    BATCH_HEADER,
    "The batch that the task is to be a child of. The batch is of the same owner, and not sealed.",
    TASK_ID,
    ID,
)
TRACEPARENT = parameter(
    "header",
    "traceparent",
    "W3C trace context. Every later step of the task joins its trace.",
    TEXT,
    "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
)
NONE_TAKEN = (
    "No task was taken, for this reason: that of the first line that may be sent again, or else of the first one. "
    "`Outcomes` has what each line has come to, if they were read."
)
PROCESSING_RESPONSES = {
    200: response("Requests in flight.", {"type": "string", "pattern": "^[0-9]+$"}, "7", media_type="text/plain"),
    204: response("Nobody has ever reported requests there."),
    400: invalid("cluster", "the query parameter is missing"),
}

CALLBACK = parameter(
    "header",
    CALLBACK_HEADER,
    "The name of the destination that is told how it ends. Without it, that of the owner or of the backend, if there "
    "is one.",
    TEXT | {"pattern": "^[A-Za-z0-9._-]{1,64}$"},
    "billing",
)
DESTINATION = parameter(
    "path", "name", "The destination's name.", TEXT | {"pattern": "^[A-Za-z0-9._-]{1,64}$"}, "billing", required=True
)
UNKNOWN_DESTINATION = problem(
    HTTPStatus.NOT_FOUND,
    "unknown-destination",
    "There is no such destination.",
    "No entry of CALLBACKS has this name.",
)

OPERATIONS: list[Operation] = [
    Operation(
        "SubmitTask",
        "POST",
        "/v1/submit/{path}",
        TASKS,
        "Submit a task",
        description="The app keeps the body byte for byte with its content type, and sends it to the model service "
        "that is registered for the path, with the request's query string except `code` and `clientId`. It answers "
        "once the task is safe.",
        parameters=(
            CONTENT_ENCODING,
            UPLOAD,
            SUBMIT_PATH,
            IDEMPOTENCY_KEY,
            PRIORITY,
            START_AFTER,
            START_BEFORE,
            MAX_RUN,
            PIPELINE,
            IN_BATCH,
            CALLBACK,
            parameter(
                "header",
                "Prefer",
                f"`wait=N`: wait up to N seconds for the task's end, {LONGEST_WAIT_S} at most.",
                TEXT,
                "wait=20",
            ),
            TRACEPARENT,
        ),
        body=any_body("The body for the model service: any bytes, or none."),
        responses={
            200: response("The task has ended in time.", schema(TaskView), COMPLETED, headers=SUBMIT_HEADERS),
            202: response("The task is safe.", schema(TaskView), WAITING | LIMIT, headers=SUBMIT_HEADERS),
            400: invalid("Idempotency-Key", "1 to 255 printable ASCII characters are allowed"),
            404: UNKNOWN_ENDPOINT
            | {
                "description": "There is no such endpoint, no such batch (`unknown-batch`), or no such upload "
                "(`unknown-upload`)."
            },
            409: problem(
                HTTPStatus.CONFLICT,
                "batch-sealed",
                "The batch takes no more tasks.",
                "It was sealed or cancelled, or has ended.",
            )
            | {
                "description": "The batch takes no more tasks: it was sealed (`batch-sealed`), or has as many as it "
                "may (`batch-full`). Or the upload is another task's (`upload-used`), is not what was declared "
                "(`upload-mismatch`), or is too large for a backend that takes no reference (`no-reference`)."
            },
            422: problem(
                HTTPStatus.UNPROCESSABLE_ENTITY,
                "idempotency-key-reused",
                "The idempotency key was used before.",
                "An earlier request with this Idempotency-Key had another body, query, type, pipeline or batch.",
                TaskId=ID,
            ),
            429: QUEUE_FULL,
            503: QUEUE_DRAINING,
        },
    ),
    Operation(
        "GetTask",
        "GET",
        "/v1/tasks/{id}",
        TASKS,
        "A task's status",
        description="At once, or at its next change with `wait`. A position in the queue is no change.",
        parameters=(
            TASK_ID_IN_PATH,
            parameter(
                "query",
                "wait",
                "Answer at the task's next change, or after this many seconds. More than "
                f"{LONGEST_WAIT_S} counts as {LONGEST_WAIT_S}. A change gives the task another ETag than the one in "
                "`If-None-Match`, or, without that header, than the current one.",
                {"type": "number", "minimum": 0, "maximum": 999_999, "multipleOf": 0.001},
                20,
            ),
            IF_NONE_MATCH,
        ),
        responses={
            200: response("The task.", schema(TaskView), TASK, headers=TASK_HEADERS),
            304: response("The task still has the ETag in `If-None-Match`.", headers=TASK_HEADERS),
            400: invalid("wait", "a number of seconds is expected"),
            404: common("NoSuchTask"),
        },
    ),
    Operation(
        "GetTask",
        "HEAD",
        "/v1/tasks/{id}",
        TASKS,
        "A task's headers",
        operation_id="HeadTask",
        description="What GET answers, without the document.",
        parameters=(TASK_ID_IN_PATH, IF_NONE_MATCH),
        responses={
            200: response("There is such a task.", headers=TASK_HEADERS),
            304: response("The task still has the ETag in `If-None-Match`.", headers=TASK_HEADERS),
            404: response("There is no such task."),
        },
    ),
    Operation(
        "SubmitMany",
        "POST",
        "/v1/submit-many/{path}",
        TASKS,
        "Submit many tasks",
        description=f"Up to {MOST_TASKS:,} tasks for one endpoint, each with an outcome of its own: a line that is "
        "broken or refused is nobody else's trouble. Each line of the body is an object (`SubmitLine`). Or the body "
        f"is `{MIXED}`, of which each part is the body of a task, with the headers `Content-Type`, "
        "`Content-Encoding`, `Query`, `Idempotency-Key` and `Priority` if it has them. All other content types are "
        "read as lines. The headers of the request, and its query string, hold for all tasks that say nothing else.",
        parameters=(
            SUBMIT_PATH,
            IDEMPOTENCY_KEY
            | {
                "description": "Makes it safe to repeat the request: with the same path, each line again gives the "
                "same task. Of a line without a key, it stands for one that is derived from it and from the line's "
                "number."
            },
            PRIORITY,
            START_AFTER,
            START_BEFORE,
            MAX_RUN,
            PIPELINE,
            IN_BATCH,
            CALLBACK,
            TRACEPARENT,
        ),
        body={
            "description": f"{MOST_TASKS:,} tasks at most, and as many bytes as a body may have.",
            "required": True,
            "content": {
                NDJSON: {
                    "schema": TEXT | {"contentMediaType": NDJSON, "contentSchema": schema(SubmitLine)},
                    "example": '{"Body": {"scene": "S2A_20261122"}, "IdempotencyKey": "S2A_20261122"}\n'
                    '{"Body": "a text", "Query": "classes=6", "Priority": 7}\n',
                },
                MIXED: {"schema": BINARY},
            },
        },
        responses={
            202: response(
                "At least one task is safe. One line (`LineOutcome`) for each task, in their order.",
                schema(LineOutcome),
                {"Line": 1, "StatusCode": 202, "TaskId": ID, "BackendStatus": "created"},
                media_type=NDJSON,
            ),
            400: invalid("/Priority", "at most 9 is expected") | {"description": NONE_TAKEN},
            404: UNKNOWN_ENDPOINT | {"description": f"There is no such endpoint. Or: {NONE_TAKEN}"},
            409: problem(
                HTTPStatus.CONFLICT,
                "batch-sealed",
                "The batch takes no more tasks.",
                "It was sealed or cancelled, or has ended.",
            )
            | {"description": NONE_TAKEN},
            422: problem(
                HTTPStatus.UNPROCESSABLE_ENTITY,
                "idempotency-key-reused",
                "The idempotency key was used before.",
                "An earlier request with this Idempotency-Key had another body, query, type, pipeline or batch.",
                TaskId=ID,
            )
            | {"description": NONE_TAKEN},
            429: QUEUE_FULL,
            503: QUEUE_DRAINING,
        },
    ),
    Operation(
        "WaitForTasks",
        "POST",
        "/v1/tasks/wait",
        TASKS,
        "Wait for many tasks",
        description=f"Answers once one of up to {MOST_WAITED_FOR} tasks or batches changes or ends, or, with `Any` "
        "false, once all have ended; or when the time is up. A task that has ended already, or that does not exist, "
        "is answered at once: leave it out of the next wait.",
        body={
            "required": True,
            "content": {
                "application/json": {
                    "schema": schema(WaitRequest),
                    "example": {"TaskIds": [ID], "Seconds": 30, "Any": True, "Known": {ID: '"1a2033330a9-3"'}},
                }
            },
        },
        responses={
            200: response(
                "What has changed or ended.",
                schema(WaitAnswer),
                {"Tasks": [{"ETag": '"1a2033330a9-4"', "Task": TASK}], "Unknown": []},
                headers=("Retry-After",),
            ),
            400: invalid("/TaskIds", "it is missing"),
        },
    ),
    Operation(
        "GetTaskHistory",
        "GET",
        "/v1/tasks/{id}/history",
        TASKS,
        "A task's transitions",
        description="What happened to the task, and by whom: `Who` is `client`, `dispatcher`, `reconciler`, or "
        "`operator`, whose name only operators are told. Reports that change no state are not listed.",
        parameters=(TASK_ID_IN_PATH,),
        responses={
            200: response(
                "All transitions, oldest first.",
                schema(TaskHistory),
                {
                    "TaskId": ID,
                    "Events": [
                        {
                            "Timestamp": CREATED["Timestamp"],
                            "State": "created",
                            "Status": "created",
                            "Attempt": 1,
                            "Who": "client",
                            "EndpointPath": CREATED["EndpointPath"],
                            "Reason": "submit",
                        },
                        {
                            "Timestamp": TASK["Timestamp"],
                            "State": "cancelled",
                            "Status": "Cancelled",
                            "Attempt": 1,
                            "Who": "operator",
                            "Operator": OPERATOR,
                            "EndpointPath": CREATED["EndpointPath"],
                            "Reason": "cancel",
                            "EndReason": "cancelled",
                        },
                    ],
                },
            ),
            404: common("NoSuchTask"),
        },
    ),
    Operation(
        "CancelTask",
        "DELETE",
        "/v1/tasks/{id}",
        TASKS,
        "Cancel or remove a task",
        description="The app never dispatches the task any more. A model service that works on it gets a 409 at its "
        "next update. Cancelling the task again changes nothing. Of a batch, all children that have not ended are "
        "cancelled. With `purge`, a finished task is removed instead, and a finished batch with its children.",
        parameters=(
            TASK_ID_IN_PATH,
            parameter(
                "query",
                "purge",
                "Remove the finished task at once, with body, result, history and all else that is kept of it.",
                TEXT | {"enum": ["true", "false"]},
                "true",
            ),
        ),
        responses={
            204: response("The task is removed."),
            400: invalid("purge", "true or false is expected, or 1 or 0"),
            200: response("The task is cancelled.", schema(TaskView), CANCELLED, headers=("ETag",)),
            404: common("NoSuchTask"),
            409: common("Conflict"),
        },
    ),
    Operation(
        "ReplayTask",
        "POST",
        "/v1/tasks/{id}/replay",
        TASKS,
        "Start a failed task again",
        description="The task begins again at its endpoint, with its body, as a new attempt and without its result. "
        "Of a failed batch, all failed children begin again, and the batch with them.",
        parameters=(TASK_ID_IN_PATH,),
        responses={
            202: response(
                "The task waits for its dispatch.",
                schema(TaskView),
                CREATED | {"Attempt": 2} | LIMIT,
                headers=TASK_HEADERS,
            ),
            400: invalid("/Body", "a task to be published needs one, and none was kept"),
            404: common("NoSuchTask"),
            409: common("Conflict"),
        },
    ),
    Operation(
        "TaskHeartbeat",
        "POST",
        "/v1/tasks/{id}/heartbeat",
        TASKS,
        "Renew a task's lease",
        description="For model services, with how far they are, if they can tell. Any update renews the lease too.",
        parameters=(TASK_ID_IN_PATH, ATTEMPT_HEADER, *TOLD_SLOTS),
        body={
            "required": False,
            "content": {"application/json": {"schema": schema(Heartbeat), "example": {"Progress": 0.4}}},
        },
        responses={
            200: response("The lease runs anew.", schema(TaskView), TASK, headers=TASK_HEADERS),
            400: invalid("/Progress", "at most 1 is expected"),
            404: common("NoSuchTask"),
            409: common("Conflict"),
        },
    ),
    Operation(
        "TaskHeartbeats",
        "POST",
        "/v1/heartbeats",
        TASKS,
        "Renew the leases of several tasks",
        description=f"For model services that work on many tasks: up to {MAX_HEARTBEATS} heartbeats, each with its "
        "own outcome.",
        parameters=TOLD_SLOTS,
        body={
            "required": True,
            "content": {
                "application/json": {
                    "schema": schema(Heartbeats),
                    "example": {"Heartbeats": [{"TaskId": ID, "Attempt": 1, "Progress": 0.4}]},
                }
            },
        },
        responses={
            200: response(
                "What each has come to, in the same order.",
                schema(HeartbeatOutcomes),
                {"Outcomes": [{"TaskId": ID, "StatusCode": 200, "BackendStatus": "running", "Attempt": 1}]},
            ),
            400: invalid("/Heartbeats/0/Progress", "at most 1 is expected"),
        },
    ),
    Operation(
        "ReleaseTask",
        "POST",
        "/v1/tasks/{id}/release",
        TASKS,
        "Give a task back",
        description="For model services that cannot go on with a task. It waits again as a new attempt. If the "
        "service is about to stop, the task keeps its place, nothing is counted, and the queue forgets the slot; but "
        "from the twentieth time in a row, each counts as a failure. If the service failed at the task, that counts, "
        "and the task waits after a backoff, or ends as `failed` at `MAX_ATTEMPTS`. A repeated release is answered "
        "as the first one.",
        parameters=(TASK_ID_IN_PATH, REQUIRED_ATTEMPT_HEADER, *TOLD_SLOTS),
        body={
            "required": False,
            "content": {
                "application/json": {"schema": schema(TaskRelease), "example": {"Status": "the service is stopping"}}
            },
        },
        responses={
            200: response("The task waits again, or has failed.", schema(TaskView), CREATED | {"Attempt": 2}),
            400: invalid("X-Task-Attempt", "it is missing"),
            404: common("NoSuchTask"),
            409: common("Conflict"),
        },
    ),
    Operation(
        "NextStep",
        "POST",
        "/v1/tasks/{id}/next/{path}",
        TASKS,
        "Send a task on to another endpoint",
        description="For model services. The task keeps its id and goes to the end of that endpoint's queue, as a "
        "new attempt, with the body and the query string of the request. A repeated request is answered as the first "
        "one.",
        parameters=(
            TASK_ID_IN_PATH,
            NEXT_PATH,
            REQUIRED_ATTEMPT_HEADER,
            NEXT_BODY_HEADER_PARAMETER,
            CONTENT_ENCODING,
            *TOLD_SLOTS,
        ),
        body=any_body("The body for the next step: any bytes, or none."),
        responses={
            200: response(
                "The task waits at that endpoint.",
                schema(TaskView),
                CREATED | {"Attempt": 2} | dict.fromkeys(("Endpoint", "EndpointPath"), "/v1/landcover/vectorize"),
                headers=TASK_HEADERS,
            ),
            400: invalid("path", "no backend is registered for this path"),
            404: common("NoSuchTask"),
            409: common("Conflict"),
        },
    ),
    Operation(
        "ListTasks",
        "GET",
        "/v1/tasks",
        TASKS,
        "List tasks, newest first",
        description="Paging returns every task that exists all the while exactly once, whatever is added, removed or "
        "changed meanwhile. A page looks at a bounded number of tasks, so one whose filter takes few may be short or "
        "empty, and not be the last.",
        parameters=(
            parameter("query", "path", "Only tasks of this endpoint path.", TEXT, f"/{PATH}"),
            parameter("query", "since", "Only tasks created at this time or later.", MOMENT, CREATED["CreatedAt"]),
            parameter("query", "until", "Only tasks created before this time.", MOMENT, TASK["Timestamp"]),
            parameter(
                "query",
                "q",
                "Only tasks with this in their id, endpoint path or status text, whatever the case of ASCII letters. "
                "Of a very long status text, its beginning.",
                TEXT | {"maxLength": MAX_TEXT_CHARS},
                "out of memory",
            ),
            parameter("query", "owner", "Only tasks of this owner. Owners may name themselves only.", TEXT, "ada"),
            parameter(
                "query",
                "attempts",
                "Only tasks that are at this attempt at least.",
                {"type": "integer", "minimum": 1, "maximum": MAX_ATTEMPT},
                2,
            ),
            parameter(
                "query",
                "status",
                f"Only tasks in this state; or, with `{DELAYED}`, those of the created ones that have yet to start.",
                TEXT | {"enum": [*(state.value for state in State), DELAYED]},
                "failed",
            ),
            parameter("query", "batch", "Only children of this batch, the one that came last first.", TASK_ID, ID),
            parameter(
                "query",
                "limit",
                f"How many tasks a page has at most; {DEFAULT_LIMIT} if not given.",
                {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT},
                20,
            ),
            LIST_CURSOR,
            IF_NONE_MATCH,
        ),
        responses={
            200: response(
                "A page of tasks.",
                schema(TaskList),
                {"Tasks": [TASK], "NextCursor": f"1a2033330a9-{ID}", "Looked": 1},
            )
            | {"headers": LIST_ETAG},
            304: UNCHANGED,
            400: invalid("limit", "a number from 1 to 200 is expected"),
            404: UNKNOWN_BATCH,
        },
    ),
    Operation(
        "CreateBatch",
        "POST",
        "/v1/batches",
        BATCHES,
        "Begin a batch",
        description="A batch is a task whose work are its children: the tasks that are submitted with the header "
        "`Batch`. It ends once it is sealed and all of them have ended.",
        parameters=(IDEMPOTENCY_KEY, PRIORITY, CALLBACK),
        body={
            "required": False,
            "content": {
                "application/json": {
                    "schema": schema(NewBatchRequest),
                    "example": {"Name": "scenes of May", "Then": "/v1/landcover/mosaic"},
                }
            },
        },
        responses={
            202: response(
                "The batch takes children.",
                schema(BatchView),
                BATCH | NO_CHILDREN | LIMIT,
                headers=(*TASK_HEADERS, "Location"),
            ),
            400: invalid("/Name", "at most 200 characters are expected"),
            404: UNKNOWN_ENDPOINT | {"description": "There is no such endpoint as `Then`."},
            422: problem(
                HTTPStatus.UNPROCESSABLE_ENTITY,
                "idempotency-key-reused",
                "The idempotency key was used before.",
                "An earlier request with this Idempotency-Key had another body, query, type, pipeline or batch.",
                TaskId=ID,
            ),
        },
    ),
    Operation(
        "ListBatches",
        "GET",
        "/v1/batches",
        BATCHES,
        "List batches, newest first",
        description="Paged as the list of tasks, in which no batch is.",
        parameters=(
            parameter(
                "query",
                "limit",
                f"How many batches a page has at most; {DEFAULT_LIMIT} if not given.",
                {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT},
                20,
            ),
            LIST_CURSOR,
            IF_NONE_MATCH,
        ),
        responses={
            200: response("A page.", schema(BatchList), {"Batches": [BATCH], "NextCursor": f"1a2033330a9-{ID}"})
            | {"headers": LIST_ETAG},
            304: UNCHANGED,
            400: invalid("limit", "a number from 1 to 200 is expected"),
        },
    ),
    Operation(
        "SealBatch",
        "POST",
        "/v1/batches/{id}/seal",
        BATCHES,
        "Seal a batch",
        description="It takes no more children, and ends with the last of them. To seal it again changes nothing.",
        parameters=(TASK_ID_IN_PATH,),
        responses={
            200: response("The batch is sealed.", schema(BatchView), BATCH, headers=TASK_HEADERS),
            404: UNKNOWN_BATCH,
        },
    ),
    Operation(
        "PutSchedule",
        "PUT",
        "/v1/schedules/{name}",
        SCHEDULES,
        "Submit again and again",
        description="Makes a schedule, or puts another definition in the place of the one that it has. Its runs and "
        "whether it is paused stay. Each due time makes one task, whatever fails meanwhile.",
        parameters=(SCHEDULE_NAME, SCHEDULE_OWNER),
        body={
            "required": True,
            "content": {
                "application/json": {
                    "schema": schema(ScheduleRequest),
                    "example": {
                        "Path": f"/{PATH}",
                        "Query": "classes=6",
                        "Body": {"scenes": "of yesterday"},
                        "Cron": "30 2 * * *",
                        "TimeZone": "Europe/Berlin",
                    },
                }
            },
        },
        responses={
            200: response("The schedule has this definition now.", schema(ScheduleDetails), SCHEDULE_DETAILS),
            201: response("The schedule is new.", schema(ScheduleDetails), SCHEDULE_DETAILS | {"Runs": []}),
            400: invalid("/Cron", "bad minute"),
            404: UNKNOWN_ENDPOINT | {"description": "There is no such endpoint as `Path`, or no such upload."},
            409: problem(
                HTTPStatus.CONFLICT,
                "too-many-schedules",
                "There are too many schedules.",
                f"An owner has {MOST_SCHEDULES:,} at most. One that is deleted makes room.",
            )
            | {"description": "The owner has as many as it may; or the upload cannot be taken."},
            429: TOO_MANY_ENDPOINTS,
        },
    ),
    Operation(
        "GetSchedule",
        "GET",
        "/v1/schedules/{name}",
        SCHEDULES,
        "Get a schedule",
        description="With the next five times at which it is due, and what has become of the last ten.",
        parameters=(SCHEDULE_NAME, SCHEDULE_OWNER),
        responses={
            200: response("The schedule.", schema(ScheduleDetails), SCHEDULE_DETAILS),
            404: UNKNOWN_SCHEDULE,
        },
    ),
    Operation(
        "DeleteSchedule",
        "DELETE",
        "/v1/schedules/{name}",
        SCHEDULES,
        "Delete a schedule",
        description="Its tasks stay.",
        parameters=(SCHEDULE_NAME, SCHEDULE_OWNER),
        responses={204: response("There is no such schedule any more."), 404: UNKNOWN_SCHEDULE},
    ),
    Operation(
        "PauseSchedule",
        "POST",
        "/v1/schedules/{name}/pause",
        SCHEDULES,
        "Pause a schedule",
        description="It is not due until it is resumed. To pause it again changes nothing.",
        parameters=(SCHEDULE_NAME, SCHEDULE_OWNER),
        responses={
            200: response(
                "The schedule is paused.",
                schema(ScheduleDetails),
                SCHEDULE_DETAILS | {"Paused": True, "NextTime": None, "NextTimes": []},
            ),
            404: UNKNOWN_SCHEDULE,
        },
    ),
    Operation(
        "ResumeSchedule",
        "POST",
        "/v1/schedules/{name}/resume",
        SCHEDULES,
        "Let a paused schedule go on",
        description="From now on: nothing that was due meanwhile is made up for.",
        parameters=(SCHEDULE_NAME, SCHEDULE_OWNER),
        responses={
            200: response("The schedule goes on.", schema(ScheduleDetails), SCHEDULE_DETAILS),
            404: UNKNOWN_SCHEDULE,
        },
    ),
    Operation(
        "RunSchedule",
        "POST",
        "/v1/schedules/{name}/run",
        SCHEDULES,
        "Run a schedule now",
        description="Creates a task, whether the schedule is due, paused or at work. It goes on as before.",
        parameters=(SCHEDULE_NAME, SCHEDULE_OWNER, IDEMPOTENCY_KEY),
        responses={
            202: response(
                "The task is created.", schema(TaskView), CREATED | LIMIT, headers=(*TASK_HEADERS, "Location")
            ),
            404: UNKNOWN_SCHEDULE,
            429: QUEUE_FULL,
        },
    ),
    Operation(
        "ListSchedules",
        "GET",
        "/v1/schedules",
        SCHEDULES,
        "List schedules",
        description="By their owners, and the names that these gave them. Owners see their own.",
        parameters=(
            parameter(
                "query",
                "limit",
                f"How many schedules a page has at most; {DEFAULT_LIMIT} if not given.",
                {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT},
                20,
            ),
            parameter("query", "cursor", "The `NextCursor` of the page before.", TEXT, "IG5pZ2h0bHk"),
            SCHEDULE_OWNER,
            IF_NONE_MATCH,
        ),
        responses={
            200: response("A page.", schema(ScheduleList), {"Schedules": [SCHEDULE], "NextCursor": None})
            | {"headers": LIST_ETAG},
            304: UNCHANGED,
            400: invalid("limit", "a number from 1 to 200 is expected"),
        },
    ),
    Operation(
        "PutTaskResult",
        "PUT",
        "/v1/tasks/{id}/result",
        RESULTS,
        "Store a task's result",
        description="For model services, before they report the task completed, or with `X-Task-Complete` in the "
        "same step. A later result replaces it. The result is void with its attempt if the task is tried again; a "
        "pipeline's next step still finds it. It "
        f"counts as an update. The app keeps a result over {INLINE_LIMIT_BYTES // 1024} KiB in Blob Storage.",
        parameters=(
            TASK_ID_IN_PATH,
            ATTEMPT_HEADER,
            CONTENT_ENCODING,
            COMPLETION_HEADER,
            UPLOAD,
            *TOLD_SLOTS,
        ),
        body=any_body("The model's result: any bytes, or none."),
        responses={
            200: response("The result is stored.", schema(TaskView), TASK, headers=TASK_HEADERS),
            400: invalid("X-Task-Attempt", "a number is expected"),
            404: common("NoSuchTask"),
            409: common("Conflict"),
        },
    ),
    Operation(
        "GetTaskResult",
        "GET",
        "/v1/tasks/{id}/result",
        RESULTS,
        "A task's result",
        description="What the model service stored, also while the task still runs. One that was uploaded and is "
        "larger than `MaxBodyBytes` is answered with where it can be read, as with `link`.",
        parameters=(TASK_ID_IN_PATH, LINK, RANGE, IF_RANGE, IF_NONE_MATCH),
        responses={
            200: result("The result, byte for byte with its content type."),
            206: result("The part of the result that `Range` names.", "Content-Range"),
            303: LINKED,
            304: response("The result still has the ETag in `If-None-Match`."),
            404: NO_RESULT,
            416: OUT_OF_RANGE,
            501: NO_SAS,
        },
    ),
    Operation(
        "GetTaskResult",
        "HEAD",
        "/v1/tasks/{id}/result",
        RESULTS,
        "A task's result, without its bytes",
        description="What GET answers, without the bytes.",
        operation_id="HeadTaskResult",
        parameters=(TASK_ID_IN_PATH, LINK, IF_NONE_MATCH),
        responses={
            200: without_content(result("There is one, with this `Content-Length`.")),
            303: LINKED,
            304: response("The result still has the ETag in `If-None-Match`."),
            404: without_content(NO_RESULT),
            501: NO_SAS,
        },
    ),
    Operation(
        "GetTaskBody",
        "GET",
        "/v1/tasks/{id}/body",
        RESULTS,
        "A task's body",
        description="For callers: what the task was submitted with; in a pipeline, the body of its present step. Not "
        "for model services, which get it with the dispatch.",
        parameters=(TASK_ID_IN_PATH, LINK, RANGE, IF_RANGE, IF_NONE_MATCH),
        responses={
            200: result("The body, byte for byte with its content type."),
            206: result("The part of the body that `Range` names.", "Content-Range"),
            303: LINKED,
            304: response("The body still has the ETag in `If-None-Match`."),
            404: NO_BODY,
            416: OUT_OF_RANGE,
            501: NO_SAS,
        },
    ),
    Operation(
        "GetTaskBody",
        "HEAD",
        "/v1/tasks/{id}/body",
        RESULTS,
        "A task's body, without its bytes",
        description="What GET answers, without the bytes.",
        operation_id="HeadTaskBody",
        parameters=(TASK_ID_IN_PATH, LINK, IF_NONE_MATCH),
        responses={
            200: without_content(result("There is one, with this `Content-Length`.")),
            303: LINKED,
            304: response("The body still has the ETag in `If-None-Match`."),
            404: without_content(NO_BODY),
            501: NO_SAS,
        },
    ),
    Operation(
        "CreateUpload",
        "POST",
        "/v1/uploads",
        RESULTS,
        "Upload a large body or result",
        description="The client writes it to the URL of the answer, as a block blob with the declared content type "
        "and encoding, and then hands it in: `X-Upload` with a submit, or with the result of a task. What it writes "
        "afterwards changes nothing.",
        parameters=(
            {
                **ATTEMPT_HEADER,
                "description": "Of a result: the attempt whose result it is to be, as in the dispatch.",
            },
        ),
        body={
            "required": True,
            "content": {
                "application/json": {
                    "schema": schema(UploadRequest),
                    "example": {"Size": 2_147_483_648, "ContentType": "image/tiff"},
                }
            },
        },
        responses={
            201: response(
                "Where to write it.",
                schema(UploadView),
                {
                    "UploadId": ID,
                    "Url": f"https://account.blob.core.windows.net/task-backbone/u-{ID}?sp=cw&sig=…",
                    "ExpiresAt": "2026-11-23T10:12:44.000000Z",
                },
            ),
            400: invalid("/Size", "it is missing"),
            404: common("NoSuchTask"),
            409: common("Conflict"),
            501: NO_SAS,
        },
    ),
    Operation(
        "PutCheckpoint",
        "PUT",
        "/v1/tasks/{id}/checkpoint",
        RESULTS,
        "Keep what the next attempt may go on from",
        description="For model services. A later checkpoint replaces it. It outlasts the attempt, and is gone once "
        "the task has ended or gone on to a pipeline's next step. It counts as an update.",
        parameters=(TASK_ID_IN_PATH, ATTEMPT_HEADER, CONTENT_ENCODING, *TOLD_SLOTS),
        body=any_body("Any bytes."),
        responses={
            200: response("The checkpoint is stored.", schema(TaskView), TASK, headers=TASK_HEADERS),
            400: invalid("X-Task-Attempt", "a number is expected"),
            404: common("NoSuchTask"),
            409: common("Conflict"),
        },
    ),
    Operation(
        "GetCheckpoint",
        "GET",
        "/v1/tasks/{id}/checkpoint",
        RESULTS,
        "A task's checkpoint",
        description="What an earlier attempt has stored, or this one.",
        parameters=(TASK_ID_IN_PATH, RANGE, IF_RANGE, IF_NONE_MATCH),
        responses={
            200: result("The checkpoint, byte for byte with its content type."),
            206: result("The part of the checkpoint that `Range` names.", "Content-Range"),
            304: response("The checkpoint still has the ETag in `If-None-Match`."),
            404: NO_CHECKPOINT,
            416: OUT_OF_RANGE,
        },
    ),
    Operation(
        "GetCheckpoint",
        "HEAD",
        "/v1/tasks/{id}/checkpoint",
        RESULTS,
        "A task's checkpoint, without its bytes",
        description="What GET answers, without the bytes.",
        operation_id="HeadCheckpoint",
        parameters=(TASK_ID_IN_PATH, IF_NONE_MATCH),
        responses={
            200: without_content(result("There is one, with this `Content-Length`.")),
            304: response("The checkpoint still has the ETag in `If-None-Match`."),
            404: without_content(NO_CHECKPOINT),
        },
    ),
    Operation(
        "QueueDepths",
        "GET",
        "/v1/queues",
        NUMBERS,
        "All queues",
        description="The queues of all paths that have tasks, in the order of their paths. With `all`, also idle "
        "ones: those that have settings, and the endpoints and pipelines that are registered by their names.",
        operation_id="AllQueueDepths",
        parameters=(
            parameter("query", "all", "Idle ones too.", {"type": "boolean"}, True),
            parameter(
                "query",
                "limit",
                f"How many queues a page has at most; {DEFAULT_LIMIT} if not given.",
                {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT},
                20,
            ),
            parameter("query", "cursor", "`NextCursor` of the former page.", TEXT, f"/{PATH}"),
            IF_NONE_MATCH,
        ),
        responses={
            200: response("A page.", schema(QueueDepthList), {"Queues": [QUEUE], "NextCursor": f"/{PATH}"})
            | {"headers": LIST_ETAG},
            304: UNCHANGED,
            400: invalid("limit", "a number from 1 to 200 is expected"),
        },
    ),
    Operation(
        "QueueDepths",
        "GET",
        "/v1/queues/{path}",
        NUMBERS,
        "One queue",
        description="All numbers are 0 for a registered path without tasks, so that an autoscaler can read it.",
        parameters=(QUEUE_PATH, IF_NONE_MATCH),
        responses={
            200: response("How many tasks are in which state.", schema(QueueDepth), QUEUE) | {"headers": LIST_ETAG},
            304: UNCHANGED,
            404: UNKNOWN_ENDPOINT,
        },
    ),
    Operation(
        "GetSeries",
        "GET",
        "/v1/series",
        NUMBERS,
        "What happened at endpoints, by time",
        description="With `path`, of one endpoint; without, of all, page by page in the order of their paths. Kept "
        "are minutes for 6 hours, ten minutes for 7 days, and hours for 90 days. Each list has a number for each of "
        "the `Times`; null: it is not known. A percentile is right within its bin, and each bin reaches twice as far "
        "as the one before. Endpoints that have not been used for long are added up as `other` if there are many.",
        parameters=(
            parameter("query", "path", "The endpoint.", TEXT, f"/{PATH}"),
            parameter("query", "from", "An hour ago if not given.", MOMENT, "2026-11-22T12:00:00Z"),
            parameter("query", "to", "Now if not given, or if it is later.", MOMENT, "2026-11-22T12:02:00Z"),
            parameter(
                "query",
                "step",
                "How many seconds a step is of: a multiple of the span that is kept back to `from`, which it is if "
                "not given.",
                {"type": "integer", "minimum": 60},
                60,
            ),
            parameter(
                "query",
                "limit",
                f"How many endpoints a page has at most; {DEFAULT_LIMIT} if not given. All of them together have at "
                f"most {MOST_NUMBERS:,} steps.",
                {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT},
                20,
            ),
            parameter("query", "cursor", "`NextCursor` of the former page.", TEXT, f"/{PATH}"),
            IF_NONE_MATCH,
        ),
        responses={
            200: response("A page.", schema(SeriesList), {"Series": [SERIES], "NextCursor": None})
            | {"headers": LIST_ETAG},
            304: UNCHANGED,
            400: invalid("from", TIME_EXPECTED),
            404: UNKNOWN_ENDPOINT,
        },
    ),
    Operation(
        "GetMetrics",
        "GET",
        "/v1/metrics",
        NUMBERS,
        "What Prometheus reads",
        description="The state of all endpoints, and what was counted there, in Prometheus' text format 0.0.4. All "
        "of it comes from Redis: each instance of the app answers the same. A counter begins again at 0 for an "
        "endpoint that was not used for ninety days.",
        responses={
            200: response("All metrics.", TEXT, METRICS, media_type="text/plain"),
        },
    ),
    Operation(
        "ConfigureQueue",
        "PATCH",
        "/v1/queues/{path}",
        NUMBERS,
        "Pause, drain or limit a queue",
        description="Settings that the body leaves out stay as they are. The app dispatches at once what the "
        "change allows. A model service keeps the tasks that it has. The app answers 404 if all tasks go to paths "
        "below this one, and names these.",
        parameters=(QUEUE_PATH,),
        body={
            "required": True,
            "content": {"application/json": {"schema": schema(QueueSettings), "example": {"Limit": 8}}},
        },
        responses={
            200: response("The queue, with its new settings.", schema(QueueDepth), LIMITED),
            400: invalid("/Limit", "at least 1 is expected"),
            404: UNKNOWN_ENDPOINT,
            429: TOO_MANY_ENDPOINTS,
        },
    ),
    Operation(
        "ListRequests",
        "GET",
        "/v1/requests",
        NUMBERS,
        "Requests in flight at the model services",
        description="All counters that model services report to, in the order of their clusters and paths.",
        parameters=(
            parameter(
                "query",
                "limit",
                f"How many counters a page has at most; {DEFAULT_LIMIT} if not given. It may have fewer.",
                {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT},
                20,
            ),
            parameter("query", "cursor", "`NextCursor` of the former page.", TEXT, f"aks /{PATH}"),
            IF_NONE_MATCH,
        ),
        responses={
            200: response(
                "A page.", schema(RequestCounterList), {"Counters": [COUNTER], "NextCursor": f"aks /{PATH}"}
            )
            | {"headers": LIST_ETAG},
            304: UNCHANGED,
            400: invalid("cursor", "the NextCursor of a former page is expected"),
        },
    ),
    Operation(
        "Bulk",
        "POST",
        "/v1/bulk",
        OPERATORS,
        "Cancel or replay all tasks that a filter finds",
        description="For operators. Each call takes the next piece, of `Limit` tasks at most: call again with the "
        "`NextCursor` as `Cursor` until it is null. Nothing else has to be remembered, and after a failure or an "
        "answer that was lost, the same call may be repeated: one `OperationId` replays no task twice.",
        body={
            "required": True,
            "content": {
                "application/json": {
                    "schema": schema(BulkRequest),
                    "example": {
                        "Action": "replay",
                        "Path": f"/{PATH}",
                        "Q": "out of memory",
                        "CreatedBefore": TASK["Timestamp"],
                        "Limit": 500,
                        "OperationId": OPERATION,
                    },
                }
            },
        },
        responses={
            200: response(
                "What this call has done.",
                schema(BulkAnswer),
                {
                    "Matched": 500,
                    "Done": 499,
                    "Refused": [{"TaskId": ID, "Why": "bodiless"}],
                    "NextCursor": f"1a2033330a9-{ID}",
                },
            ),
            400: invalid("/OperationId", "it is missing"),
        },
    ),
    Operation(
        "GetCallback",
        "GET",
        "/v1/callbacks/{name}",
        OPERATORS,
        "How a destination of callbacks stands",
        description="An owner is told of its own destinations only.",
        parameters=(DESTINATION,),
        responses={
            200: response(
                "The destination.",
                schema(CallbackView),
                {
                    "Name": "billing",
                    "Events": ["completed", "failed", "cancelled"],
                    "Owner": None,
                    "Waiting": 12,
                    "GivenUp": 0,
                    "FailingSince": "2026-11-22T10:02:11.480000Z",
                    "LastAnswer": "503",
                    "LastTriedAt": TASK["Timestamp"],
                },
            ),
            404: UNKNOWN_DESTINATION,
        },
    ),
    Operation(
        "ResendCallbacks",
        "POST",
        "/v1/callbacks/{name}/resend",
        OPERATORS,
        "Tell a destination again",
        description="Of one task, how it has ended last; or of all tasks that are still kept and of which it was "
        "given up to tell it. A message that is sent again has the `webhook-id` that it had.",
        parameters=(DESTINATION,),
        body={
            "required": False,
            "content": {"application/json": {"schema": schema(ResendRequest), "example": {"TaskId": ID}}},
        },
        responses={
            200: response("The destination is told again.", schema(Resent), {"Resent": 1}),
            400: invalid("/Since", TIME_EXPECTED),
            404: UNKNOWN_DESTINATION | {"description": "There is no such destination, or no such task that has it."},
        },
    ),
    Operation(
        "GetAudit",
        "GET",
        "/v1/audit",
        OPERATORS,
        "What operators have done",
        description=f"The newest first; {ENTRIES_KEPT:,} are kept. An action is on record before it is taken. What "
        "owners do with their own tasks is no action of an operator.",
        parameters=(
            parameter(
                "query",
                "limit",
                f"How many entries a page has at most; {DEFAULT_LIMIT} if not given.",
                {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT},
                20,
            ),
            parameter("query", "cursor", "`NextCursor` of the former page.", TEXT, "1795428764123-0"),
            IF_NONE_MATCH,
        ),
        responses={
            200: response(
                "A page.",
                schema(AuditList),
                {
                    "Entries": [
                        {
                            "At": TASK["Timestamp"],
                            "Operator": OPERATOR,
                            "By": "gateway",
                            "Action": "bulk replay",
                            "Target": f"/{PATH}",
                            "Count": 499,
                            "OperationId": OPERATION,
                        }
                    ],
                    "NextCursor": "1795428764123-0",
                },
            )
            | {"headers": LIST_ETAG},
            304: UNCHANGED,
            400: invalid("limit", "a number from 1 to 200 is expected"),
        },
    ),
    Operation(
        "Health",
        "GET",
        "/v1/health",
        NUMBERS,
        "Check whether the app can work",
        description="For probes. It needs no key. The answer may be a second old.",
        anonymous=True,
        responses={
            200: response(
                "It can. `degraded`: it refuses large bodies, or new tasks start late, or a full Redis deletes some.",
                schema(Health),
                {
                    "Status": "ok",
                    "Dependencies": {
                        "Redis": "ok",
                        "BlobStorage": "ok",
                        "EventGrid": "ok",
                        "Backends": "ok",
                        "Eviction": "ok",
                    },
                    **HEALTH_LIMITS,
                },
            ),
            503: response(
                "It cannot: the task store does not answer.",
                schema(Health),
                {
                    "Status": "unavailable",
                    "Dependencies": {
                        "Redis": "unavailable",
                        "BlobStorage": "ok",
                        "EventGrid": "ok",
                        "Backends": "unknown",
                        "Eviction": "unknown",
                    },
                    **HEALTH_LIMITS,
                },
            ),
        },
    ),
    Operation(
        "Health",
        "HEAD",
        "/v1/health",
        NUMBERS,
        "Check whether the app can work, by the status alone",
        description="What GET answers, without the document.",
        operation_id="HeadHealth",
        anonymous=True,
        responses={200: response("It can."), 503: response("It cannot.")},
    ),
    Operation(
        "GetMe",
        "GET",
        "/v1/me",
        OPERATORS,
        "Who asks, and whom",
        description="What the app knows of the operator who asks. By the key of a function of the v1 API nobody is "
        "an operator: there are no roles then, and the key says what it opens.",
        responses={
            200: response(
                "Who it is.",
                schema(Me),
                {
                    "Name": "ada@example.org",
                    "Roles": ["read", "content"],
                    "By": "gateway",
                    "Version": "0.1.0",
                    "Environment": "Production",
                    "Now": "2026-11-22T10:12:44.123000Z",
                    "RetentionSeconds": 604_800.0,
                    "TraceUrl": "https://traces.example.org/task/{TaskId}",
                },
            ),
        },
    ),
    Operation(
        "CacheConnectorUpsert",
        "POST",
        "/CacheConnectorUpsert",
        LEGACY,
        "Create or update a task",
        description="With `PublishToGrid`, the task goes to the end of its endpoint's queue: a new task, or a "
        "pipeline's next step.",
        parameters=TOLD_SLOTS,
        body=legacy_body(
            TaskUpsert,
            {
                "Status": "created",
                "BackendStatus": "created",
                "Endpoint": ENDPOINT,
                "Body": '{"scene":"S2A_20261122"}',
                "PublishToGrid": True,
            },
        ),
        responses={
            200: response("The task as it is now.", schema(TaskView), CREATED | AT_ITS_URL),
            400: invalid("/Endpoint", "it lies within no registered backend"),
            409: conflict(COMPLETED | AT_ITS_URL),
            429: QUEUE_FULL,
            503: QUEUE_DRAINING,
        },
    ),
    Operation(
        "CacheConnectorGet",
        "GET",
        "/CacheConnectorGet",
        LEGACY,
        "A task",
        description="Answers 204 if there is none, as the legacy platform does.",
        parameters=(parameter("query", "taskId", "The task's id.", TEXT | {"minLength": 1}, ID, required=True),),
        responses={
            200: response("The task.", schema(TaskView), TASK | AT_ITS_URL),
            204: response("There is no such task."),
            400: invalid("taskId", "the query parameter is missing"),
        },
    ),
    Operation(
        "CurrentProcessingUpsert",
        "POST",
        "/CurrentProcessingUpsert",
        LEGACY,
        "Report requests that began or ended",
        description="Adds `IncrementBy` minus `DecrementBy` to the requests in flight. All elements of an array "
        "count, or none.",
        body=legacy_body(ProcessingReport, {"ApiPath": f"/{PATH}", "ServiceCluster": "west", "IncrementBy": 1}),
        responses={
            200: response("Counted."),
            400: invalid("/ApiPath", "it is missing"),
            429: TOO_MANY_REPORTERS,
        },
    ),
    Operation(
        "CurrentProcessingGet",
        "GET",
        "/CurrentProcessingGet",
        LEGACY,
        "Requests in flight",
        description="How many requests the reporters have in flight at an endpoint.",
        parameters=CLUSTER_PARAMETERS,
        responses=PROCESSING_RESPONSES,
    ),
    Operation(
        "CurrentProcessingGet",
        "POST",
        "/CurrentProcessingGet",
        LEGACY,
        "Requests in flight",
        description="How many requests the reporters have in flight at an endpoint.",
        operation_id="CurrentProcessingGetByPost",
        parameters=CLUSTER_PARAMETERS,
        responses=PROCESSING_RESPONSES,
    ),
    Operation(
        "BackendWebhook",
        "POST",
        "/BackendWebhook",
        EVENTS,
        "Deliver events",
        description="Takes the Event Grid schema, as described here, or CloudEvents (one, or a batch), which have in "
        "`type` what stands in `eventType` here. The app dispatches "
        "each event's task to its model service. It answers 200 once it has recorded the outcome, whatever the model "
        "service said. If it answers 400 or 503 because of an event, the answer lists the outcome of each event too.",
        parameters=(
            parameter(
                "header",
                "aeg-subscription-name",
                "The event subscription. With `EVENT_GRID_SUBSCRIPTION`, the app takes deliveries of that one only.",
                TEXT,
                "BACKEND-WEBHOOK",
            ),
        ),
        body={
            "required": True,
            "content": {
                "application/json": {
                    "schema": {
                        "type": "array",
                        "items": {"$ref": "#/components/schemas/EventGridEvent"},
                        "minItems": 1,
                        "maxItems": MAX_EVENTS,
                    },
                    "example": [{"eventType": DISPATCH_EVENT, "data": {"TaskId": ID, "Attempt": 1}}],
                },
            },
        },
        responses={
            200: response(
                "The outcome of each event, or the answer to Event Grid's handshake.",
                {
                    "type": "object",
                    "properties": {
                        "results": {
                            "type": "array",
                            "items": TEXT | {"enum": [outcome.value for outcome in Dispatched]},
                        },
                        "validationResponse": TEXT | {"description": "To the handshake only."},
                    },
                },
                {"results": ["accepted"]},
            ),
            400: problem(
                HTTPStatus.BAD_REQUEST,
                "invalid-event",
                "An event cannot be handled.",
                "See errors.",
                errors=[{"pointer": "/0", "detail": "the event type is unknown"}],
            ),
            403: problem(
                HTTPStatus.FORBIDDEN,
                "wrong-subscription",
                "The delivery is another subscription's.",
                "The header aeg-subscription-name does not name the subscription that this app expects.",
            ),
        },
    ),
    Operation(
        "BackendWebhook",
        "OPTIONS",
        "/BackendWebhook",
        EVENTS,
        "Answer the CloudEvents handshake",
        description="Event Grid asks so whether it may deliver CloudEvents here.",
        operation_id="BackendWebhookHandshake",
        parameters=(
            parameter(
                "header",
                "WebHook-Request-Origin",
                "The origin that asks for permission to deliver.",
                TEXT | {"minLength": 1},
                "eventgrid.azure.net",
                required=True,
            ),
        ),
        responses={
            200: response("The origin may deliver.", headers=("WebHook-Allowed-Origin", "WebHook-Allowed-Rate")),
            400: invalid("WebHook-Request-Origin", "the header is missing"),
        },
    ),
]

DISPATCH_DATA: Json = {
    "type": "object",
    "properties": {
        "TaskId": TASK_ID,
        "Attempt": {"type": "integer", "minimum": 1, "maximum": MAX_ATTEMPT},
        "traceparent": {"description": "W3C trace context. The app ignores any other value."},
    },
    "required": ["TaskId", "Attempt"],
}
VALIDATION_DATA: Json = {
    "type": "object",
    "properties": {"validationCode": TEXT | {"minLength": 1}},
    "required": ["validationCode"],
}
DISPATCH = "The app publishes this event itself, to have an attempt of a task dispatched."
LEGACY_TASK = (
    "The legacy platform's event. Its subject is the URL to call, its data the request body. The app creates the "
    "task if it does not know it."
)
LEGACY_MEMBERS: Json = {"id": TASK_ID, "subject": TEXT | {"minLength": 1}}
EVENT_SCHEMAS: Json = {
    "EventGridEvent": one_of(
        "eventType",
        {
            DISPATCH_EVENT: "DispatchEvent",
            LEGACY_EVENT: "LegacyTaskEvent",
            VALIDATION_EVENT: "SubscriptionValidationEvent",
        },
    ),
    "DispatchEvent": event(DISPATCH, DISPATCH_EVENT, DISPATCH_DATA),
    "LegacyTaskEvent": event(LEGACY_TASK, LEGACY_EVENT, {}, **LEGACY_MEMBERS),
    "SubscriptionValidationEvent": event(
        "Event Grid's handshake. It comes alone.", VALIDATION_EVENT, VALIDATION_DATA
    ),
}


class _Schemas(GenerateJsonSchema):
    """Leaves out titles of members: their names are enough."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def generate() -> str:
    """The OpenAPI document of the app.

    Raises:
        DocumentationError: the documented operations are not the app's.
    """
    prefix = json.loads((ROOT / "host.json").read_text())["extensions"]["http"]["routePrefix"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    _check_complete()
    paths: Json = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method.lower()] = operation.document
    document: Json = {
        "openapi": "3.1.0",
        "info": {
            "title": "Task Backbone",
            "version": project["version"],
            "summary": project["description"],
            "description": "Errors are problem documents (RFC 9457). Times are ISO 8601 in UTC. The gateway may name "
            "the caller with `X-Task-Owner`, together with its `X-Gateway-Key`. The request then sees only that "
            "owner's tasks. From anybody else, the app answers 403 to the header. It also "
            "does so if an owner asks for what belongs to all, such as queues. In the same way the gateway may name "
            "an operator with `X-Operator`, and its roles with `X-Operator-Roles` (`read`, `content`, `operate`): "
            "the app then answers 403 to what none of them may do.",
            "license": {"name": "MIT", "identifier": "MIT"},
            "contact": {"name": "Whoever runs this Task Backbone"},
        },
        "servers": [
            {
                "url": f"https://{{host}}/{prefix}",
                "variables": {
                    "host": {
                        "default": "task-backbone.azurewebsites.net",
                        "description": "The host name of the function app, or of a gateway before it.",
                    }
                },
            }
        ],
        "security": [{"key": []}, {"code": []}],
        "tags": [{"name": name, "description": description} for name, description in TAGS.items()],
        "paths": paths,
        "components": {
            "schemas": _schemas(),
            "responses": COMMON_RESPONSES,
            "securitySchemes": {
                "key": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "x-functions-key",
                    "description": "A function's or the host's key. It wins over the query parameter.",
                },
                "code": {"type": "apiKey", "in": "query", "name": "code", "description": "The same key."},
            },
        },
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def with_pipelines(document: str, backends: str) -> str:
    """The document with an operation for each pipeline in *backends*, the value of ``BACKENDS``: a submit to it.

    Raises:
        SettingsError: there is no such registry.
    """
    settings = Settings.from_env({**SETTINGS, "BACKENDS": backends})
    described: Json = json.loads(document)
    submit = described["paths"]["/v1/submit/{path}"]["post"]
    for name in BackendRegistry(settings).pipelines:
        described["paths"][f"/v1/submit{name}"] = {
            "post": {
                **submit,
                "operationId": "Submit" + "".join(part.capitalize() for part in re.findall(r"[A-Za-z0-9]+", name)),
                "summary": f"Submit a task to {name}",
                "parameters": [each for each in submit["parameters"] if each["in"] != "path"],
            }
        }
    return json.dumps(described, indent=2, ensure_ascii=False) + "\n"


def _schemas() -> Json:
    _, definitions = models_json_schema(
        [
            (TaskUpsert, "validation"),
            (ProcessingReport, "validation"),
            (TaskView, "serialization"),
            (TaskHistory, "serialization"),
            (TaskList, "serialization"),
            (QueueDepth, "serialization"),
            (QueueDepthList, "serialization"),
            (Series, "serialization"),
            (SeriesList, "serialization"),
            (QueueSettings, "validation"),
            (RequestCounterList, "serialization"),
            (BulkRequest, "validation"),
            (BulkAnswer, "serialization"),
            (AuditList, "serialization"),
            (Heartbeat, "validation"),
            (Heartbeats, "validation"),
            (HeartbeatOutcomes, "serialization"),
            (UploadRequest, "validation"),
            (UploadView, "serialization"),
            (ScheduleRequest, "validation"),
            (ScheduleDetails, "serialization"),
            (ScheduleList, "serialization"),
            (TaskRelease, "validation"),
            (SubmitLine, "validation"),
            (LineOutcome, "serialization"),
            (WaitRequest, "validation"),
            (WaitAnswer, "serialization"),
            (NewBatchRequest, "validation"),
            (BatchView, "serialization"),
            (CallbackView, "serialization"),
            (ResendRequest, "validation"),
            (Resent, "serialization"),
            (BatchList, "serialization"),
            (Health, "serialization"),
            (Me, "serialization"),
            (ProblemDocument, "serialization"),
            (ConflictDocument, "serialization"),
        ],
        ref_template="#/components/schemas/{model}",
        schema_generator=_Schemas,
    )
    models: Json = definitions["$defs"]
    for model in models.values():
        for name, member in model.get("properties", {}).items():
            model["properties"][name] = plain(member, models)
    # They may be null, so they stand where they are used.
    for name in ("QueueOutage", "SettingsChange", "EndReason", "QueuePerOwner", "TaskCallback"):
        del models[name]
    for name in ("ProblemDocument", "ConflictDocument"):
        # What generators of Microsoft's give their exception as its message.
        models[name]["properties"]["detail"]["x-ms-primary-error-message"] = True
    return dict(sorted({**models, **EVENT_SCHEMAS}.items()))


def plain(member: Json, models: Json) -> Json:
    """A member's schema as the generators of clients understand it: with a list of types in place of alternatives,
    and without a default, for which some take the member for one that is always there."""
    member = {**member}
    if "items" in member:
        member["items"] = plain(member["items"], models)
    alternatives = member.pop("anyOf", ())
    for alternative in alternatives:
        if "$ref" in alternative:
            alternative = models[alternative["$ref"].rpartition("/")[2]]
        for word, value in alternative.items():
            if word == "type":
                member["type"] = [*member.get("type", ()), value]
            elif word != "description" and member.setdefault(word, value) != value:
                raise DocumentationError(f"alternatives that cannot be one schema: {alternatives}")
    if "enum" in member and "null" in member["type"]:
        member["enum"] = [*member["enum"], None]
    default = member.pop("default", None)
    if default:
        member["description"] = f"{member.get('description', '')} Default: {default:g}.".strip()
    return member


def _app() -> func.FunctionApp:
    app = func.FunctionApp(http_auth_level=func.AuthLevel.FUNCTION)
    services = ServicesByLoop(Settings.from_env(SETTINGS))
    for room in ROOMS:
        room.register(app, services)
    return app


def _check_complete() -> None:
    documented = {(operation.function, operation.method, operation.path) for operation in OPERATIONS}
    served: set[tuple[str, str, str]] = set()
    optional: set[tuple[str, str, str]] = set()
    for function in _app().get_functions():
        if not function.is_http_function() or str(function.get_function_name()) in OF_THE_CONSOLE:
            continue
        trigger: Any = function.get_trigger()
        name, path = str(function.get_function_name()), "/" + trigger.route.replace("{*", "{")
        for method in trigger.methods:
            served.add((name, method.value, path))
            if "{*" in trigger.route:
                optional.add((name, method.value, path.rpartition("/")[0]))
    if missing := served - documented:
        raise DocumentationError(f"functions without a documented operation: {sorted(missing)}")
    if superfluous := documented - served - optional:
        raise DocumentationError(f"documented operations without a function: {sorted(superfluous)}")


if __name__ == "__main__":
    if "--pipelines" in sys.argv[1:]:
        sys.stdout.write(with_pipelines(generate(), os.environ.get("BACKENDS", "")))
    else:
        TARGET.write_text(generate())
