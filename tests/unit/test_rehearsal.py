# SPDX-License-Identifier: Apache-2.0
"""The package that a fork rehearses with."""

from pathlib import Path

import wasmtime

from weft_runtime.runtime import rehearsal


def test_its_module_is_what_its_source_says() -> None:
    package = rehearsal.__file__.replace("rehearsal.py", "rehearsal_store/org.weft.rehearsal")
    assert Path(package, "app.wasm").read_bytes() == wasmtime.wat2wasm(Path(package, "app.wat").read_text())
