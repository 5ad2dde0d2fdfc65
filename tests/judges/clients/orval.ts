import { cancelTask, getTask, getTaskResult, listTasks, queueDepths, submitTask } from "./generated/orval/client.js";
import { key, run } from "./scenario.js";

const options = { headers: { "x-functions-key": key } };

function refused(answer: { status: number }): never {
  throw new Error(`answered ${answer.status}`);
}

await run({
  async submit(path, body) {
    const answer = await submitTask(path, body, options);
    return answer.status === 202 ? answer.data : refused(answer);
  },
  async wait(id, wait) {
    const answer = await getTask(id, { wait }, options);
    return answer.status === 200 ? answer.data : refused(answer);
  },
  async result(id) {
    const answer = await getTaskResult(id, {}, options);
    return answer.status === 200 ? answer.data : refused(answer);
  },
  async list(path, status) {
    const answer = await listTasks({ path, status }, options);
    return answer.status === 200 ? answer.data.Tasks : refused(answer);
  },
  async queue(path) {
    const answer = await queueDepths(path, options);
    return answer.status === 200 ? answer.data : refused(answer);
  },
  async conflict(id) {
    const answer = await cancelTask(id, {}, options);
    return answer.status === 409 ? answer.data : refused(answer);
  },
  async unknownQueue(path) {
    const answer = await queueDepths(path, options);
    return answer.status === 404 ? answer.data : refused(answer);
  },
});
