// Bundles the pages: `node build.mjs FOLDER`. Names of files have a digest of what is in them.
//
// It writes index.html, scripts, the style, all of them compressed, too, the page of a recording in one
// file, and the licences of what is in them.

import { createHash } from "node:crypto";
import { mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import { build } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const out = process.argv[2];
if (!out) throw new Error("usage: node build.mjs FOLDER");
rmSync(out, { recursive: true, force: true });
mkdirSync(out, { recursive: true });

const result = await build({
  absWorkingDir: here,
  entryPoints: ["src/main.ts", "src/style.css"],
  bundle: true,
  splitting: true,
  format: "esm",
  target: "es2022",
  minify: true,
  charset: "utf8",
  legalComments: "none",
  outdir: out,
  entryNames: "[name]-[hash]",
  chunkNames: "[name]-[hash]",
  publicPath: "/web/",
  metafile: true,
  logLevel: "warning",
});

const named = (entry) => {
  const found = Object.entries(result.metafile.outputs).find(([, output]) => output.entryPoint === entry);
  return `/web/${basename(found[0])}`;
};
const index = readFileSync(join(here, "src/index.html"), "utf8")
  .replace("@SCRIPT@", named("src/main.ts"))
  .replace("@STYLE@", named("src/style.css"));
writeFileSync(join(out, "index.html"), index);

// Licences of the packages whose files are in what was built.
const packages = new Set();
for (const path of Object.keys(result.metafile.inputs)) {
  const found = /node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(path);
  if (found) packages.add(found[1]);
}
const licences = [...packages].sort().map((name) => {
  const folder = join(here, "node_modules", name);
  const { version, license } = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
  const file = readdirSync(folder).find((each) => /^licen[cs]e/i.test(each));
  return `${name} ${version} (${license})\n\n${file ? readFileSync(join(folder, file), "utf8") : ""}`;
});
const licensed = licences.join(`\n${"-".repeat(78)}\n\n`);
writeFileSync(join(out, "licences.txt"), licensed);

// One file for one recording: script and style are in it, and nothing else may run or style.
const single = await build({
  absWorkingDir: here,
  entryPoints: ["src/offline.ts", "src/style.css"],
  bundle: true,
  format: "iife",
  target: "es2022",
  minify: true,
  charset: "utf8",
  legalComments: "none",
  outdir: out,
  write: false,
  logLevel: "warning",
});
const bundled = (end) => single.outputFiles.find((file) => file.path.endsWith(end)).text;
const digest = (text) => `'sha256-${createHash("sha256").update(text).digest("base64")}'`;
const [script, style] = [bundled(".js"), bundled(".css")];
const parts = {
  SCRIPT: script,
  STYLE: style,
  LICENCES: licensed,
  POLICY: [
    "default-src 'none'",
    `script-src ${digest(script)}`,
    `style-src ${digest(style)} ${digest("")}`,
    "base-uri 'none'",
    "form-action 'none'",
    "require-trusted-types-for 'script'",
    "trusted-types lit-html",
  ].join("; "),
};
const template = readFileSync(join(here, "src/offline.html"), "utf8");
writeFileSync(join(out, "replay.template"), template.replace(/@(SCRIPT|STYLE|LICENCES|POLICY)@/g, (_, name) => parts[name]));

for (const name of readdirSync(out)) {
  if (name === "replay.template") continue;
  writeFileSync(join(out, `${name}.gz`), gzipSync(readFileSync(join(out, name)), { level: 9 }));
}
const total = createHash("sha256");
for (const name of readdirSync(out).sort()) total.update(name).update(readFileSync(join(out, name)));
console.log(`pages ${total.digest("hex").slice(0, 16)}: ${readdirSync(out).length} files`);
