# SPDX-License-Identifier: Apache-2.0
"""The least that Python and the binding need to run a WASI module: what our own start is compared with."""

import os
import sys

import wasmtime

# FILE [NAME=VALUE]... -- [ARG]...
path, *rest = sys.argv[1:]
split = rest.index("--")
wasi = wasmtime.WasiConfig()
wasi.argv = ["app.wasm", *rest[split + 1 :]]
wasi.env = [assignment.split("=", 1) for assignment in rest[:split]]
wasi.inherit_stdout()
wasi.inherit_stderr()

engine = wasmtime.Engine()
module = wasmtime.Module.from_file(engine, path)
linker = wasmtime.Linker(engine)
linker.define_wasi()
store = wasmtime.Store(engine)
store.set_wasi(wasi)
start = linker.instantiate(store, module).exports(store)["_start"]
status = 0
try:
    start(store)  # type: ignore[operator] # a function, or this ends with a TypeError
except wasmtime.ExitTrap as exit_trap:
    status = exit_trap.code
os._exit(status)
