// Builds the scripts of the tracker into ../static and prints their sizes; with --outdir=DIR into DIR, and with --package
// the npm package's module and licence too. The output depends on the sources and on the locked esbuild and terser alone, so the committed files can be checked.
import { copyFileSync, mkdirSync, writeFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { gzipSync } from "node:zlib";
import { build } from "esbuild";
import { minify } from "terser";

const here = dirname(fileURLToPath(import.meta.url));
const { outdir, package: packaged } = parseArgs({
  options: {
    outdir: { type: "string", default: join(here, "../static") },
    package: { type: "boolean", default: false },
  },
}).values;
const common = {
  absWorkingDir: here,
  outdir: resolve(outdir),
  bundle: true,
  target: "es2021",
  charset: "utf8",
  // Modules are strict without saying so.
  tsconfigRaw: {},
};

const { outputFiles } = await build({
  ...common,
  entryPoints: { "tracker.min": "src/main.ts", "tracker.page.min": "src/main.page.ts" },
  minify: true,
  format: "iife",
  write: false,
});

mkdirSync(outdir, { recursive: true });
for (const { path, text } of outputFiles) {
  // Terser gives names by how often they occur, which gzips better by 3 %.
  const { code } = await minify(text, {
    ecma: 2020,
    toplevel: true,
    compress: { passes: 4, unsafe_arrows: true, unsafe_methods: true, pure_getters: true },
  });
  writeFileSync(path, code);
  console.log(`${path}: ${code.length} bytes, ${gzipSync(code, { level: 9 }).length} gzipped`);
}

if (packaged) {
  // Not minified: whoever bundles it does that.
  await build({ ...common, entryPoints: { headrace: "src/index.ts" }, format: "esm" });
  copyFileSync(join(here, "../../../LICENSE"), join(outdir, "LICENSE"));
}
