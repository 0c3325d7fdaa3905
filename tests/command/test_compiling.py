# SPDX-License-Identifier: Apache-2.0
"""What a launch does about the compiler: waits as long as it works, tells that, and does nothing in vain twice."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.command.guests import functions, guest, leave, slow_to_compile
from tests.command.harness import Run, Running, Start, eventually, members
from tests.command.test_report import Report, report  # noqa: F401 - a fixture
from tests.packages import install
from weft_runtime.runtime.compiler import TELL_S

MIB = 2**20

# Compiles a module as the runtime does, in a process of its own, with bounds and with a compiler of the test's choice.
DRIVER = """
import os, sys
from weft_runtime import limits
from weft_runtime.errors import WeftError
from weft_runtime.runtime import compiler
from weft_runtime.runtime.engine import Engine

with open(sys.argv[1], "rb") as module:
    bounds = compiler.Bounds(
        limits.COMPILE_CPU._replace(value=int(sys.argv[2])), limits.COMPILE_TIME._replace(value=int(sys.argv[3]))
    )
    try:
        os.close(compiler.Compilation(Engine(), module.fileno(), "the module", None, bounds).result())
    except WeftError as error:
        print(error.problem, error.exit_status, error)
"""


def compile_with(module: Path, *, cpu: int = 300, elapsed: int = 1800, before: str = "") -> str:
    """What comes of compiling a module; `before` is done first, in the same process."""
    done = subprocess.run(
        [sys.executable, "-c", f"{before}\n{DRIVER}", str(module), str(cpu), str(elapsed)],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    return done.stdout.rstrip()


@pytest.fixture
def module(tmp_path: Path) -> Path:
    path = tmp_path / "app.wasm"
    path.write_bytes(guest(leave(3)))
    return path


def compiler_of(running: Running) -> int:
    """The process that compiles for a run."""

    def others() -> set[int]:
        return set(members(running.process.pid)) - {running.process.pid}

    eventually(lambda: len(others()) == 1, "compiling")
    [child] = others()
    return child


USED = r"the compiler has used \d+\.\d s of CPU time, \d+ MiB of memory and \d+ s by the clock"


def test_a_compiler_that_gets_no_cpu_ends_with_the_limit_of_the_clock(tmp_path: Path) -> None:
    slow = tmp_path / "slow.wasm"
    slow.write_bytes(slow_to_compile())
    ended = compile_with(slow, elapsed=2)
    told = f"compile-starved 175 the module is still not compiled: {USED}"
    assert re.fullmatch(f"{told}; the limit for time of compiling by the clock is 2 seconds", ended), ended


def test_threads_of_the_compiler_count(tmp_path: Path) -> None:
    many = tmp_path / "many.wasm"
    # One thread for each function, on as many processors as there are.
    many.write_bytes(slow_to_compile(4))
    ended = compile_with(many, cpu=2)
    told = f"compile-limit 175 the module is too costly to compile: {USED}"
    assert re.fullmatch(f"{told}; the limit for CPU time of compiling is 2 seconds", ended), ended


# What a compiler without memory has written, or the beginning, or pieces of what two of its threads write at once.
LAST_WORDS = [
    "memory allocation of 16777216 bytes failed\\n",
    "memory allocation of memory allocation of 16777216 bytes failed\\n8388608 bytes failed\\n",
    "\\nthread panicked:\\nskipping backtrace printing to avoid potential recursion\\nnote: run with `RUST_BACKTRACE=1`\\n",
    " bytes failed: skipping note: run with `RUST_BACKTRACE=1`",
    "",
]


@pytest.mark.parametrize("words", LAST_WORDS)
@pytest.mark.parametrize("number", [signal.SIGABRT, signal.SIGSEGV])
def test_a_compiler_out_of_memory_is_told_in_our_words(module: Path, words: str, number: int) -> None:
    """It takes half of what it may have and gives up, having said anything or nothing."""
    before = f"""
import os, signal, wasmtime
class Module:
    def __init__(self, *arguments):
        taken = bytearray({1100 * MIB})
        taken[::4096] = b"x" * len(taken[::4096])
        os.write(2, b"{words}")
        signal.signal({number}, signal.SIG_DFL)
        os.kill(os.getpid(), {number})
wasmtime.Module = Module
"""
    ended = compile_with(module, before=before)
    told = f"compile-limit 175 the module is too costly to compile: {USED}"
    assert re.fullmatch(f"{told}; the limit for compile memory is 2147483648 bytes", ended), ended


def test_a_compiler_that_crashes_in_little_memory_is_no_matter_of_a_limit(module: Path) -> None:
    before = """
import os, wasmtime
class Module:
    def __init__(self, *arguments):
        os.write(2, b"thread panicked at lib.rs: run with `RUST_BACKTRACE=1`")
        os.abort()
