# SPDX-License-Identifier: Apache-2.0
"""A run without a supervisor that follows the plan of the one before it: the same in all that can be seen, with next to
nothing imported.

Tests of the other files run again; each run of theirs that ends is done twice more with the cache that it has filled: by the
full runtime, which leaves a plan, and by that plan. The two must be equal.
"""

import itertools
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Unpack

import pytest

from tests.command import test_exit, test_guest, test_ready, test_service
from tests.command.conftest import PROGRAMS, _runner
from tests.command.guests import FOREVER, guest, leave, say, sleep
from tests.command.harness import SESSION, Finished, How, Run, Running, Start, fill_pipe, stop
from tests.command.test_launch_imports import LAUNCH
from tests.command.test_notify import Manager, one_manager
from tests.packages import APP_ID, install, printing
from weft_runtime import journal, notify
from weft_runtime.integrity import SETTLED_NS
from weft_runtime.journal import Event, Level
from weft_runtime.runtime import ending, program
from weft_runtime.thin import alone

for _module in (test_exit, test_guest, test_ready, test_service):
    globals().update({name: value for name, value in vars(_module).items() if name.startswith("test_")})
state, one_manager = test_service.state, one_manager

TELLS_IMPORTS = {"PYTHONPROFILEIMPORTTIME": "1"}
_IMPORT = re.compile(r"^import time:.*\n", re.MULTILINE)


def settle() -> None:
    """Wait until what was changed just now cannot be changed again without a trace."""
    time.sleep(2 * SETTLED_NS / 1e9)


def masked(done: Finished) -> Finished:
    """Without what differs between any two runs."""
    text = re.sub(r"\[\d+\]: ", "[N]: ", re.sub(r"in \d+ ms", "in N ms", _IMPORT.sub("", done.stderr)))
    return done._replace(stderr=text)


def has_followed(done: Finished) -> bool:
    """Whether a run that tells its imports did so: the full runtime's program comes at most behind its end."""
    is_full = "weft_runtime.runtime.program\n" in done.stderr and "runtime.aftermath" not in done.stderr
    return "weft_runtime.thin.alone" in done.stderr and not is_full


class Again:
    """Runs an app as `run` does, and then compares the two ways to run it."""

    def __init__(self, home: Path, run: Run) -> None:
        self._run = run
        self._home = home
        self._numbers = itertools.count()

    def __call__(self, *options: str, **how: Unpack[How]) -> Finished:
        env = how.get("env", {})
        streams = {how.get("stdout", subprocess.PIPE), how.get("stderr", subprocess.PIPE)}
        is_usual = streams == {subprocess.PIPE} and not set(env) - {"HOME", "STATE_DIRECTORY"}
        is_usual = is_usual and not any(how.get(name) for name in ("wrapper", "cwd", "bug"))
        # One for each run, so that the first compiles.
        cache = self._home / str(next(self._numbers))
        more = {"CACHE_DIRECTORY": str(cache)} if is_usual else {}

        def once(tells: Mapping[str, str] = {}) -> Finished:
            changed: How = {**how, "env": {**env, **more, **tells}}
            return self._run(*options, **changed)

        done = once()
        if is_usual and done.status not in (164, 170, 175):
            settle()
            full = once()
            settle()
            is_left = any(cache.rglob("*.plan"))
            again = once(TELLS_IMPORTS if is_left else {})
            assert masked(again) == masked(full)
            assert has_followed(again) == is_left
        return done


@pytest.fixture
def run(store: Path) -> Run:
    return Again(store.parent / "again", _runner(store, PROGRAMS))


@pytest.fixture
def cached(store: Path) -> Callable[..., Finished]:
    """Runs the command with a cache of its own, and tells what it has imported."""
    once = _runner(store, PROGRAMS)
    cache = {"CACHE_DIRECTORY": str(store.parent / "cache"), **TELLS_IMPORTS}

    def run(*args: str, **more: str) -> Finished:
        settle()
        return once(args=args or (APP_ID, SESSION), env={**cache, **more})

    return run


