"""Owns the task: the connector of the existing platform, the v1 task API, the reconciler."""

from cache_manager import cache_connector, health, reconciler, task_api

blueprints = (cache_connector.blueprint, task_api.blueprint, reconciler.blueprint, health.blueprint)
