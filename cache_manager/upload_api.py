"""Uploads of the v1 API (contract B18): bodies and results that clients write to Blob Storage themselves."""

from __future__ import annotations

import azure.functions as func

from cache_manager import request_parsing as parse
from cache_manager.outcome_problems import problem_for, upload_problem
from cache_manager.owner import service_for
from cache_manager.task_service import TaskService
from cache_manager.upload_schemas import UploadRequest, UploadView
from cache_manager.uploads import Made, Uploads
from shared.http.functions import HttpFunctions, json_response
from shared.http.operators import Role
from shared.http.times import iso
from shared.services import Services, ServicesByLoop
from shared.tasks.uploads import Purpose, Upload


def register(app: func.FunctionApp, services: ServicesByLoop) -> None:
    functions = HttpFunctions(app, services)
    functions.add(
        "CreateUpload", create_upload, route="v1/uploads", methods=["POST"], takes_body=True, role=Role.OPERATE
    )


async def create_upload(req: func.HttpRequest, services: Services) -> func.HttpResponse:
    request = await UploadRequest.parse(req.get_body())
    attempt = parse.attempt(req) if request.task_id is None else parse.required_attempt(req)
    made = await Uploads(service_for(req, services)).create(request, attempt)
    if not isinstance(made, Made):
        raise problem_for(made)
    view = UploadView(upload_id=made.upload.id, url=made.url.url, expires_at=iso(made.url.expires_ms))
    return json_response(view.model_dump(by_alias=True), 201, {"Cache-Control": "no-store"})


async def handed_in(upload_id: str, service: TaskService, purpose: Purpose | None = None) -> Upload:
    """The upload that a request hands in in place of a body.

    Raises:
        Problem: 404 if there is no such upload, 409 if it is for something else.
    """
    found = await Uploads(service).find(upload_id, purpose)
    if not isinstance(found, Upload):
        raise upload_problem(found)
    return found
