// Builds the page: `node build.mjs [OUT]`. OUT is ../operator_console/dist if none is given; it is emptied first.
// The names of the files have their contents' hashes, so browsers may keep them for ever; index.html names them.

import { createHash } from "node:crypto";
import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
// What is installed may lie elsewhere: the test that rebuilds has it in a folder of its own.
const modules = process.env.CONSOLE_MODULES ?? join(here, "node_modules");
const installed = createRequire(join(modules, "here"));
const { build } = installed("esbuild");
const { minify } = installed("terser");
const out = resolve(process.argv[2] ?? join(here, "..", "operator_console", "dist"));

const bundled = await build({
  absWorkingDir: here,
  entryPoints: { console: "src/main.tsx", style: "src/style.css" },
  outdir: out,
  bundle: true,
  format: "esm",
  target: ["chrome109", "firefox115", "safari16.4"],
  jsx: "automatic",
  jsxImportSource: "preact",
  charset: "utf8",
  legalComments: "none",
  nodePaths: [modules],
  write: false,
});
const [script, style] = [".js", ".css"].map((end) => bundled.outputFiles.find((file) => file.path.endsWith(end)));
const { code } = await minify(script.text, {
  module: true,
  ecma: 2022,
  compress: { passes: 3, pure_getters: true },
  format: { comments: false },
});
const { outputFiles: [sheet] } = await build({
  stdin: { contents: style.text, loader: "css" }, minify: true, charset: "utf8", target: "safari16.4", write: false,
});

const names = {};
rmSync(out, { recursive: true, force: true });
mkdirSync(out, { recursive: true });
for (const [name, text] of [["console.js", code], ["style.css", sheet.text]]) {
  const hash = createHash("sha256").update(text).digest("hex").slice(0, 12);
  names[name] = name.replace(".", `-${hash}.`);
  writeFileSync(join(out, names[name]), text);
}
const index = readFileSync(join(here, "src", "index.html"), "utf8");
writeFileSync(join(out, "index.html"), index.replace(/\{\{(.+?)\}\}/g, (_, name) => names[name]));
