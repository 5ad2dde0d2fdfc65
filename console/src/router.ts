/** Where the operator is: hash routes, with the filters in them, so that Back works and an address can be sent. */

import { computed, signal } from "@preact/signals";

const hash = signal(location.hash);

export function followAddress(): void {
  hash.value = location.hash;
}

export interface Route {
  /** `queues`, `tasks` and so on. */
  page: string;
  /** What follows it, with a slash at its beginning; empty if nothing does. */
  rest: string;
  query: URLSearchParams;
}

export const route = computed<Route>(() => {
  const [path = "", query = ""] = split(hash.value.replace(/^#\/?/, ""));
  const cut = path.indexOf("/");
  const page = cut < 0 ? path : path.slice(0, cut);
  return { page: page || "queues", rest: cut < 0 ? "" : path.slice(cut), query: new URLSearchParams(query) };
});

function split(text: string): [string, string] {
  const cut = text.indexOf("?");
  return cut < 0 ? [text, ""] : [text.slice(0, cut), text.slice(cut + 1)];
}

export function href(page: string, query: Record<string, string | null | undefined> = {}): string {
  const given = Object.entries(query).filter((pair): pair is [string, string] => Boolean(pair[1]));
  // Slashes stay readable.
  const text = new URLSearchParams(given).toString().replaceAll("%2F", "/");
  return `#/${page}${text ? `?${text}` : ""}`;
}

/** Change some of the filters. With *replace*, Back does not return to the present ones: while somebody types. */
export function setQuery(changes: Record<string, string | null>, replace = false): void {
  const { page, rest, query } = route.peek();
  const next = Object.fromEntries(query);
  for (const [name, value] of Object.entries(changes)) {
    if (value) next[name] = value;
    else delete next[name];
  }
  go(href(page + rest, next), replace);
}

export function go(to: string, replace = false): void {
  if (to === location.hash) return;
  if (replace) {
    history.replaceState(null, "", to);
    followAddress();
  } else location.hash = to;
}