wasmtime.Module = Module
"""
    ended = compile_with(module, before=before)
    assert ended == "internal-error 170 the compiler ended with SIGABRT on the module"


def test_a_word_of_the_engine_on_a_module_is_not_taken_for_a_lack_of_memory(module: Path) -> None:
    before = """
import wasmtime
class Module:
    def __init__(self, *arguments):
        raise wasmtime.WasmtimeError("export 'memory allocation of' is odd")
wasmtime.Module = Module
"""
    ended = compile_with(module, before=before)
    assert (
        ended == "module-invalid 165 the module is not a valid module: export 'memory allocation of' is odd"
    )


def test_a_compiler_that_stands_still_for_a_while_is_waited_for(store: Path, start: Start) -> None:
    """As on a device that is too busy: longer than the 25 s that were the limit once."""
    install(store, functions([b"\0\x0b"] * 60_000))
    running = start(until=b"")
    child = compiler_of(running)
    os.kill(child, signal.SIGSTOP)
    stopped = time.monotonic()
    eventually(lambda: time.monotonic() - stopped > 27, "time passes", 40)
    assert running.process.poll() is None
    os.kill(child, signal.SIGCONT)
    done = running.wait()
    assert (done.status, done.stdout) == (0, b"READY\n")


def test_a_stop_ends_a_compiler_at_once(store: Path, start: Start) -> None:
    install(store, slow_to_compile())
    running = start(until=b"")
    child = compiler_of(running)
    os.kill(child, signal.SIGSTOP)
    running.process.send_signal(signal.SIGTERM)
    done = running.wait()
    assert done.status == -signal.SIGTERM
    assert done.end == "notice: stopped by SIGTERM while compiling"
    eventually(lambda: not Path(f"/proc/{child}").exists(), "the compiler is gone with it")


def test_the_report_says_again_and_again_that_it_compiles(
    store: Path,
    start: Start,
    report: Report,  # noqa: F811
) -> None:
    install(store, slow_to_compile())
    running = start(until=b"", env=report.env, pass_fds=[report.writer])
    lines: list[bytes] = []

    def told_twice() -> bool:
        lines.extend(report.lines())
        return len(lines) == 2

    eventually(told_twice, "it has said so twice", 6 * TELL_S)
    running.process.send_signal(signal.SIGTERM)
    running.wait()
    lines += report.lines()
    assert [json.loads(line)["event"] for line in lines] == ["compiling", "compiling", "stopped"]


def test_the_service_manager_is_asked_for_more_time(store: Path, start: Start, tmp_path: Path) -> None:
    install(store, slow_to_compile())
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(6 * TELL_S)
        running = start("--sd-notify", until=b"", env={"NOTIFY_SOCKET": str(tmp_path / "notify")})
        told = [manager.recv(4096) for _ in range(2)]
    running.process.send_signal(signal.SIGTERM)
    running.wait()
    assert told == [b"EXTEND_TIMEOUT_USEC=30000000\nSTATUS=compiling the module (version 1.2.3)"] * 2


# The runtime, for which a store of the test's is one of root's.
AS_ROOTS = """
import sys
from pathlib import Path
from weft_runtime import settings
settings.SYSTEM_STORES = (Path(sys.argv[1]),)
del sys.argv[1:3]
from weft_runtime.runtime.main import main
main()
"""


class Background:
    """Launches of an app of root's, where a background compiler is asked for what they cannot do."""

    def __init__(self, store: Path, directory: Path) -> None:
        self.wrapper = (sys.executable, "-c", AS_ROOTS, str(store))
        self.cache = directory / "cache"
        self.env = {"XDG_CACHE_HOME": str(self.cache), "WEFT_BACKGROUND": "1"}

    @property
    def notes(self) -> list[Path]:
        return [*self.cache.glob("**/*.vain")]


@pytest.fixture
def background(store: Path, tmp_path: Path) -> Background:
    return Background(store, tmp_path)


def compiling(background: Background, start: Start, **env: str) -> Running:
    """A launch that compiles, and has noted that."""
    running = start(until=b"", wrapper=background.wrapper, env={**background.env, **env})
    eventually(lambda: bool(background.notes), "it is noted")
    compiler_of(running)
    return running


LEFT = "is left to weft-compile.service, which has not compiled it yet: "


