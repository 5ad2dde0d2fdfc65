// BullMQ over ioredis; it keeps finished jobs, which is the default. It speaks the protocol of ../side.py; a producer
// also knows {"bulk": true}: addBulk, many tasks in one transaction.
"use strict";

const readline = require("node:readline");
const { Queue, Worker } = require("bullmq");

const SLOTS = 32;
// It fetches the next job when one ends, and none ahead. Its concurrency is therefore as large as our worker's number
// of tasks in flight; it works on SLOTS of them at a time.
const PREFETCH = 4;
const CONCURRENT_ENQUEUES = 128;
const [role, address, payload] = process.argv.slice(2);
const { hostname, port } = new URL(address);
const connection = { host: hostname, port: Number(port), maxRetriesPerRequest: null };
const nowNs = () => Number(process.hrtime.bigint());
const answer = (document) => process.stdout.write(JSON.stringify(document) + "\n");
const versionOf = (name) => require(`${__dirname}/node_modules/${name}/package.json`).version;
const ready = { ready: { bullmq: versionOf("bullmq"), ioredis: versionOf("ioredis"), node: process.versions.node } };
const orders = readline.createInterface({ input: process.stdin });

function giveUp(error) {
  console.error(error);
  process.exit(1);
}

async function produce() {
  const queue = new Queue("bench", { connection });
  await queue.waitUntilReady();
  const carryOut = async (order) => {
    const data = { payload, seconds: order.seconds };
    const beginNs = nowNs();
    const isOver = () => nowNs() - beginNs > order.limit_s * 1e9;
    let begun = 0;
    while (begun < order.tasks && !isOver()) {
      const batch = Math.min(CONCURRENT_ENQUEUES, order.tasks - begun);
      begun += batch;
      if (order.bulk) await queue.addBulk(Array.from({ length: batch }, () => ({ name: "perform", data })));
      else await Promise.all(Array.from({ length: batch }, () => queue.add("perform", data)));
    }
    answer({ count: begun, begin_ns: beginNs, end_ns: nowNs() });
  };
  orders.on("line", (line) => carryOut(JSON.parse(line)).catch(giveUp));
  orders.on("close", () => process.exit(0));
  answer(ready);
}

function limitTo(slots) {
  const waiting = [];
  let free = slots;
  return async (task) => {
    if (free > 0) free -= 1;
    else await new Promise((wake) => waiting.push(wake));
    try {
      return await task();
    } finally {
      if (waiting.length) waiting.shift()();
      else free += 1;
    }
  };
}

async function work() {
  const inSlot = limitTo(SLOTS);
  let count = 0, endNs = 0, expected = 0;
  const answerIfReached = () => {
    if (!expected || count < expected) return;
    expected = 0;
    answer({ count, end_ns: endNs });
  };
  orders.on("line", (line) => {
    const order = JSON.parse(line);
    if (order.reset) {
      count = 0;
      answer({ expecting: order.expect });
    }
    expected = order.expect;
    answerIfReached();
  });
  orders.on("close", () => process.exit(0));
  answer(ready);
  new Worker(
    "bench",
    (job) =>
      inSlot(async () => {
        const { seconds } = job.data;
        if (seconds) await new Promise((wake) => setTimeout(wake, seconds * 1000));
        count += 1;
        endNs = nowNs();
        answerIfReached();
        return "completed";
      }),
    { connection, concurrency: SLOTS * PREFETCH },
  );
}

(role === "producer" ? produce() : work()).catch(giveUp);
