# SPDX-License-Identifier: Apache-2.0
"""Benchmarks against other runtimes, all in one interleaved run; see docs/performance.md."""
