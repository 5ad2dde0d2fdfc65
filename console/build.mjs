// Builds the page: `node build.mjs [OUT]`. OUT is ../operator_console/dist if none is given; it is emptied first.
// The files are packed as they are sent. Their names have their contents' hashes, so browsers may keep them for ever;
// index.html names them.

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

// A seventh of uPlot: the page has straight lines only, and a legend of its own.
const unused = [
  [/^\s*\(paths\.(stepped|bars|spline)\s*=.*$/gm, 3, ""],
  [/^\s*uPlot\.join = join;$/gm, 1, ""],
  [/\bshowLegend = legend\.show;/g, 1, "showLegend = false;"],
];
const withoutUnused = {
  name: "without what is not used",
  setup: ({ onLoad }) => onLoad({ filter: /uPlot\.esm\.js$/ }, ({ path }) => {
    let contents = readFileSync(path, "utf8");
    for (const [pattern, times, instead] of unused) {
      if (contents.match(pattern)?.length !== times) throw new Error(`uPlot is written in another way: ${pattern}`);
      contents = contents.replace(pattern, instead);
    }
    return { contents };
  }),
};

const bundled = await build({
  absWorkingDir: here,
  entryPoints: { console: "src/main.tsx", style: "src/style.css" },
  outdir: out,
  bundle: true,
  format: "esm",
  target: ["chrome109", "firefox115", "safari16.4"],
  // Children as arguments take less room than children in an object.
  tsconfigRaw: { compilerOptions: { target: "ES2022", jsx: "react", jsxFactory: "h", jsxFragmentFactory: "Fragment" } },
  inject: ["jsx.mjs"],
  minifySyntax: true,
  charset: "utf8",
  legalComments: "none",
  nodePaths: [modules],
  plugins: [withoutUnused],
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

// As small as deflate can be, and the same bytes everywhere: zlib has neither.
const { gzipAsync } = installed("@gfx/zopfli");
const names = {};
rmSync(out, { recursive: true, force: true });
mkdirSync(out, { recursive: true });
const write = async (name, text) => writeFileSync(join(out, `${name}.gz`), await gzipAsync(Buffer.from(text), {}));
for (const [name, text] of [["console.js", code], ["style.css", sheet.text]]) {
  const hash = createHash("sha256").update(text).digest("hex").slice(0, 12);
  names[name] = name.replace(".", `-${hash}.`);
  await write(names[name], text);
}
const index = readFileSync(join(here, "src", "index.html"), "utf8");
await write("index.html", index.replace(/\{\{(.+?)\}\}/g, (_, name) => names[name]));
