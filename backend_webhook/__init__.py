"""Event Grid → backend: receives events and dispatches their tasks to the model services."""

from backend_webhook.functions import blueprint

blueprints = (blueprint,)
