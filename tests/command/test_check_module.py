# SPDX-License-Identifier: Apache-2.0
"""--check-module: what a run would make of a module, without running any of it."""

from pathlib import Path

import pytest

from tests.command.guests import guest, leave, say
from tests.command.harness import Run
from tests.packages import wat

START = '(func (export "_start"))'


def test_a_module_that_could_be_run_is_not_run(tmp_path: Path, run: Run) -> None:
    module = tmp_path / "any name"
    module.write_bytes(guest(say("no") + leave(9), ready="unreachable", section=say("no") + "unreachable"))
    # Nothing else on the command line counts, and there is no package.
    done = run("--check-module", str(module), "--frob", args=())
    assert (done.status, done.stdout, done.stderr) == (0, b"", "")
    assert run("--check-module", str(module), args=(), program="weft-runtime-wasmtime").status == 0


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "is empty"),
        (b"\0asm\1\0\0\0\1", "is not a valid module: "),
        (wat(""), "exports no _start ["),
        (
            wat(f'{START} (func (export "weft_ready") (param i32))'),
            "exports weft_ready as a function (i32) -> (): expected a function () -> ()",
        ),
        (
            wat(f'{START} (memory 1) (data (i32.const 65536) "x")'),
            "has data or element segments that do not fit: out of bounds memory access",
        ),
    ],
)
def test_a_module_that_could_not_be_run(tmp_path: Path, run: Run, content: bytes, complaint: str) -> None:
    module = tmp_path / "m.wasm"
    module.write_bytes(content)
    done = run("--check-module", str(module), args=())
    assert (done.status, done.stdout) == (165, b"")
    assert done.end.startswith(f"err: {module} {complaint}")


@pytest.mark.parametrize("fields", ['(import "x" "y" (func))', "(memory 16385)", "(table 1000001 funcref)"])
def test_what_is_not_offered_is_refused(tmp_path: Path, run: Run, fields: str) -> None:
    module = tmp_path / "m.wasm"
    module.write_bytes(wat(f"{fields} {START}"))
    done = run("--check-module", str(module), args=())
    assert (done.status, done.stdout) == (165, b"")


def test_a_file_that_is_no_file(tmp_path: Path, run: Run) -> None:
    done = run("--check-module", str(tmp_path / "none"), args=())
    assert (done.status, done.end) == (166, f"err: {tmp_path}/none does not exist")
    done = run("--check-module", str(tmp_path), args=())
    assert (done.status, done.end) == (165, f"err: {tmp_path} is not a regular file")
    assert run("--check-module", args=()).status == 164


def test_without_the_engine_nobody_can_tell(tmp_path: Path, run_bare: Run) -> None:
    module = tmp_path / "m.wasm"
    module.write_bytes(wat(START))
    done = run_bare("--check-module", str(module), args=())
    assert done.status == 169
    assert done.end.startswith("err: the engine, wasmtime, is not installed [")
