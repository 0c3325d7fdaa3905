# SPDX-License-Identifier: Apache-2.0
"""Run WebAssembly apps as first-class services of a Debian device."""

__version__ = "0.1.0"
