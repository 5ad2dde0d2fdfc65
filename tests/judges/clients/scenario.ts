// What every generated client does: submit -> wait -> result -> list -> queue, and a conflict.
import assert from "node:assert/strict";

export interface Calls {
  submit(path: string, body: Blob): Promise<{ TaskId: string; Endpoint: string; ResultSize: number | null }>;
  wait(id: string, seconds: number): Promise<{ BackendStatus: string; ResultSize: number | null }>;
  result(id: string): Promise<Blob>;
  list(path: string, status: "completed"): Promise<{ TaskId: string }[]>;
  queue(path: string): Promise<{ Completed: number; Limit: number | null; Outage: { Cause: string } | null }>;
  /** Cancels a task that has ended, and gives the conflict. */
  conflict(id: string): Promise<{ status: number; detail: string; Task: { Status: string; TaskId: string } }>;
  /** The status and the detail of the answer for a queue that nobody knows. */
  unknownQueue(path: string): Promise<{ status: number; detail: string }>;
}

export const baseUrl = process.env["BACKBONE_URL"] ?? "";
export const key = process.env["BACKBONE_KEY"] ?? "";

export async function run(calls: Calls): Promise<void> {
  const path = process.env["BACKBONE_PATH"] ?? "";
  const bytes = Uint8Array.from({ length: 256 }, (_, value) => value);
  const submitted = await calls.submit(path, new Blob([bytes]));
  assert.equal(submitted.Endpoint, `/${path}`);
  assert.equal(submitted.ResultSize, null);

  let task = await calls.wait(submitted.TaskId, 20);
  for (let round = 0; round < 10 && task.BackendStatus !== "completed"; round++) {
    task = await calls.wait(submitted.TaskId, 20);
  }
  assert.equal(task.BackendStatus, "completed");
  assert.equal(task.ResultSize, bytes.length);

  const result = await calls.result(submitted.TaskId);
  assert.deepEqual(new Uint8Array(await result.arrayBuffer()), bytes);

  const listed = await calls.list(path, "completed");
  assert.deepEqual(listed.map((each) => each.TaskId), [submitted.TaskId]);

  const queue = await calls.queue(path);
  assert.deepEqual([queue.Completed, queue.Limit, queue.Outage], [1, null, null]);

  const conflict = await calls.conflict(submitted.TaskId);
  assert.deepEqual([conflict.status, conflict.Task.TaskId], [409, submitted.TaskId]);
  assert.notEqual(conflict.Task.Status, "");

  const unknown = await calls.unknownQueue("v1/unheard-of");
  assert.equal(unknown.status, 404);
  assert.match(unknown.detail, /no backend is registered/);
}

export function present<T>(value: T | undefined | null): T {
  assert.ok(value !== undefined && value !== null);
  return value;
}
