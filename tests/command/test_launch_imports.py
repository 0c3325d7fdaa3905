# SPDX-License-Identifier: Apache-2.0
"""What a launch imports: each module costs every launch its time, and nobody sees it."""

import os
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"
APP_ID = "org.weft.examples.hello"

# All of the standard library that a launch needs and the engine's binding does not.
OURS = {
    "binascii", "gc", "resource", "select", "signal",
    # SHA-256, by its name of Python 3.11 or of those after.
    "_sha256", "_sha2",
    # tomllib and what it imports.
    "tomllib", "tomllib._parser", "tomllib._re", "tomllib._types",
    "__future__", "_datetime", "_string", "datetime", "math", "string",
}  # fmt: skip

BINDING = "import sys, wasmtime\nprint(*sys.modules)"
LAUNCH = """
import os, sys
leave = os._exit
def show(status):
    os.write(2, " ".join(["modules:", *sys.modules]).encode())
    leave(status)
os._exit = show
sys.argv = ["weft-runtime-wasmtime", *sys.argv[1:]]
from weft_runtime.runtime.main import main_wasmtime
main_wasmtime()
"""


def python(code: str, *args: str, store: Path) -> subprocess.CompletedProcess[str]:
    environment = {
        "PATH": os.environ["PATH"], "WEFT_APP_STORE": str(store), "WEFT_LOG": "stderr",
        "XDG_CACHE_HOME": str(store / "cache"),
    }  # fmt: skip
    command = (sys.executable, "-I", "-c", code, *args)
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)


def test_a_launch_imports_no_more_than_it_needs(tmp_path: Path) -> None:
    (tmp_path / APP_ID).symlink_to(EXAMPLES / "hello")
    preopens = ("--preopen", f"{tmp_path}::/data", f"--preopen-ro={tmp_path}::/more")
    # The first one compiles, which takes a second and more modules.
    for _ in range(2):
        launched = python(LAUNCH, APP_ID, "1", *preopens, "--log-level", "info", store=tmp_path)
    assert launched.stdout.startswith("READY\n")
    modules = set(launched.stderr.rpartition("modules:")[2].split())
    assert "weft_runtime.runtime.session" in modules
    needed = OURS | set(python(BINDING, store=tmp_path).stdout.split())
    assert [name for name in modules - needed if name.partition(".")[0] != "weft_runtime"] == []
    assert (
        modules & {"weft_runtime.commandline", "weft_runtime.runtime.parser", "weft_runtime.runtime.tap"}
        == set()
    )
