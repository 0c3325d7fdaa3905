# SPDX-License-Identifier: Apache-2.0
"""One operation on a store, in a process that test_crash ends at some system call of it.

operation.py STORE install|rollback|uninstall SOURCE
"""

import argparse
import os
import sys
from pathlib import Path

from weft_runtime.ids import AppId
from weft_runtime.pack import install
from weft_runtime.pack.screen import Screen
from weft_runtime.trust import Places

# The engine's start takes most of the time, and is no part of what is tested.
sys.modules["wasmtime"] = None  # type: ignore[assignment] # what makes an import fail


def main() -> int:
    store, operation, source = sys.argv[1:]
    environ = {"WEFT_APP_STORE": store, "WEFT_APPD_SOCKET": "/nonexistent"}
    places = Places(Path("/nonexistent"), [], [], os.geteuid())
    if operation == "uninstall":
        options = argparse.Namespace(
            app=AppId.parse(source), user=False, force=False, purge=False, json=False
        )
        return install.uninstall(Screen({}), environ, options, places)
    options = argparse.Namespace(source=source, user=False, force=False, rollback=operation == "rollback")
    return install.install(Screen({}), environ, options, places)


sys.exit(main())