def leave_plan(store: Path, cached: Callable[..., Finished], *args: str, **env: str) -> Finished:
    """Compile what is installed, and leave a plan for the next run; how the full runtime ended that did so."""
    cached(*args, **env)
    done = cached(*args, **env)
    assert any(store.parent.rglob("*.plan"))
    return done


def test_runs_follow_the_plan_of_those_before(store: Path, cached: Callable[..., Finished]) -> None:
    """The first one compiles, and what it has written may be too new to be remembered."""
    install(store, printing("hello\n"))
    followed = [has_followed(cached()) for _ in range(4)]
    assert (followed[0], followed[2:]) == (False, [True, True])


def test_another_session_follows_the_same_plan(store: Path, cached: Callable[..., Finished]) -> None:
    install(store, printing("hello\n"))
    leave_plan(store, cached)
    done = cached(APP_ID, "12")
    assert has_followed(done)
    assert f"{APP_ID}[12]: the app is ready" in done.stderr


@pytest.mark.parametrize(
    ("args", "env"),
    [
        ((APP_ID, "+7"), {}),
        ((APP_ID, "007"), {}),
        ((APP_ID, SESSION, "--preopen", "/tmp"), {}),
        ((APP_ID, SESSION, "--log-level", "info"), {}),
        ((APP_ID, SESSION), {"WEFT_LOG_LEVEL": "info"}),
        ((APP_ID, SESSION), {"WEFT_ENGINE": "native"}),
        ((APP_ID, SESSION), {"WEFT_REPORT_FD": "2"}),
        ((APP_ID, SESSION), {"HOME": "/nonexistent"}),
        ((APP_ID, SESSION), {"STATE_DIRECTORY": "/nonexistent"}),
        ((APP_ID, SESSION), {"WEFT_LOG": "nowhere"}),
    ],
)
def test_what_is_not_of_the_same_kind_follows_no_plan(
    store: Path, cached: Callable[..., Finished], args: tuple[str, ...], env: dict[str, str]
) -> None:
    install(store, printing("hello\n"))
    leave_plan(store, cached)
    assert not has_followed(cached(*args, **env))


def test_a_package_that_has_changed_is_looked_at_anew(store: Path, cached: Callable[..., Finished]) -> None:
    package = install(store, printing("hello\n"))
    leave_plan(store, cached)
    (package / "app.wasm").write_bytes(printing("other\n"))
    done = cached()
    assert (done.stdout, has_followed(done)) == (b"READY\nother\n", False)


def test_code_that_was_changed_is_never_run(store: Path, cached: Callable[..., Finished]) -> None:
    install(store, printing("hello\n"))
    leave_plan(store, cached)
    (code,) = store.parent.rglob("*.code")
    code.write_bytes(b"x" * code.stat().st_size)
    done = cached()
    assert (done.stdout, done.status, has_followed(done)) == (b"READY\nhello\n", 0, False)
    assert "ignoring this compiled code" in done.stderr


@pytest.mark.parametrize("change", ["cut", "flip", "group", "link", "second name"])
def test_a_plan_that_others_could_have_written_or_that_is_damaged_is_not_followed(
    store: Path, cached: Callable[..., Finished], change: str
) -> None:
    install(store, printing("hello\n"))
    leave_plan(store, cached)
    (plan,) = store.parent.rglob("*.plan")
    data = plan.read_bytes()
    match change:
        case "cut":
            plan.write_bytes(data[:-1])
        case "flip":
            plan.write_bytes(data.replace(b"app.wasm", b"bpp.wasm", 1))
        case "group":
            plan.chmod(0o620)
        case "link":
            plan.rename(store.parent / "plan")
            plan.symlink_to(store.parent / "plan")
        case _:
            os.link(plan, store.parent / "plan")
    done = cached()
    assert (done.status, has_followed(done)) == (0, False)


@pytest.mark.parametrize("directory", ["cache", "cache/code"])
def test_a_cache_that_others_can_write_to_is_not_believed(
    store: Path, cached: Callable[..., Finished], directory: str
) -> None:
    install(store, printing("hello\n"))
    leave_plan(store, cached)
    (store.parent / directory).chmod(0o777)
    assert not has_followed(cached())


