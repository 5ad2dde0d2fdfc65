// Reads the queries in the file that is named, with Microsoft's own parser, and prints what it finds wrong as JSON:
// [{"name", "message", "at"}]. The file has {"schema": {table: {column: type}}, "queries": [{"name", "text"}]}.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import vm from "node:vm";

const find = createRequire(`${process.cwd()}/`).resolve;
for (const script of ["bridge.min.js", "Kusto.Language.Bridge.min.js"]) {
  vm.runInThisContext(readFileSync(find(`@kusto/language-service-next/${script}`), "utf8"), { filename: script });
}
const { Symbols, GlobalState, KustoCode } = globalThis.Kusto.Language;

const { schema, queries } = JSON.parse(readFileSync(process.argv[2], "utf8"));
const tables = Object.entries(schema).map(([name, columns]) => {
  const listed = Object.entries(columns).map(
    ([column, type]) => new Symbols.ColumnSymbol(column, Symbols.ScalarTypes.GetSymbol(type)),
  );
  return new Symbols.TableSymbol.$ctor4(name, listed);
});
const database = new Symbols.DatabaseSymbol.$ctor3("insights", null, tables, false);
const globals = GlobalState.Default.WithDatabase(database);

const found = [];
for (const { name, text } of queries) {
  const code = KustoCode.ParseAndAnalyze(text, globals);
  const diagnostics = globalThis.Bridge.toArray(code.GetDiagnostics());
  for (const each of diagnostics) {
    found.push({ name, message: each.Message, at: text.slice(each.Start, each.Start + each.Length) });
  }
}
process.stdout.write(JSON.stringify(found));
