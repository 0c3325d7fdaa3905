# SPDX-License-Identifier: Apache-2.0
"""What can be told of a module from its bytes, before anything is compiled: one rule for a check and a launch."""

START = "_start"
"""The export that a module begins with."""

WEFT_READY = "weft_ready"
"""The export that is called before it, if there is one."""