def test_a_launch_that_was_killed_as_it_compiled_is_not_repeated(
    store: Path, run: Run, start: Start, background: Background
) -> None:
    """As the kernel does it to all of a control group that has no more memory."""
    install(store, slow_to_compile())
    running = compiling(background, start)
    running.process.kill()
    running.wait()
    eventually(lambda: not members(running.process.pid), "its compiler has ended with it")
    first = run(wrapper=background.wrapper, env=background.env)
    told = "is not compiled again at once: the launch before this one was killed while it did"
    # The status with which the background compiler is asked for.
    assert first.status == 175
    assert f"/app.wasm {told} [try again, or compile it ahead" in first.end
    second = run(wrapper=background.wrapper, env=background.env)
    assert second.status == 175
    assert LEFT in second.end
    assert told in second.end
    # Memory that was short may be there again.
    [note] = background.notes
    long_ago = time.time() - 3600
    os.utime(note, (long_ago, long_ago))
    assert compiling(background, start).stop(signal.SIGTERM) is not None


def short_of_memory(store: Path, start: Start, background: Background, group: Path) -> Running:
    """A launch that compiles, in whose control group the kernel has just ended a process."""
    install(store, slow_to_compile())
    group.mkdir()
    (group / "memory.events").write_text("oom_kill 0\n")
    running = compiling(background, start, WEFT_COMPILER_GROUP=str(group / "cgroup.procs"))
    (group / "memory.events").write_text("oom_kill 1\n")
    return running


def test_a_compiler_that_the_kernel_has_killed_is_not_started_again(
    store: Path, run: Run, start: Start, background: Background, tmp_path: Path
) -> None:
    running = short_of_memory(store, start, background, tmp_path / "group")
    os.kill(compiler_of(running), signal.SIGKILL)
    done = running.wait()
    assert done.status == 175
    assert "its control group has no more memory" in done.end
    again = run(wrapper=background.wrapper, env=background.env)
    assert again.status == 175
    assert LEFT in again.end
    assert "its control group has no more memory" in again.end


def test_a_stop_that_memory_is_the_reason_of_keeps_the_note(
    store: Path, start: Start, background: Background, tmp_path: Path
) -> None:
    """The service manager stops a service of which the kernel has killed a process."""
    running = short_of_memory(store, start, background, tmp_path / "group")
    running.process.send_signal(signal.SIGTERM)
    assert running.wait().status == -signal.SIGTERM
    assert len(background.notes) == 1


def test_a_launch_that_was_stopped_as_it_compiled_leaves_no_note(
    store: Path, start: Start, background: Background
) -> None:
    install(store, slow_to_compile())
    running = compiling(background, start)
    running.process.send_signal(signal.SIGTERM)
    assert running.wait().status == -signal.SIGTERM
    assert background.notes == []


def test_a_launch_beside_one_that_compiles_does_so_too(
    store: Path, start: Start, background: Background
) -> None:
    install(store, slow_to_compile())
    first = compiling(background, start)
    second = start(until=b"", wrapper=background.wrapper, env=background.env)
    compiler_of(second)
    for running in (first, second):
        running.process.send_signal(signal.SIGTERM)
        assert running.wait().status == -signal.SIGTERM


def test_what_was_compiled_or_is_no_module_leaves_no_note(
    store: Path, run: Run, background: Background
) -> None:
    package = install(store, guest(leave(3)))
    assert run(wrapper=background.wrapper, env=background.env).status == 3
    (package / "app.wasm").write_bytes(b"\0asm\1\0\0\0\1")
    assert run(wrapper=background.wrapper, env=background.env).status == 165
    assert background.notes == []
    assert [*background.cache.glob("**/*.code")] != []


def test_a_launch_has_a_lower_bound_only_where_the_background_takes_over(
    store: Path, run: Run, background: Background
) -> None:
    """The package is in one of root's stores, but perhaps nobody of root's looks at it."""
    install(store, slow_to_compile())
    wrapper = ["prlimit", "--cpu=3", *background.wrapper]
    for _ in range(2):
        done = run(wrapper=wrapper, env={**background.env, "WEFT_BACKGROUND": "0"})
        assert done.status == 175
        text = "CPU time of compiling is 3 seconds [try again, or compile it ahead: 'weft-pack compile"
        assert text in done.end
    assert background.notes == []
    done = run(wrapper=wrapper, env=background.env)
    text = (
        "CPU time of compiling at a launch is 3 seconds [try again, or compile it ahead, with higher limits"
    )
    assert text in done.end
    assert LEFT in run(wrapper=wrapper, env=background.env).end


def test_without_a_background_compiler_each_launch_tries(store: Path, run: Run, tmp_path: Path) -> None:
    """The package is in no store of root's: nothing is noted, since nobody would ever do better."""
    install(store, slow_to_compile())
    for _ in range(2):
        done = run(wrapper=["prlimit", "--cpu=3"], env={"XDG_CACHE_HOME": str(tmp_path / "cache")})
        assert done.status == 175
        assert "3 seconds [try again, or compile it ahead" in done.end
    assert [*tmp_path.glob("cache/**/*.vain")] == []