def test_the_way_to_the_cache_may_be_another_one(store: Path, cached: Callable[..., Finished]) -> None:
    """As that of a service with a user of its own, which systemd mounts for each start."""
    install(store, printing("hello\n"))
    way, before = store.parent / "way", store.parent / "before"
    cache = {"CACHE_DIRECTORY": str(way / "cache")}
    way.mkdir()
    for _ in range(3):
        cached(**cache)
    way.rename(before)
    way.mkdir()
    (before / "cache").rename(way / "cache")
    assert has_followed(cached(**cache))
    way.chmod(0o777)
    assert not has_followed(cached(**cache))


def test_the_service_manager_hears_the_same(store: Path, start: Start, one_manager: Manager) -> None:
    install(store, guest(say("in\n") + FOREVER))
    cache = {"CACHE_DIRECTORY": str(store.parent / "cache")}
    heard, ends = [], []
    for more in ({}, {}, TELLS_IMPORTS):
        settle()
        done = stop(
            lambda more=more: start("--sd-notify", env={**one_manager.env, **cache, **more}, until=b"in\n"),  # type: ignore[misc]
            signal.SIGTERM,
        )
        heard.append(one_manager.messages()[-2:])
        ends.append(done)
    assert has_followed(ends[2])
    assert heard[2] == heard[1]
    assert masked(ends[2]) == masked(ends[1])


@pytest.mark.parametrize("body", [leave(0), leave(3), "unreachable"])
def test_the_service_manager_hears_how_it_ended(
    store: Path, cached: Callable[..., Finished], one_manager: Manager, body: str
) -> None:
    install(store, guest(body))
    args = ("--service", "--sd-notify", APP_ID)
    cached(*args, **one_manager.env)
    one_manager.messages()
    full = cached(*args, **one_manager.env)
    expected = one_manager.messages()
    done = cached(*args, **one_manager.env)
    assert has_followed(done)
    assert masked(done) == masked(full)
    assert one_manager.messages() == expected


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize(
    ("module", "until"),
    [
        (guest(say("in\n") + FOREVER), b"READY\nin\n"),
        (guest("", ready=say("in\n") + FOREVER), b"in\n"),
        (guest("", section=say("in\n") + FOREVER), b"in\n"),
    ],
)
def test_a_stop_is_told_in_the_same_words(
    store: Path, start: Start, number: signal.Signals, module: bytes, until: bytes
) -> None:
    install(store, module)
    cache = {"CACHE_DIRECTORY": str(store.parent / "cache")}
    ends = []
    for more in ({}, {}, TELLS_IMPORTS):
        settle()

        def begin(more: Mapping[str, str] = more) -> Running:
            return start(until=until, env={**cache, **more})

        ends.append(stop(begin, number))
    assert has_followed(ends[2])
    assert masked(ends[2]) == masked(ends[1])


def test_a_log_that_is_not_read_keeps_nobody_and_gets_all_in_the_end(store: Path, start: Start) -> None:
    """Entries wait in the full runtime's log, and the guest runs meanwhile."""
    install(store, guest(say("in\n") + sleep(3600 * 10**9)))
    cache = {"CACHE_DIRECTORY": str(store.parent / "cache")}
    for _ in range(2):
        settle()
        stop(lambda: start(until=b"in\n", env=cache), signal.SIGTERM)
    assert any(store.parent.rglob("*.plan"))
    reader, writer = os.pipe()
    filling = fill_pipe(writer)
    settle()
    running = start(until=b"READY\nin\n", env=cache, stderr=writer)
    os.close(writer)
    with open(reader, "rb") as log:
        assert log.read(len(filling)) == filling
        first = [log.readline() for _ in range(3)]
        running.process.send_signal(signal.SIGTERM)
        rest = log.read().splitlines(keepends=True)
    texts = [line.decode().partition(f"{APP_ID}[{SESSION}]: ")[2] for line in (*first, *rest)]
    assert [re.sub(r"\d+ ms", "N ms", text) for text in texts] == [
        f"starting 1.2.3 from {store / APP_ID}\n",
        f"loaded the compiled code of {store / APP_ID}/app.wasm in N ms\n",
        "the app is ready\n",
        "stopped by SIGTERM while running _start\n",
    ]


