# SPDX-License-Identifier: Apache-2.0
"""The compiled code of apps that a user installs: made, found, made again, and removed with the last app that has it."""

import contextlib
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.command.guests import guest, leave, slow_to_compile
from tests.command.harness import eventually
from tests.pack import trees
from tests.pack.command import RUN_SECONDS, Done, pack
from tests.packages import APP_ID
from weft_runtime import code_cache

OTHER = "org.example.other"
VERSIONS = {"1.0.0": guest(leave(1)), "2.0.0": guest(leave(2)), "3.0.0": guest(leave(3))}


class Home:
    """A user's home: a store, a cache, and sources to install from."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.store = directory / ".local/share/weft/apps"
        self.cache = directory / ".cache/weft"
        # Root would compile the system's apps otherwise.
        self.env = {"HOME": str(directory), "WEFT_APPD_SOCKET": "/nonexistent"}

    def run(self, *arguments: str) -> Done:
        own = {"WEFT_APP_STORE": str(self.store)} if arguments[0] == "compile" else {}
        return pack(*arguments, env={**self.env, **own})

    def install(self, version: str, app_id: str = APP_ID) -> Done:
        source = self.directory / f"source-{app_id}-{version}"
        if not source.exists():
            trees.make(source, version, app_id=app_id)
            (source / "app.wasm").write_bytes(VERSIONS[version])
        done = self.run("install", "--user", str(source))
        assert done.status == 0, done.err
        return done

    def entries(self) -> list[Path]:
        return sorted(self.cache.glob(f"{code_cache.SUBDIRECTORY}/*{code_cache.ENTRY_SUFFIX}"))

    def compiled(self) -> set[str]:
        """The versions of which there is code, by what each entry says of itself."""
        digests = {hashlib.sha256(module).digest(): version for version, module in VERSIONS.items()}
        found = set()
        for path in self.entries():
            with path.open("rb") as file:
                key = code_cache.key_of(file.fileno())
            assert key is not None
            assert path.name == key.file_name
            found.add(digests[key.module])
        return found


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_an_app_that_was_installed_is_compiled(home: Home) -> None:
    done = home.install("1.0.0")
    assert done.out == f"installed {APP_ID} -> {home.store / APP_ID}\n"
    assert "compile" not in done.err
    assert home.compiled() == {"1.0.0"}
    assert home.run("compile", APP_ID) == (0, f"{APP_ID} is compiled already\n", "")


def test_a_package_that_is_not_installed_leaves_no_code(home: Home) -> None:
    home.install("2.0.0")
    older = trees.make(home.directory / "older", "1.0.0")
    (older / "app.wasm").write_bytes(VERSIONS["1.0.0"])
    assert home.run("install", "--user", str(older)).status == 1
    assert home.compiled() == {"2.0.0"}


def test_both_versions_are_compiled_after_a_rollback(home: Home) -> None:
    home.install("1.0.0")
    home.install("2.0.0")
    assert home.compiled() == {"1.0.0", "2.0.0"}
    for entry in home.entries():
        entry.unlink()
    done = home.run("install", "--user", "--rollback", APP_ID)
    assert done.out == f"{APP_ID} is 1.0.0 again, in place of 2.0.0\n"
    assert home.compiled() == {"1.0.0"}


def test_what_another_app_has_as_well_stays_until_that_is_gone(home: Home) -> None:
    home.install("1.0.0")
    home.install("2.0.0")
    home.install("2.0.0", OTHER)
    assert home.run("uninstall", "--user", APP_ID).status == 0
    assert home.compiled() == {"2.0.0"}
    assert home.run("uninstall", "--user", OTHER).status == 0
    assert home.compiled() == set()


@pytest.mark.parametrize("arguments", [("--all",), (APP_ID, OTHER)])
def test_what_is_missing_is_compiled(home: Home, arguments: tuple[str, ...]) -> None:
    home.install("1.0.0")
    home.install("2.0.0", OTHER)
    (missing,) = (
        path for path in home.entries() if hashlib.sha256(VERSIONS["2.0.0"]).hexdigest() in path.name
    )
    missing.unlink()
    text = f"{APP_ID} is compiled already\ncompiled {OTHER}\n"
    assert home.run("compile", *arguments) == (0, text, "")
    assert home.compiled() == {"1.0.0", "2.0.0"}
    done = home.run("compile", *arguments, "--json")
    assert json.loads(done.out) == [
        {"id": APP_ID, "compiled": False, "problem": None},
        {"id": OTHER, "compiled": False, "problem": None},
    ]


def test_a_module_that_was_replaced_by_the_same_is_recorded_again(home: Home) -> None:
    home.install("1.0.0")
    records = home.cache / code_cache.SUBDIRECTORY
    before = set(records.glob(f"*{code_cache.RECORD_SUFFIX}"))
    assert len(before) == 1
    module = home.store / APP_ID / "app.wasm"
    module.rename(home.directory / "old")
    module.write_bytes(VERSIONS["1.0.0"])
    for _ in range(2):
        assert home.run("compile", "--all").out == f"{APP_ID} is compiled already\n"
        assert len(set(records.glob(f"*{code_cache.RECORD_SUFFIX}")) - before) == 1


def test_the_code_of_another_engine_does_not_count(home: Home) -> None:
    home.install("1.0.0")
    (entry,) = home.entries()
    entry.rename(entry.with_name(f"0123456789abcdef{entry.name[16:]}"))
    assert home.run("compile", "--all").out == f"compiled {APP_ID}\n"
    assert entry.is_file()


def test_one_that_cannot_be_compiled_does_not_stop_the_others(home: Home) -> None:
    home.install("1.0.0")
    home.install("2.0.0", OTHER)
    module = home.store / APP_ID / "app.wasm"
    module.write_bytes(b"\0asm\1\0\0\0\1")
    home.entries()[0].unlink()
    home.entries()[0].unlink()
    done = home.run("compile", "--all")
    assert (done.status, done.out) == (1, f"compiled {OTHER}\n")
    (problem,) = done.problems
    assert problem.startswith(f"weft-pack: {APP_ID}: {module} is not a valid module: ")
    done = home.run("compile", "org.example.none", OTHER, "--json")
    first, second = json.loads(done.out)
    assert done.status == 1
    assert first["problem"].startswith("package 'org.example.none' not found")
    assert second == {"id": OTHER, "compiled": False, "problem": None}


def in_the_way(home: Home) -> None:
    (home.cache / code_cache.SUBDIRECTORY).write_text("not a directory")


def for_all_to_write(home: Home) -> None:
    (home.cache / code_cache.SUBDIRECTORY).mkdir()
    (home.cache / code_cache.SUBDIRECTORY).chmod(0o777)


@pytest.mark.parametrize("obstacle", [in_the_way, for_all_to_write])
def test_an_app_is_installed_also_where_its_code_cannot_be_kept(
    home: Home, obstacle: Callable[[Home], None]
) -> None:
    home.cache.mkdir(parents=True)
    obstacle(home)
    done = home.install("1.0.0")
    (note,) = (line for line in done.problems if "code" in line)
    assert note.startswith("weft-pack: the compiled code is not kept: ")
    done = home.run("compile", "--all")
    assert (done.status, done.out) == (1, "")
    assert home.run("uninstall", "--user", APP_ID).status == 0


def test_there_is_nothing_to_compile(home: Home) -> None:
    assert home.run("compile", "--all") == (0, "no packages installed\n", "")
    assert home.run("compile", "--all", "--json") == (0, "[]\n", "")


@pytest.mark.parametrize("arguments", [(), ("--all", APP_ID)])
def test_it_is_either_some_or_all(home: Home, arguments: tuple[str, ...]) -> None:
    done = home.run("compile", *arguments)
    assert (done.status, done.out) == (1, "")
    assert done.problems[0] == "weft-pack: expected the ids of apps, or --all for all of them"


def test_without_a_home_there_is_nowhere_to_keep_code(tmp_path: Path) -> None:
    env = {"WEFT_APP_STORE": str(tmp_path / "store")}
    done = pack("install", trees.make(tmp_path / "source"), env=env)
    assert (done.status, "compiled" in done.err) == (0, False)
    done = pack("compile", "--all", env=env)
    assert (done.status, done.problems) == (
        1, ["weft-pack: there is no cache for compiled code: $HOME is not set"]
    )  # fmt: skip


def test_what_was_in_vain_is_done_again_only_by_hand_or_with_higher_limits(home: Home) -> None:
    home.install("1.0.0")
    for entry in home.entries():
        entry.unlink()
    module = home.store / APP_ID / "app.wasm"
    module.write_bytes(slow_to_compile())

    def run(*arguments: str, seconds: int) -> Done:
        limited = ("prlimit", f"--cpu={seconds}")
        env = {**home.env, "WEFT_APP_STORE": str(home.store)}
        return pack("compile", *arguments, env=env, wrapper=limited)

    def notes() -> list[Path]:
        return list(home.cache.glob(f"{code_cache.SUBDIRECTORY}/*{code_cache.VAIN_SUFFIX}"))

    used = r"the compiler has used \d+\.\d s of CPU time, \d+ MiB of memory and \d+ s by the clock"
    too_costly = (
        rf"{re.escape(str(module))} is too costly to compile: {used}; the limit for CPU time of compiling is"
    )
    done = run("--all", seconds=4)
    (problem,) = done.problems
    assert done.status == 1
    assert re.fullmatch(rf"weft-pack: {APP_ID}: {too_costly} 4 seconds", problem), problem
    assert len(notes()) == 1
    done = run("--all", seconds=4)
    (problem,) = done.problems
    again = rf"weft-pack: {APP_ID}: not compiled again: {too_costly} 4 seconds \['weft-pack compile {APP_ID}' does\]"
    assert re.fullmatch(again, problem), problem
    for arguments, seconds in (((APP_ID,), 4), (("--all",), 5)):
        done = run(*arguments, seconds=seconds)
        (problem,) = done.problems
        assert re.fullmatch(rf"weft-pack: {APP_ID}: {too_costly} {seconds} seconds", problem), problem
    # Another module is another matter, and nothing is left of the note once there is code of its own.
    module.write_bytes(VERSIONS["2.0.0"])
    assert run("--all", seconds=4).out == f"compiled {APP_ID}\n"
    assert len(notes()) == 1


class Compiling:
    """weft-pack compile while it runs, and the runtimes that it has executed."""

    def __init__(self, home: Home, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "weft_runtime.pack.main", "compile", *arguments],
            env={"PATH": "/usr/bin:/bin", **home.env, "WEFT_APP_STORE": str(home.store)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def until_at_it(self) -> int:
        """The runtime that compiles an app, which has a compiler of its own."""
        found: list[int] = []

        def compiles() -> bool:
            found[:] = [pid for pid in children(self.process.pid) if children(pid)]
            with contextlib.suppress(OSError):  # the one that was asked for its digest has just ended
                return bool(found) and "--code-to" in Path(f"/proc/{found[0]}/cmdline").read_text()
            return False

        eventually(compiles, "it compiles")
        return found[0]

    def wait(self) -> Done:
        out, err = self.process.communicate(timeout=RUN_SECONDS)
        assert "Traceback" not in err
        return Done(self.process.returncode, out, err)


def children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def slow(home: Home) -> Path:
    """An app is installed that takes minutes to compile; its module."""
    home.install("1.0.0")
    module = home.store / APP_ID / "app.wasm"
    module.write_bytes(slow_to_compile())
    return module


def killed(home: Home, *arguments: str) -> Done:
    """The kernel has no memory left for what compiles an app."""
    compiling = Compiling(home, *arguments)
    # The engine is asked for its digest before, by a module that takes no time.
    eventually(lambda: is_slow(compiling.until_at_it()), "the app is compiled")
    os.kill(compiling.until_at_it(), signal.SIGKILL)
    return compiling.wait()


def is_slow(pid: int) -> bool:
    """Whether a process is still there after a second, as the one that asks for the digest is not."""
    begun = time.monotonic()
    eventually(lambda: time.monotonic() - begun > 1 or not children(pid), "it ends, or does not")
    return bool(children(pid))


def test_what_memory_was_too_little_for_is_left_alone_for_half_an_hour(home: Home) -> None:
    module = slow(home)
    complaint = f"{module} could not be compiled: the compiler was killed, as for want of memory"
    # By hand somebody sees to it: nothing is noted.
    done = killed(home, APP_ID)
    told = "the module could not be compiled: the compiler was killed, as for want of memory"
    assert done.problems == [f"weft-pack: {APP_ID}: {told} [try again when less is going on]"]
    assert notes_of(home) == []
    assert killed(home, "--all").problems == [f"weft-pack: {APP_ID}: {complaint}"]
    again = home.run("compile", "--all")
    assert again.problems == [
        f"weft-pack: {APP_ID}: not compiled again: {complaint} ['weft-pack compile {APP_ID}' does]"
    ]
    [note] = notes_of(home)
    long_ago = time.time() - 3600
    os.utime(note, (long_ago, long_ago))
    env = {**home.env, "WEFT_APP_STORE": str(home.store)}
    tried = pack("compile", "--all", env=env, wrapper=("prlimit", "--cpu=3"))
    assert "the limit for CPU time of compiling is 3 seconds" in tried.err


def notes_of(home: Home) -> list[Path]:
    return list(home.cache.glob(f"{code_cache.SUBDIRECTORY}/*{code_cache.VAIN_SUFFIX}"))


def test_what_comes_while_others_are_compiled_is_compiled_too(home: Home) -> None:
    """Whoever asks the background compiler for it then is not heard, since it runs already."""
    home.install("1.0.0")
    home.install("2.0.0", OTHER)
    for entry in home.entries():
        entry.unlink()
    (home.store / OTHER / "app.wasm").write_bytes(slow_to_compile(4, count=310, depth=100))
    compiling = Compiling(home, "--all")
    eventually(lambda: home.entries() != [], "the first one is compiled")
    compiling.until_at_it()
    new = trees.make(home.store / "org.example.another")
    (new / "app.wasm").write_bytes(VERSIONS["2.0.0"])
    module = home.store / APP_ID / "app.wasm"
    module.unlink()
    module.write_bytes(VERSIONS["3.0.0"])
    done = compiling.wait()
    assert done.status == 0, done.err
    assert done.out.splitlines() == [
        f"compiled {APP_ID}", f"compiled {OTHER}", "compiled org.example.another", f"compiled {APP_ID}",
    ]  # fmt: skip
