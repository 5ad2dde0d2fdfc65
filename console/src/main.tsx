/** The page: who is signed in, where they are, and what is the same everywhere. */

import { render } from "preact";
import { useEffect } from "preact/hooks";
import { may, session, signIn, signOut, takeKeyFromAddress } from "./api";
import { AuditPage } from "./audit";
import { BatchesPage } from "./batches";
import { setUtc, tick, utc, zone } from "./clock";
import { visible } from "./format";
import { Help, isHelpShown, onKey } from "./keyboard";
import { live } from "./poll";
import { QueuePage } from "./queue";
import { QueuesPage } from "./queues";
import { followAddress, href, route } from "./router";
import { SchedulesPage } from "./schedules";
import { SignIn } from "./signin";
import { TaskPage } from "./task";
import { TasksPage } from "./tasks";
import { TryPage } from "./try";
import { Note } from "./ui";

const NAMES: Record<string, string> = {
  queues: "Queues", tasks: "Tasks", batches: "Batches", schedules: "Schedules", try: "Try", audit: "Audit",
};

function App() {
  if (session.value === null) return <SignIn />;
  return (
    <>
      <a class="skip" href="#content" onClick={(event) => {
        event.preventDefault();
        document.getElementById("content")?.focus();
      }}>To the content</a>
      <Bar />
      <main id="content" tabIndex={-1}><Page /></main>
      <Help />
    </>
  );
}

function Page() {
  const { page, rest } = route.value;
  useEffect(() => window.scrollTo(0, 0), [page, rest]);
  if (page === "queues") return <QueuesPage />;
  if (page === "queue") return <QueuePage />;
  if (page === "tasks") return rest ? <TaskPage /> : <TasksPage />;
  if (page === "batches") return <BatchesPage />;
  if (page === "schedules") return <SchedulesPage />;
  if (page === "try") return <TryPage />;
  if (page === "audit") return <AuditPage />;
  return <Note>There is no page “{visible(page)}”. <a href={href("queues")}>Queues</a></Note>;
}

function Bar() {
  const { page, rest } = route.value;
  const present = page === "queue" ? "queues" : page;
  return (
    <header class="bar">
      <span class="brand">Task Backbone</span>
      <nav aria-label="Pages">
        {Object.entries(NAMES).map(([id, name]) => (
          <a key={id} href={href(id)} aria-current={id === present ? (rest ? "true" : "page") : undefined}>{name}</a>
        ))}
      </nav>
      <div class="side">
        <Who />
        <button type="button" aria-pressed={utc.value} onClick={() => setUtc(!utc.value)}
          title="All times are in this zone; click for the other one">
          {utc.value ? "UTC" : zone.value}
        </button>
        <button type="button" aria-pressed={!live.value} onClick={() => (live.value = !live.value)}>
          {live.value ? "Pause updates" : "Updates are paused"}
        </button>
        <button type="button" aria-label="Keys" title="Keys" onClick={() => (isHelpShown.value = true)}>?</button>
        {session.value?.key && <button type="button" onClick={signOut}>Sign out</button>}
      </div>
    </header>
  );
}

function Who() {
  const current = session.value;
  if (current === null) return null;
  const { Name, By, Environment, Version } = current.me;
  const role = may("operate") ? "may operate" : may("content") ? "may see contents" : "may read";
  const name = Name ? visible(Name) : By === "key" ? "by a key" : "";
  const by = By === "key" ? "By a key of the app, which names nobody" : `Signed in by ${By}`;
  return (
    <span class="who" title={`${by}${Version ? `; version ${Version}` : ""}`}>
      {Environment && <strong>{visible(Environment)} </strong>}
      {[name, role].filter(Boolean).join(" · ")}
    </span>
  );
}

async function begin(): Promise<void> {
  addEventListener("hashchange", () => {
    // A link with a key may be opened where the page is open already.
    if (takeKeyFromAddress()) void signIn();
    followAddress();
  });
  addEventListener("keydown", onKey);
  setInterval(() => document.hidden || tick(), 1000);
  document.addEventListener("visibilitychange", () => document.hidden || tick());
  takeKeyFromAddress();
  followAddress();
  const place = document.getElementById("app");
  if (place === null) return;
  place.replaceChildren();
  render(<App />, place);
  await signIn();
}

void begin();