def test_a_log_that_is_never_read_keeps_nobody(
    store: Path, cached: Callable[..., Finished], tmp_path: Path
) -> None:
    install(store, printing("hello\n"))
    leave_plan(store, cached)
    reader, writer = os.pipe()
    fill_pipe(writer)
    settle()
    environment = {
        "PATH": "/usr/bin:/bin", "WEFT_APP_STORE": str(store), "CACHE_DIRECTORY": str(tmp_path / "cache")
    }  # fmt: skip
    with subprocess.Popen(
        [PROGRAMS / "weft-runtime", APP_ID, SESSION], env=environment, stdout=subprocess.PIPE, stderr=writer
    ) as process:
        os.close(writer)
        assert process.stdout is not None
        assert process.stdout.read() == b"READY\nhello\n"
        assert process.wait() == 0
    os.close(reader)


def test_what_is_told_here_is_told_alike_there() -> None:
    assert {event: journal.MESSAGE_IDS[Event(event)] for event in alone.MESSAGE_IDS} == alone.MESSAGE_IDS
    assert (alone.WARNING, alone.NOTICE, alone.INFO) == (Level.WARNING, Level.NOTICE, Level.INFO)
    assert alone.IDENTIFIER == program.IDENTIFIER
    assert alone.NOTIFY_TIMEOUT_S == notify.SEND_TIMEOUT_S
    assert alone.STATUS_REASON_MAX == ending.STATUS_REASON_MAX


HEAVY = {
    "argparse", "dataclasses", "enum", "hashlib", "inspect", "json", "logging", "pathlib", "re", "sdnotify",
    "signal", "socket", "threading", "tomllib", "traceback", "typing", "wasmtime",
}  # fmt: skip


@pytest.mark.parametrize("is_service", [False, True])
def test_a_run_that_follows_a_plan_imports_next_to_nothing(
    store: Path, tmp_path: Path, is_service: bool
) -> None:
    install(store, printing("hello\n"))
    args = ("--service", "--sd-notify", APP_ID) if is_service else (APP_ID, SESSION)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        environment = {
            "PATH": "/usr/bin:/bin", "WEFT_APP_STORE": str(store), "CACHE_DIRECTORY": str(tmp_path / "cache"),
            "NOTIFY_SOCKET": str(tmp_path / "notify"),
        }  # fmt: skip

        def imported() -> set[str]:
            settle()
            command = [sys.executable, "-I", "-c", LAUNCH, *args]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
            assert done.stdout == "READY\nhello\n"
            return set(done.stderr.rpartition("modules:")[2].split())

        # What the interpreter of this environment imports by itself is none of ours.
        bare = subprocess.run(
            [sys.executable, "-I", "-c", "import sys; print(*sys.modules)"], capture_output=True, text=True, check=True
        )  # fmt: skip
        assert "wasmtime" in imported()
        imported()
        found = imported() - set(bare.stdout.split())
    assert "weft_runtime.thin.alone" in found
    assert found & HEAVY == set()
    ours = {name for name in found if name.partition(".")[0] == "weft_runtime"}
    assert found - ours <= {
        "__future__",
        "pwd",
        "types",
        "_ctypes",
        "_socket",
        "_struct",
        "binascii",
        "ctypes",
        "ctypes._endian",
        "gc",
        "resource",
        "select",
        "struct",
        "time",
        "_thread",
    }
    assert ours == {
        "weft_runtime", "weft_runtime.escape", "weft_runtime.forms",
        "weft_runtime.integrity", "weft_runtime.plan", "weft_runtime.remembered", "weft_runtime.runtime",
        "weft_runtime.runtime.main", "weft_runtime.sources", "weft_runtime.statusline", "weft_runtime.thin",
        "weft_runtime.thin.alone", "weft_runtime.thin.library", "weft_runtime.thin.outdated",
        "weft_runtime.thin.session",
    }  # fmt: skip
