# SPDX-License-Identifier: Apache-2.0
"""The wall clock is set while sessions run, as on a device that learns the time from the network."""

import re
import time
from pathlib import Path

from tests.appd.conftest import Make
from tests.appd.harness import eventually
from tests.unit.needs import missing
from weft_runtime import __version__
from weft_runtime.protocol import DaemonStatus, QueryStatus, Reload, Reloaded, TerminateApp

DAYS_S = 100 * 86400


def faketime() -> str:
    """The library that moves the wall clock of one process, and no other clock of it."""
    found = sorted(Path("/usr/lib").glob("*-linux-gnu/faketime/libfaketime.so.1"))
    if not found:
        missing("libfaketime is missing [package: faketime]")
    return str(found[0])


def test_run_times_and_ages_are_true_however_the_clock_is_set(start: Make, tmp_path: Path) -> None:
    offset = tmp_path / "offset"

    def set_clock(text: str) -> None:
        (tmp_path / "new").write_text(f"{text}\n")
        (tmp_path / "new").replace(offset)

    set_clock("-100d")
    appd = start(
        LD_PRELOAD=faketime(), FAKETIME_TIMESTAMP_FILE=str(offset), FAKETIME_NO_CACHE="1",
        FAKETIME_DONT_FAKE_MONOTONIC="1", FAKETIME_DONT_RESET="1",
        WEFT_LOOP_WATCH="0",  # what the library costs at each look at a clock is no fault of a callback
    )  # fmt: skip
    begun = time.monotonic()
    first = appd.run_app("ready(); wait()")
    assert time.time() - appd.sessions[first].launched > DAYS_S - 600
    set_clock("+0d")  # the clock is right from now on
    assert 0 <= time.time() - appd.sessions[first].launched <= time.monotonic() - begun + 1
    answer = appd.control.ask(QueryStatus())
    assert isinstance(answer, DaemonStatus)
    assert 0 <= time.time() - answer.since < 600
    assert appd.control.ask(Reload()) == Reloaded(__version__)
    set_clock("-100d")  # and wrong again
    appd.control.ask(TerminateApp(first))
    took = time.monotonic() - begun
    ended = appd.until_stopped(first)
    assert ended.ready is not None
    assert ended.stopped is not None
    assert 0 <= ended.ready - ended.launched <= ended.stopped - ended.launched <= took + 1
    eventually(lambda: appd.has("ended ", first), "the end is logged")
    for word in ("ready after", "ended "):
        found = re.search(r"after (-?[0-9.]+) s", appd.find(word, first))
        assert found is not None
        assert 0 <= float(found[1]) <= took + 1
    # Not checked for descriptors: the library has some of its own.
    appd.stop()
