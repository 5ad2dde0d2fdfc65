// What the page does with texts, times and bytes of others. tests/operator_console/test_build.py runs this.

import assert from "node:assert/strict";
import { test } from "node:test";
import { asText, pictureOf } from "../src/content";
import { csv } from "../src/export";
import { bytes, counted, duration, indented, isPath, isTaskId, percent, roughly, shellQuoted, visible } from "../src/format";
import { nextWaitMs, spend, waitMs } from "../src/pace";
import { alone } from "../src/chart";
import { failures, needsAttention, oldestSeconds, ownerWords, rateWords, serviceWords, settingWords } from "../src/queue_words";
import { href } from "../src/router";
import { attempts } from "../src/timeline";
import { linePath } from "../src/ui";

test("figures are written for people", () => {
  const written = [0, 0.0004, 0.85, 9.96, 59.6, 61, 3599.6, 7260, 90_000, null, Number.NaN].map(duration);
  assert.deepEqual(written, ["0 s", "1 ms", "850 ms", "10 s", "1 min 00 s", "1 min 01 s", "1 h 00 min", "2 h 01 min",
    "1 d 1 h", "–", "–"]);
  assert.deepEqual([0.004, 75, 600, 86_400, 604_800].map(roughly), ["4 ms", "75 s", "10 min", "24 h", "7 d"]);
  assert.deepEqual([1, 1023, 1536, 5 * 2 ** 30, null].map(bytes), ["1 byte", "1,023 bytes", "1.5 KiB", "5 GiB", "–"]);
  assert.deepEqual([percent(1, 3), percent(1, 10_000), percent(0, 5), percent(0, 0)], ["33.3 %", "< 0.1 %", "0 %", "–"]);
  assert.equal(counted(1, "child", "children"), "1 child");
});

test("every character of a stranger's text can be seen", () => {
  assert.equal(visible("a\u202eb\u0000c\u200b\r\n\td"), "a⟨U+202E⟩b⟨U+0000⟩c⟨U+200B⟩\n\td");
  assert.equal(visible("<b>héllo 日本 🎉</b>"), "<b>héllo 日本 🎉</b>");
});

test("numbers of JSON stay as they are written", () => {
  assert.equal(indented('{"a":12345678901234567890.50,"b":[],"c":{},"d":[1,{"e":"{,}\\""}]}'), [
    "{", '  "a": 12345678901234567890.50,', '  "b": [],', '  "c": {},', '  "d": [', "    1,", "    {",
    '      "e": "{,}\\""', "    }", "  ]", "}",
  ].join("\n"));
  assert.equal(indented("[[],[{}]]"), "[\n  [],\n  [\n    {}\n  ]\n]");
  // What is no JSON does no harm.
  assert.ok(indented('{"a: [}}}}]]]').length > 0);
});

test("paths and ids lead to nothing else", () => {
  for (const path of ["/v1/a", "/v1/caf%C3%A9", "/a.b/..c"]) assert.ok(isPath(path), path);
  for (const path of ["", "v1/a", "/v1/../tasks", "/./a", "/%2e%2E/a", "/a?b", "/a#b", "/a\\b", "/a b"]) {
    assert.ok(!isPath(path), path);
  }
  for (const id of ["..", ".", "", "a/b", "a?b", "x".repeat(129)]) assert.ok(!isTaskId(id), id);
  assert.ok(isTaskId("ea5e4ce7-de67-4f3a-94b0-3c324ddde932"));
});

test("commands are quoted for the shell", () => {
  assert.equal(shellQuoted("/v1/a-b.c"), "/v1/a-b.c");
  assert.equal(shellQuoted("a'; rm -rf $(x) `y`"), `'a'\\''; rm -rf $(x) \`y\`'`);
});

test("a spreadsheet finds no formula", () => {
  const rows = [{ a: "=cmd|calc", b: 'x "y", z\n' }, { a: "-1+1", b: -3 }, { a: null, b: true }];
  const columns = ["a", "b"].map((name) => ({ name, value: (row) => row[name] }));
  assert.equal(csv(columns, rows), `a,b\r\n'=cmd|calc,"x ""y"", z\n"\r\n'-1+1,-3\r\n,true\r\n`);
});

test("only bytes of a picture become a picture", () => {
  const png = new Uint8Array([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a, 0]);
  assert.equal(pictureOf(png)?.type, "image/png");
  const text = new TextEncoder();
  for (const content of ["<svg onload='alert(1)'/>", "<html>", "", "GIF", "%PDF-1.7"]) {
    assert.equal(pictureOf(text.encode(content)), null, content);
  }
  const large = new Uint8Array(5 * 1024 * 1024 + 1);
  large.set(png);
  assert.equal(pictureOf(large), null);
  assert.equal(asText(text.encode("héllo")), "héllo");
  assert.equal(asText(new Uint8Array([0xff, 0xfe])), null);
  assert.equal(asText(new Uint8Array([65, 0])), null);
});

