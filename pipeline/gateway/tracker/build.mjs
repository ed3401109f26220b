// Builds the tracker into ../static (or into --outdir=DIR) and prints each file's size.
// The output depends on the sources and on the locked esbuild alone, so the committed files can be checked.
import { readFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { gzipSync } from "node:zlib";
import { build } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const { version } = JSON.parse(readFileSync(join(here, "package.json"), "utf8"));
const { outdir } = parseArgs({ options: { outdir: { type: "string", default: join(here, "../static") } } }).values;

const { outputFiles } = await build({
  absWorkingDir: here,
  entryPoints: { "tracker.min": "src/main.ts", "tracker.page.min": "src/main.page.ts" },
  outdir: resolve(outdir),
  bundle: true,
  minify: true,
  format: "iife",
  target: "es2020",
  charset: "utf8",
  // Modules are strict without saying so.
  tsconfigRaw: {},
  define: { VERSION: JSON.stringify(version) },
  metafile: true,
  write: true,
}).then(async (result) => ({
  outputFiles: Object.keys(result.metafile.outputs).map((path) => resolve(here, path)),
}));
for (const path of outputFiles) {
  const bytes = readFileSync(path);
  console.log(`${path}: ${bytes.length} bytes, ${gzipSync(bytes, { level: 9 }).length} gzipped`);
}
