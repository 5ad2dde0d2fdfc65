"""A development host: runs any Azure Functions Python v2 app, without `func`, through `azure-functions`' public API.

An app behaves here as it does in Azure. The host refuses at start what the real host or worker refuses. It is tied to
no app: as a process of its own it imports `function_app.py`; tests pass their app to `create_host`.
"""

from local.functions_host.clock import Clock, ManualClock, SystemClock
from local.functions_host.errors import HostError
from local.functions_host.host import FunctionsHost, Limits, create_host
from local.functions_host.keys import Keys

__all__ = ["Clock", "FunctionsHost", "HostError", "Keys", "Limits", "ManualClock", "SystemClock", "create_host"]
