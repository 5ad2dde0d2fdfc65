// Types only: this generator's client sends and reads bytes as JSON.
import type { ConflictDocument, QueueDepth, TaskView } from "./generated/swagger-typescript-api/client.js";
import type { Calls } from "./scenario.js";

type Assert<Given extends Wanted, Wanted> = [Given, Wanted];
export type Checked = [
  Assert<TaskView, Awaited<ReturnType<Calls["submit"]>>>,
  Assert<QueueDepth, Awaited<ReturnType<Calls["queue"]>>>,
  Assert<ConflictDocument, Awaited<ReturnType<Calls["conflict"]>>>,
];
