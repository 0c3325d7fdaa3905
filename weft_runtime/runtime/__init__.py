# SPDX-License-Identifier: Apache-2.0
"""One app in one process: the `weft-runtime` command."""