test("polls wait longer while nothing changes, and for their turn", () => {
  let wait = nextWaitMs(0, true);
  const waits = Array.from({ length: 9 }, () => (wait = nextWaitMs(wait, false)));
  assert.equal(waits[0], 3000);
  assert.equal(waits.at(-1), 30_000);
  assert.equal(nextWaitMs(30_000, true), 2000);
  spend();
  assert.ok(waitMs() <= 2000);
  for (let index = 0; index < 100; index += 1) spend();
  assert.ok(waitMs() > 6000 && waitMs() <= 8000);
});

test("the state of a service is said in words", () => {
  const queue = {
    EndpointPath: "/a", Waiting: 0, InFlight: 0, Slots: 1, OldestWaitingSeconds: 0, Limit: null, Paused: false, Draining: false,
    Outage: null, Completed: 5, Failed: 5,
  };
  const backend = (State) => ({ ...queue, Backend: { State, Until: null, MeanSeconds: null } });
  assert.deepEqual(["up", "down", "full", "unregistered", "unknown"].map((state) => serviceWords(backend(state)).text),
    ["up", "down", "full", "not registered", "not heard of lately"]);
  assert.equal(serviceWords({ ...queue, Waiting: 3, InFlight: 1 }).text, "full");
  assert.equal(serviceWords({ ...backend("up"), Waiting: 3, InFlight: 1, Limit: 1 }).text, "up, at its limit");
  const since = new Date(Date.now() - 3_600_000).toISOString();
  assert.ok(oldestSeconds({ ...queue, OldestWaitingSince: since }) > 3500, "it grows though the answer stays the same");
  const by = { ...queue, Paused: true, SettingsChanged: { At: since, Operator: "ada\u202e" } };
  assert.equal(settingWords(by)[0].text, "paused, set by ada⟨U+202E⟩");
  assert.match(serviceWords({ ...queue, Outage: { Since: "2026-11-30T08:00:00Z", Cause: "x" } }).text, /^down since /);
  assert.equal(needsAttention(queue), null);
  assert.match(needsAttention({ ...queue, Paused: true, Waiting: 2 }) ?? "", /paused with 2/);
  assert.deepEqual(failures(queue, null), { failed: 5, ended: 10, of: "of the tasks that are kept" });
  const series = { Failed: [1, null], Completed: [null, 3] };
  assert.deepEqual(failures(queue, series), { failed: 1, ended: 4, of: "in the last hour" });
});

test("a timeline has one line for each attempt and step, and the open end grows", () => {
  const event = (second, State, Attempt, EndpointPath = "/a", Reason = "report") => ({
    Timestamp: new Date(second * 1000).toISOString(), State, Status: "", Attempt, Who: "client", EndpointPath, Reason,
  });
  const events = [event(0, "created", 1), event(5, "dispatched", 1), event(6, "created", 2, "/a", "requeue"),
    event(9, "dispatched", 2), event(10, "running", 2), event(20, "created", 3, "/b", "next-step"), event(21, "dispatched", 3, "/b")];
  const lines = attempts(events, 30_000);
  assert.deepEqual(lines.map((line) => [line.attempt, line.path, line.end?.Reason ?? null]),
    [[1, "/a", "requeue"], [2, "/a", "next-step"], [3, "/b", null]]);
  assert.deepEqual(lines[2].pieces.at(-1), { state: "dispatched", from: 21_000, to: 30_000, isOpen: true });
  const [ended] = attempts([event(0, "created", 1), event(1, "failed", 1)], 30_000);
  assert.deepEqual([ended.pieces.length, ended.end?.State], [1, "failed"]);
});

test("filters are in the address, and slashes stay readable", () => {
  assert.equal(href("tasks", { path: "/v1/a b&c", status: "failed", q: "" }), "#/tasks?path=/v1/a+b%26c&status=failed");
});

test("a line has gaps where nothing is known, and a point where one figure is alone", () => {
  assert.equal(linePath([1, 2, null, 3, null], (index) => index, (value) => value), "M0.0 1.0h0L1.0 2.0M3.0 3.0h0");
  assert.equal(linePath([null, null], (index) => index, (value) => value), "");
});

test("figures that stand alone in a chart are found, also at its ends", () => {
  assert.deepEqual(alone([1, null, 2, 3, null, 4, null, null, 5]), [0, 5, 8]);
  assert.deepEqual(alone([null, null]), []);
});

test("bounds of a queue are said in words", () => {
  assert.equal(rateWords("100/60s"), "100 in 60 s");
  assert.equal(ownerWords({ Waiting: 1000, InFlight: 2, Hard: false }), "at most 1,000 waiting, 2 in flight while others wait");
  assert.equal(ownerWords({ Waiting: null, InFlight: 2, Hard: true }), "at most 2 in flight");
});
