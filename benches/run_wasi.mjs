// Runs a WASI preview 1 command under Node, so that the benchmarks can show it beside the other engines.
//
// Usage: node --no-warnings run_wasi.mjs [--dir HOST::GUEST]... [--env NAME=VALUE]... MODULE [ARGUMENT]...
import { readFile } from "node:fs/promises";
import { basename } from "node:path";
import { WASI } from "node:wasi";

const preopens = {};
const env = {};
const rest = process.argv.slice(2);
while (rest[0] === "--dir" || rest[0] === "--env") {
  const [flag, value] = rest.splice(0, 2);
  if (flag === "--dir") {
    const [host, guest] = value.split("::");
    preopens[guest ?? host] = host;
  } else {
    const at = value.indexOf("=");
    env[value.slice(0, at)] = value.slice(at + 1);
  }
}
const [path, ...args] = rest;
const wasi = new WASI({ version: "preview1", args: [basename(path), ...args], env, preopens, returnOnExit: true });
const module = await WebAssembly.compile(await readFile(path));
const instance = await WebAssembly.instantiate(module, wasi.getImportObject());
try {
  process.exitCode = wasi.start(instance);
} catch (error) {
  console.error(String(error?.stack ?? error));
  process.exitCode = 134;
}
