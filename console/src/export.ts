/** Tables as files. */

export interface Column<T> {
  name: string;
  value: (row: T) => string | number | boolean | null | undefined;
}

// A spreadsheet takes a cell that begins so for a formula; what stands there comes from strangers.
const FORMULA = /^[=+\-@\t\r]/;

export function csv<T>(columns: readonly Column<T>[], rows: readonly T[]): string {
  const cell = (value: string | number | boolean | null | undefined): string => {
    if (value == null) return "";
    if (typeof value !== "string") return String(value);
    const safe = FORMULA.test(value) ? `'${value}` : value;
    return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
  };
  const lines = [columns.map((column) => cell(column.name))];
  for (const row of rows) lines.push(columns.map((column) => cell(column.value(row))));
  return `${lines.map((line) => line.join(",")).join("\r\n")}\r\n`;
}

/** Hand over a file. Its type is none that a browser would show, whatever is in it. */
export function download(name: string, content: BlobPart): void {
  const url = URL.createObjectURL(new Blob([content], { type: "application/octet-stream" }));
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

export function stamp(): string {
  return new Date().toISOString().slice(0, 19).replaceAll(":", "");
}
