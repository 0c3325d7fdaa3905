# SPDX-License-Identifier: Apache-2.0
"""`python3 -I -m weft_runtime.runtime`: the same as `weft-runtime`."""

from weft_runtime.runtime.main import main

main()
