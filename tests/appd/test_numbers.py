# SPDX-License-Identifier: Apache-2.0
"""The numbers of sessions: none is given twice, whatever becomes of the daemon and of its file."""

import os
import time
from pathlib import Path

import pytest

from tests.appd.conftest import Make
from tests.appd.harness import Appd, eventually
from tests.packages import APP_ID
from weft_runtime import __version__
from weft_runtime.limits import NUMBER_BLOCK, NUMBER_MAX
from weft_runtime.protocol import Reload, Reloaded

RUNNING = "ready(); wait()"


def counter(appd: Appd) -> Path:
    return appd.runtime / "weft/next-session"


def launches(appd: Appd, count: int) -> list[int]:
    return [appd.launch() for _ in range(count)]


def test_a_restart_goes_on_where_the_last_run_ended(make: Make) -> None:
    appd = make(WEFT_RESTORE="false")
    appd.install(RUNNING)
    given: list[int] = []
    for _ in range(3):
        appd.start()
        given += launches(appd, 2)
        appd.stop()
    assert given == [1, 2, 3, 4, 5, 6]
    assert counter(appd).read_bytes() == b"7"


def test_a_crash_gives_no_number_again(make: Make) -> None:
    appd = make(WEFT_RESTORE="false", WEFT_RUNTIME_BIN="/bin/true")
    appd.install("")
    given: list[int] = []
    for _ in range(3):
        appd.start()
        given += launches(appd, 20)
        appd.kill()
    assert len(set(given)) == 60
    assert given == sorted(given)
    assert max(given) <= 3 * (NUMBER_BLOCK + 20)
    appd.start()  # one that ends in good order leaves what it should


def test_more_launches_than_a_block(make: Make) -> None:
    """Each number is written down before it is given."""
    appd = make(WEFT_RESTORE="false", WEFT_RUNTIME_BIN="/bin/true")
    appd.install("")
    appd.start()
    for number in range(1, 2 * NUMBER_BLOCK):
        assert appd.launch() == number
        assert int(counter(appd).read_bytes()) > number
    appd.kill()
    appd.start()
    assert appd.launch() >= 2 * NUMBER_BLOCK


def test_a_reload_goes_on(make: Make) -> None:
    appd = make(WEFT_RESTORE="false")
    appd.install(RUNNING)
    appd.start()
    assert launches(appd, 2) == [1, 2]
    assert appd.control.ask(Reload()) == Reloaded(__version__)
    assert launches(appd, 2) == [3, 4]
    appd.kill()
    appd.start()
    assert appd.launch() > 4


@pytest.mark.parametrize(
    "content",
    [b"", b"x", b"-1", b"0", b"1.5", b"1e3", b"\xb2", b"9" * 400, b"\0\0\0\0", str(NUMBER_MAX).encode(),
     str(2**64).encode()],
    ids=range(11),
)  # fmt: skip
def test_a_damaged_file_is_told_once_and_no_number_comes_again(make: Make, content: bytes) -> None:
    appd = make(WEFT_RESTORE="false")
    appd.install(RUNNING)
    counter(appd).parent.mkdir(parents=True)
    counter(appd).write_bytes(content)
    before = int(time.time())
    appd.start()
    first = appd.launch()
    assert before <= first < NUMBER_MAX
    assert first < 2**53
    told = appd.find("which numbers sessions have had")
    assert told.startswith(f"warning: '{counter(appd)}' does not say ")
    assert told.endswith(f"they go on from {first}, which none can have had")
    appd.stop()
    appd.start()
    assert appd.launch() == first + 1
    assert appd.log_text.count("which numbers sessions have had") == 1


def test_the_copy_in_the_runtime_directory_helps(make: Make) -> None:
    appd = make(WEFT_RESTORE="false")
    state, runtime = appd.directory / "state", appd.directory / "runtime"
    appd.environ |= {"STATE_DIRECTORY": f"{state}:/nonexistent", "RUNTIME_DIRECTORY": str(runtime)}
    appd.install(RUNNING)
    appd.start()
    assert launches(appd, 2) == [1, 2]
    appd.kill()
    (state / "next-session").write_bytes(b"damaged")
    appd.start()
    assert 2 < appd.launch() <= 2 * NUMBER_BLOCK
    appd.find("which numbers sessions have had")
    appd.expected_files = set()


@pytest.mark.parametrize("kind", ["directory", "fifo", "link"])
def test_what_is_no_file(make: Make, kind: str) -> None:
    appd = make(WEFT_RESTORE="false")
    appd.install(RUNNING)
    path = counter(appd)
    path.parent.mkdir(parents=True)
    match kind:
        case "directory":
            (path / "in").mkdir(parents=True)
        case "fifo":
            os.mkfifo(path)
        case _:
            path.symlink_to("/etc/hostname")
    appd.start()
    first, second = launches(appd, 2)
    assert second == first + 1 > 1_000_000_000
    appd.find("which numbers sessions have had")
    if kind == "directory":
        told = appd.find("cannot keep the numbers of sessions")
        assert told.endswith(f"another one has had [df '{path.parent}']")
        (path / "in").rmdir()
        path.rmdir()
        eventually(lambda: appd.has("session numbers are kept in"), "it is tried again")
    appd.stop()
    assert int(path.read_bytes()) == first + 2


def test_where_they_cannot_be_written_apps_are_launched(make: Make) -> None:
    appd = make(WEFT_RESTORE="false", WEFT_RUNTIME_BIN="/bin/true")
    appd.install("")
    appd.start()
    assert appd.launch(APP_ID) == 1
    path = counter(appd)
    path.unlink()
    (path / "in").mkdir(parents=True)
    assert launches(appd, 3 * NUMBER_BLOCK)[-1] == 3 * NUMBER_BLOCK + 1
    appd.find("cannot keep the numbers of sessions")
    (path / "in").rmdir()
    path.rmdir()
