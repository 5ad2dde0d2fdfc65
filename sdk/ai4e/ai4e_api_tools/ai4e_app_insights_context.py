"""``AI4ETelemetryContext`` of the AI for Earth images: what is known of the service and its machine."""

from __future__ import annotations

import locale
import platform
from types import SimpleNamespace
from typing import Dict

from ai4e_telemetry import service_properties

CONF_SERVICE_OWNER = "SERVICE_OWNER"
CONF_SERVICE_NAME = "SERVICE_NAME"
CONF_SERVICE_VERSION = "SERVICE_VERSION"
CONF_SERVICE_CLUSTER = "SERVICE_CLUSTER"
CONF_SERVICE_MODEL_NAME = "SERVICE_MODEL_NAME"
CONF_SERVICE_MODEL_FRAMEWORK = "SERVICE_MODEL_FRAMEWORK"
CONF_SERVICE_MODEL_FRAMEOWRK_VERSION = "SERVICE_MODEL_FRAMEOWRK_VERSION"
CONF_SERVICE_MODEL_VERSION = "SERVICE_MODEL_VERSION"
CONF_SERVICE_CONTAINER_VERSION = "SERVICE_CONTAINER_VERSION"
CONF_SERVICE_CONTAINER_NAME = "SERVICE_CONTAINER_NAME"


class AI4ETelemetryContext:
    """The properties that telemetry of this service has, each also as an attribute, such as ``service_name``."""

    def __init__(self) -> None:
        self.type = "Service"
        self.platform_node = platform.node()
        self.platform_os_version = platform.version()
        self.platform_locale = locale.getlocale()[0]
        self.platform_processor = platform.processor()
        self.platform_python_version = platform.python_version()
        self.device = SimpleNamespace(
            type="Other", id=self.platform_node, os_version=self.platform_os_version, locale=self.platform_locale
        )
        self.cloud = SimpleNamespace()
        self.application = SimpleNamespace()
        self.user = SimpleNamespace()
        self.session = SimpleNamespace()
        self.operation = SimpleNamespace()
        self.location = SimpleNamespace()
        self._properties = service_properties()
        for name, value in self._properties.items():
            setattr(self, name, value)

    @property
    def properties(self) -> Dict[str, str | None]:
        return self._properties
