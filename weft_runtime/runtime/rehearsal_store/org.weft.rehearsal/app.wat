;; SPDX-License-Identifier: Apache-2.0
;; The source of app.wasm; a test assembles it.
(module
  (import "wasi_snapshot_preview1" "proc_exit" (func (param i32)))
  (memory (export "memory") 1)
  (func (export "_start")))
