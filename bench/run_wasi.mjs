// SPDX-License-Identifier: Apache-2.0
// Runs a WASI module by Node's own implementation: run_wasi.mjs FILE [NAME=VALUE]... -- [ARG]...
import { readFileSync } from "node:fs";
import { WASI } from "node:wasi";

const [path, ...rest] = process.argv.slice(2);
const split = rest.indexOf("--");
const wasi = new WASI({
  version: "preview1",
  args: ["app.wasm", ...rest.slice(split + 1)],
  env: Object.fromEntries(rest.slice(0, split).map((assignment) => assignment.split("="))),
});
const module = new WebAssembly.Module(readFileSync(path));
process.exit(wasi.start(new WebAssembly.Instance(module, wasi.getImportObject())));
