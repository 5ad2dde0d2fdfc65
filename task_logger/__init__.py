"""Queue depths, for people and autoscalers."""

from task_logger.functions import blueprint

blueprints = (blueprint,)
