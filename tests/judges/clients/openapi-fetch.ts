import createClient from "openapi-fetch";
import type { paths } from "./generated/openapi-fetch/schema.js";
import { baseUrl, key, present, run } from "./scenario.js";

const client = createClient<paths>({ baseUrl, headers: { "x-functions-key": key } });

await run({
  async submit(path, body) {
    const { data } = await client.POST("/v1/submit/{path}", {
      params: { path: { path } },
      // The document can only say that bytes are binary; this generator has texts for them.
      body: body as unknown as string,
      bodySerializer: (bytes) => bytes,
      headers: { "Content-Type": "application/octet-stream" },
    });
    return present(data);
  },
  async wait(id, wait) {
    return present((await client.GET("/v1/tasks/{id}", { params: { path: { id }, query: { wait } } })).data);
  },
  async result(id) {
    const { data } = await client.GET("/v1/tasks/{id}/result", { params: { path: { id } }, parseAs: "blob" });
    return present(data);
  },
  async list(path, status) {
    return present((await client.GET("/v1/tasks", { params: { query: { path, status } } })).data).Tasks;
  },
  async queue(path) {
    return present((await client.GET("/v1/queues/{path}", { params: { path: { path } } })).data);
  },
  async conflict(id) {
    const { error } = await client.DELETE("/v1/tasks/{id}", { params: { path: { id } } });
    if (!error || !("Task" in error)) throw new Error("no conflict");
    return error;
  },
  async unknownQueue(path) {
    return present((await client.GET("/v1/queues/{path}", { params: { path: { path } } })).error);
  },
});
