/** The list of batches. */

import { useSignal } from "@preact/signals";
import { getJson, type Problem } from "./api";
import { zone } from "./clock";
import { count } from "./format";
import { type Polled, usePolled } from "./poll";
import { href } from "./router";
import type { Batch, BatchList } from "./shapes";
import { Exports, Head, Meter, Note, Said, Shown, StateMark, Table, Time, Trouble } from "./ui";

export function BatchesPage() {
  const polled = usePolled<BatchList>("batches", () => "batches?limit=50");
  const later = useSignal<BatchList[]>([]);
  const problem = useSignal<Problem | null>(null);
  const pages = polled.data.value ? [polled.data.value, ...later.value] : [];
  const batches = [...new Map(pages.flatMap((page) => page.Batches).map((batch) => [batch.TaskId, batch])).values()];
  const cursor = pages.at(-1)?.NextCursor;
  const further = async () => {
    problem.value = null;
    try {
      const page = await getJson<BatchList>(`batches?${new URLSearchParams({ limit: "50", cursor: cursor ?? "" })}`);
      later.value = [...later.value, page];
    } catch (error) {
      problem.value = error as Problem;
    }
  };
  return (
    <>
      <Head title="Batches" name="Batches" polled={polled as Polled<unknown>}>
        <Exports name="batches" rows={batches} columns={EXPORTED} />
      </Head>
      <Shown polled={polled}>
        {() => batches.length === 0 ? (
          <Note>The app keeps no batch. A batch makes many tasks one thing to wait for: <code>POST v1/batches</code>, or{" "}
            <code>taskbackbone submit</code> with a folder.</Note>
        ) : (
          <>
            <Table label="Batches" rows={batches} rowKey={(batch) => batch.TaskId} columns={[
              { id: "id", head: "Batch", cell: (batch) => (
                <a class="id" href={href(`tasks/${batch.TaskId}`)} title={batch.TaskId}>{batch.TaskId.slice(0, 8)}…</a>
              ) },
              { id: "name", head: "Name", cell: (batch) => (batch.Name ? <Said text={batch.Name} most={200} /> : "–") },
              { id: "state", head: "State", cell: (batch) => <StateMark state={batch.BackendStatus} /> },
              { id: "progress", head: "Ended", cell: (batch) => (
                <>
                  <Meter value={batch.Progress ?? 0} label={`${batch.Total - batch.Unfinished} of ${batch.Total}`} />{" "}
                  <span class="figure">{count(batch.Total - batch.Unfinished)} / {count(batch.Total)}</span>
                </>
              ) },
              { id: "failed", head: "Failed", isFigure: true, cell: (batch) => (
                <span class={batch.Failed ? "bad" : undefined}>{count(batch.Failed)}</span>
              ) },
              { id: "sealed", head: "Sealed", cell: (batch) => (batch.Sealed ? "yes" : "no") },
              { id: "created", head: `Begun, ${zone.value}`, isFigure: true, cell: (batch) => <Time at={batch.CreatedAt} /> },
            ]} />
            {problem.value && <Trouble problem={problem.value} />}
            {cursor && <p><button type="button" onClick={() => void further()}>Older batches</button></p>}
          </>
        )}
      </Shown>
    </>
  );
}

const EXPORTED = (["TaskId", "Name", "BackendStatus", "Status", "Total", "Completed", "Failed", "Cancelled",
  "Unfinished", "Sealed", "Then", "CreatedAt", "Timestamp"] as const).map((name) => ({
  name, value: (batch: Batch) => batch[name] ?? null,
}));
