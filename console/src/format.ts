/** Text for people: numbers, durations, sizes, and what others wrote. */

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });

export const UNKNOWN = "–";

export function count(value: number | null | undefined): string {
  return value == null ? UNKNOWN : whole.format(value);
}

/** "1 task", "2 tasks". */
export function counted(value: number, one: string, many = `${one}s`): string {
  return `${whole.format(value)} ${value === 1 ? one : many}`;
}

export function percent(part: number, all: number): string {
  if (!all) return UNKNOWN;
  const share = (100 * part) / all;
  return share > 0 && share < 0.1 ? "< 0.1 %" : `${short.format(share)} %`;
}

export function bytes(value: number | null | undefined): string {
  if (value == null) return UNKNOWN;
  if (value < 1024) return counted(value, "byte");
  const units = ["KiB", "MiB", "GiB", "TiB"];
  let size = value / 1024;
  let unit = 0;
  while (size >= 1024 && unit < units.length - 1) {
    size /= 1024;
    unit += 1;
  }
  return `${short.format(size)} ${units[unit]}`;
}

/** A length of time, as two units at most: "850 ms", "12 s", "3 min 05 s", "2 h 10 min", "4 d 3 h". */
export function duration(seconds: number | null | undefined): string {
  if (seconds == null || !Number.isFinite(seconds)) return UNKNOWN;
  const s = Math.max(0, seconds);
  if (s === 0) return "0 s";
  if (s < 0.9995) return `${Math.max(1, Math.round(s * 1000))} ms`;
  if (s < 10) return `${short.format(s)} s`;
  if (s < 59.5) return `${Math.round(s)} s`;
  const pad = (value: number) => String(value).padStart(2, "0");
  const total = Math.round(s);
  if (total < 3600) return `${Math.floor(total / 60)} min ${pad(total % 60)} s`;
  if (total < 86400) return `${Math.floor(total / 3600)} h ${pad(Math.floor((total % 3600) / 60))} min`;
  return `${Math.floor(total / 86400)} d ${Math.floor((total % 86400) / 3600)} h`;
}

// Control characters, and those that turn the direction of what follows: they would let a text look like another one.
const UNSEEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;

/** A length of time in one unit, where there is little room. */
export function roughly(seconds: number): string {
  if (seconds < 1 && seconds > 0) return `${short.format(seconds * 1000)} ms`;
  if (seconds < 120) return `${short.format(seconds)} s`;
  if (seconds < 7200) return `${short.format(seconds / 60)} min`;
  return seconds < 172_800 ? `${short.format(seconds / 3600)} h` : `${short.format(seconds / 86400)} d`;
}

/** A text of others, in which every character can be seen. */
export function visible(text: string): string {
  return text.replace(UNSEEN, (character) => {
    if (character === "\r") return "";
    return `⟨U+${character.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`;
  });
}

/** JSON with line breaks. Its numbers stay as they are written: a parser would round the large ones. */
export function indented(json: string): string {
  let depth = 0;
  let out = "";
  for (const [token] of json.matchAll(/"(?:[^"\\]|\\.)*"|[{}[\],:]|[^\s"{}[\],:]+/g)) {
    const line = `\n${"  ".repeat(Math.max(0, depth))}`;
    if (token === "{" || token === "[") {
      depth += 1;
      out += `${token}\n${"  ".repeat(depth)}`;
    } else if (token === "}" || token === "]") {
      depth -= 1;
      const closed = `\n${"  ".repeat(Math.max(0, depth))}${token}`;
      out = /[{[]\s*$/.test(out.slice(-64 - 2 * depth)) ? out.trimEnd() + token : out + closed;
    } else if (token === ",") out += `,${line}`;
    else if (token === ":") out += ": ";
    else out += token;
  }
  return out;
}

export function shellQuoted(text: string): string {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`;
}

/** A random id, also where the page is served without TLS and `randomUUID` is missing. */
export function randomId(): string {
  const hex = Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0"));
  return hex.join("").replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}

const TASK_ID = /^(?!\.{1,2}$)[A-Za-z0-9_.-]{1,128}$/;

export function isTaskId(text: string): boolean {
  return TASK_ID.test(text);
}

/** Whether a text can be an endpoint's path. A browser would resolve dots in a URL, and call something else. */
export function isPath(text: string): boolean {
  return /^\/[^?#\\\s]+$/.test(text) && !text.split("/").some((part) => /^(\.|%2e){1,2}$/i.test(part));
}
