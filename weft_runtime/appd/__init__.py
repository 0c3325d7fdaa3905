# SPDX-License-Identifier: Apache-2.0
"""The supervisor of app sessions: `weft-appd`."""
