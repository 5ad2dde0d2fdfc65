"""Model services for the task backbone, and the callers of their tasks."""

from __future__ import annotations

__version__ = "0.1.0"
