import type { ConflictDocument, ProblemDocument } from "./generated/hey-api/index.js";
import { createClient } from "./generated/hey-api/client/index.js";
import { cancelTask, getTask, getTaskResult, listTasks, queueDepths, submitTask } from "./generated/hey-api/index.js";
import { baseUrl, key, present, run } from "./scenario.js";

const client = createClient({ baseUrl, auth: key });

await run({
  async submit(path, body) {
    return present((await submitTask({ client, path: { path }, body })).data);
  },
  async wait(id, wait) {
    return present((await getTask({ client, path: { id }, query: { wait } })).data);
  },
  async result(id) {
    return present((await getTaskResult({ client, path: { id }, parseAs: "blob" })).data);
  },
  async list(path, status) {
    return present((await listTasks({ client, query: { path, status } })).data).Tasks;
  },
  async queue(path) {
    return present((await queueDepths({ client, path: { path } })).data);
  },
  async conflict(id) {
    // An answer without a body, as that to a wrong key, makes the type of all errors unknown.
    return (await cancelTask({ client, path: { id } })).error as ConflictDocument;
  },
  async unknownQueue(path) {
    return (await queueDepths({ client, path: { path } })).error as ProblemDocument;
  },
});
