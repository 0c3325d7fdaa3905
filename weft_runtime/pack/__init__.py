# SPDX-License-Identifier: Apache-2.0
"""weft-pack: from a directory of sources to an app that a device trusts."""
