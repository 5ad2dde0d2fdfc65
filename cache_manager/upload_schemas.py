"""The JSON of uploads, as clients send and get it."""

from __future__ import annotations

import re
from typing import Annotated, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_pascal

from cache_manager.schemas import RequestModel
from shared.http.times import IsoTime
from shared.tasks.ids import TASK_ID_PATTERN
from shared.tasks.media import CODINGS_PATTERN, HEADER_PATTERN, MAX_HEADER_CHARS

_SHA256: Final = re.compile("^[0-9A-Fa-f]{64}$")


def _sha256(text: str) -> str:
    if not _SHA256.fullmatch(text):
        raise ValueError("64 hexadecimal digits are expected")
    return text


class UploadRequest(RequestModel):
    """What is to be uploaded. Names match in any case; null is the same as absent."""

    size: int = Field(ge=0)
    """In bytes."""
    content_type: Annotated[str, Field(pattern=HEADER_PATTERN)]
    content_encoding: Annotated[str, Field(max_length=MAX_HEADER_CHARS, pattern=f"^{CODINGS_PATTERN}$")] | None = None
    sha256: Annotated[str, AfterValidator(_sha256), Field(json_schema_extra={"pattern": _SHA256.pattern})] | None = (
        None
    )
    """In hexadecimal digits. Whoever reads the body or the result is told it."""
    task_id: Annotated[str, Field(pattern=TASK_ID_PATTERN)] | None = None
    """The task whose result it is to be. The request then names the attempt in ``X-Task-Attempt``."""

    @property
    def encoding(self) -> str:
        text = self.content_encoding or ""
        return "" if text.lower() == "identity" else text


class UploadView(BaseModel):
    """Where to write, and what to hand in afterwards."""

    model_config = ConfigDict(alias_generator=to_pascal, populate_by_name=True, use_attribute_docstrings=True)

    upload_id: str
    """For the header ``X-Upload``."""
    url: str
    """Of a block blob. Whoever has it can write to the blob, and do nothing else."""
    expires_at: IsoTime
    """Until when the URL is valid, and the upload can be handed in."""
