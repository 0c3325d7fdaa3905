# SPDX-License-Identifier: Apache-2.0
"""What holds for every unit test: repeatable examples, and nothing left behind."""

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Whoever builds a package runs these tests too: they must not fail once in a hundred builds.
settings.register_profile(
    "unit", deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
# Looks for what "unit" does not find: HYPOTHESIS_PROFILE=search, as often as you like.
settings.register_profile("search", settings.get_profile("unit"), derandomize=False, max_examples=10_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "unit"))


@pytest.fixture(autouse=True)
def _nothing_left_behind() -> Iterator[None]:
    """Fail a test that leaves a descriptor open or a child process alive."""
    before = _descriptors()
    yield
    if _descriptors() != before:
        gc.collect()
    after = _descriptors()
    left = sorted(f"{fd} ({after[fd]})" for fd in after.keys() - before.keys())
    assert not left, f"descriptors left open: {', '.join(left)}"
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def _descriptors() -> dict[int, str]:
    found = {}
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found[int(entry.name)] = str(entry.readlink())
        except FileNotFoundError:
            pass  # the descriptor of this listing
    return found
