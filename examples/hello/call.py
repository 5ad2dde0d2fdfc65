"""Submits a text and prints the result: the caller of the README."""

from taskbackbone import TaskClient

client = TaskClient()
task = client.submit("/v1/words/count", "to be or not to be", query={"least": 2})
print(task.result(timeout_s=60).json())
