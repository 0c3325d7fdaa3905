# SPDX-License-Identifier: Apache-2.0
"""Compiled code that is kept, with the real command: what a launch uses, refuses, writes and says of it."""

import contextlib
import hashlib
import os
import random
import re
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from tests.command.guests import guest, say, sleep
from tests.command.harness import Finished, Run, Start
from tests.packages import install, printing
from weft_runtime import code_cache, integrity
from weft_runtime.code_cache import Caches

FLIPS = 25
COMPILED, LOADED = "compiled", "loaded the compiled code of"

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to others, or mount")


class Device:
    """A package, a cache for its code, and the command that runs it."""

    def __init__(self, store: Path, directory: Path, run: Run) -> None:
        self.cache = directory / "cache"
        self.package = install(store, printing("hello\n"))
        self.module = self.package / "app.wasm"
        self.environment = {"XDG_CACHE_HOME": str(self.cache)}
        self._run = run

    def launch(
        self, text: str = "hello\n", *, env: Mapping[str, str] = {}, wrapper: Sequence[str] = ()
    ) -> Finished:
        """Run the app, which must do what it always does."""
        done = self._run(env=self.environment | dict(env), wrapper=wrapper)
        assert (done.status, done.stdout) == (0, f"READY\n{text}".encode()), done.stderr
        return done

    @property
    def entry(self) -> Path:
        (path,) = self.directory.glob("*.code")
        return path

    @property
    def record(self) -> Path:
        (path,) = self.directory.glob("*.module")
        return path

    @property
    def directory(self) -> Path:
        return self.cache / "weft/code"


@pytest.fixture
def device(store: Path, tmp_path: Path, run: Run) -> Device:
    return Device(store, tmp_path, run)


def how(done: Finished) -> str:
    """How the module got into the process."""
    (line,) = (line for line in done.log if " ms" in line)
    match = re.fullmatch(r"info: (.*) \S+/app\.wasm(?: for pulley)? in \d+ ms", line)
    assert match, line
    return match[1]


def warnings(done: Finished) -> list[str]:
    return [line for line in done.log if not line.startswith(("info: ", "debug: "))]


def refused(device: Device, complaint: str, *, path: Path | None = None) -> None:
    """The entry costs one warning and a compilation, and is whole again."""
    entry = path or device.entry
    done = device.launch()
    assert how(done) == COMPILED
    assert warnings(done) == [f"warning: {entry} {complaint}, ignoring this compiled code"]
    done = device.launch()
    assert (how(done), warnings(done)) == (LOADED, [])


def test_the_second_launch_compiles_nothing(device: Device) -> None:
    done = device.launch()
    assert (how(done), warnings(done)) == (COMPILED, [])
    before = device.entry.stat(), device.record.stat()
    for _ in range(2):
        done = device.launch()
        assert (how(done), warnings(done)) == (LOADED, [])
    assert [integrity.Identity.of(status) for status in before] == [
        integrity.Identity.of(status) for status in (device.entry.stat(), device.record.stat())
    ]


def test_a_launch_of_known_code_reads_neither_module_nor_code(device: Device, start: Start) -> None:
    """By the kernel's count of what the process has read, with a module of which nobody would not notice."""
    size = 24 << 20
    # In a custom section: what an engine makes of it is a copy, at most.
    section = b"\x03big" + bytes(size)
    device.module.write_bytes(guest(sleep(600 * 10**9)) + b"\0" + leb(len(section)) + section)
    start(env=device.environment)
    known = bytes_read(start(env=device.environment).process.pid)
    device.record.unlink()
    unknown = bytes_read(start(env=device.environment).process.pid)
    assert known < size / 2
    assert unknown > known + size


def bytes_read(pid: int) -> int:
    (line,) = (
        line for line in Path(f"/proc/{pid}/io").read_text().splitlines() if line.startswith("rchar: ")
    )
    return int(line.removeprefix("rchar: "))


def leb(number: int) -> bytes:
    encoded = b""
    while number > 127:
        encoded, number = encoded + bytes([number & 127 | 128]), number >> 7
    return encoded + bytes([number])


@pytest.mark.parametrize("size", [0, 1, 104, 4096, -105, -1])
def test_a_truncated_entry_is_refused(device: Device, size: int) -> None:
    device.launch()
    os.truncate(device.entry, size if size >= 0 else device.entry.stat().st_size + size)
    refused(device, "is truncated, or no compiled code")


@pytest.mark.parametrize("content", [b"x" * 10_000, b"\x7fELF" + bytes(10_000), b"\0asm\1\0\0\0" * 100])
def test_a_foreign_file_is_refused(device: Device, content: bytes) -> None:
    device.launch()
    device.entry.write_bytes(content)
    refused(device, "is truncated, or no compiled code")


def test_a_flipped_bit_is_never_run(device: Device) -> None:
    device.launch()
    whole = device.entry.read_bytes()
    chance = random.Random(6)
    for _ in range(FLIPS):
        damaged = bytearray(whole)
        damaged[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
        device.entry.write_bytes(damaged)
        done = device.launch()
        assert how(done) == COMPILED
        (warning,) = warnings(done)
        assert warning.startswith(f"warning: {device.entry} ")
        assert warning.endswith(", ignoring this compiled code")
        assert device.entry.read_bytes() == whole


def test_the_code_of_another_module_is_refused(store: Path, device: Device) -> None:
    device.launch()
    first = device.entry.read_bytes()
    name = device.entry
    device.module.write_bytes(printing("other\n"))
    device.launch("other\n")
    (other,) = set(device.directory.glob("*.code")) - {name}
    other.write_bytes(first)
    done = device.launch("other\n")
    assert warnings(done) == [f"warning: {other} is the code of another module, ignoring this compiled code"]


def test_code_that_the_engine_refuses_is_compiled_again(device: Device) -> None:
    """Sealed as it should be, by somebody who could: all that is left is the engine's own check."""
    device.launch()
    fd = os.open(device.entry, os.O_RDONLY)
    key = code_cache.key_of(fd)
    os.close(fd)
    assert key is not None
    device.entry.write_bytes(b"no code" + code_cache.trailer(b"no code", key))
    done = device.launch()
    (warning,) = warnings(done)
    assert warning.startswith(f"warning: {device.entry} is refused by the engine: ")
    assert (how(done), how(device.launch())) == (COMPILED, LOADED)


def test_what_has_another_name_is_refused(device: Device, tmp_path: Path) -> None:
    device.launch()
    elsewhere = tmp_path / "elsewhere"
    entry = device.entry
    entry.rename(elsewhere)
    entry.symlink_to(elsewhere)
    refused(device, "is a symbolic link", path=entry)
    entry.unlink()
    entry.hardlink_to(elsewhere)
    refused(device, "has 2 names", path=entry)


@pytest.mark.parametrize("mode", [0o620, 0o602])
def test_what_others_can_write_is_refused(device: Device, mode: int) -> None:
    device.launch()
    device.entry.chmod(mode)
    refused(device, f"can be written by others: its mode is {mode:o}")


@as_root
def test_what_belongs_to_somebody_else_is_refused(device: Device) -> None:
    device.launch()
    os.chown(device.entry, 12345, -1)
    refused(device, "belongs to the user 12345, not to 0")


def test_a_cache_that_others_can_write_is_of_no_use(device: Device) -> None:
    device.launch()
    device.directory.chmod(0o777)
    done = device.launch()
    assert how(done) == COMPILED
    complaint = f"'{device.directory}' can be written by others: its mode is 777"
    assert warnings(done) == [
        f"warning: {device.entry} is not safe: {complaint}, ignoring this compiled code",
        f"notice: the compiled code of {device.module} is not kept: {complaint}",
    ]


def test_a_module_that_is_replaced_is_compiled(device: Device) -> None:
    device.launch()
    before = device.module.stat()
    device.module.write_bytes(printing("HELLO\n"))
    os.utime(device.module, ns=(before.st_atime_ns, before.st_mtime_ns))
    done = device.launch("HELLO\n")
    assert (how(done), warnings(done)) == (COMPILED, [])
    assert how(device.launch("HELLO\n")) == LOADED


def test_each_engine_has_its_own(device: Device) -> None:
    pulley = {"WEFT_ENGINE": "pulley"}
    assert how(device.launch()) == how(device.launch(env=pulley)) == COMPILED
    assert how(device.launch()) == how(device.launch(env=pulley)) == LOADED
    assert len(list(device.directory.glob("*.code"))) == 2


@pytest.mark.parametrize(
    "variables", [{"HOME": "{}/home", "XDG_CACHE_HOME": ""}, {"CACHE_DIRECTORY": "{0}/a:{0}/b"}]
)
def test_the_cache_is_where_the_environment_says(
    device: Device, tmp_path: Path, variables: Mapping[str, str]
) -> None:
    device.environment = {name: value.format(tmp_path) for name, value in variables.items()}
    device.launch()
    assert how(device.launch()) == LOADED
    where = "home/.cache/weft" if "HOME" in variables else "a"
    assert len(list(tmp_path.glob(f"{where}/code/*.code"))) == 1


def test_without_a_place_nothing_is_kept_and_nothing_said(device: Device, tmp_path: Path) -> None:
    device.environment = {}
    for _ in range(2):
        done = device.launch()
        assert (how(done), warnings(done)) == (COMPILED, [])


def mounting(device: Device, options: str, then: str = ":") -> Sequence[str]:
    """Run in a mount name space of its own, with a file system of its own for the cache."""
    device.cache.mkdir(exist_ok=True)
    script = f'mount -t tmpfs -o mode=700,{options} tmpfs {device.cache} && {then} && exec "$@"'
    return ("unshare", "--mount", "sh", "-c", script, "sh")


@as_root
def test_code_is_loaded_where_nothing_can_be_executed(device: Device, tmp_path: Path) -> None:
    device.launch()
    kept = tmp_path / "kept"
    device.cache.rename(kept)
    done = device.launch(wrapper=mounting(device, "noexec", f"cp -a {kept}/. {device.cache}"))
    assert (how(done), warnings(done)) == (LOADED, [])
    # And where it was compiled just now.
    done = device.launch(wrapper=mounting(device, "noexec"))
    assert (how(done), warnings(done)) == (COMPILED, [])


@as_root
def test_a_cache_that_cannot_be_written_is_no_hindrance(device: Device) -> None:
    done = device.launch(wrapper=mounting(device, "ro"))
    assert how(done) == COMPILED
    assert warnings(done) == [
        f"notice: the compiled code of {device.module} is not kept: Read-only file system"
    ]


@as_root
def test_a_full_disk_is_no_hindrance(device: Device) -> None:
    done = device.launch(wrapper=mounting(device, "size=4k,nr_inodes=20"))
    assert how(done) == COMPILED
    assert warnings(done) == [
        f"notice: the compiled code of {device.module} is not kept: No space left on device"
    ]


def test_a_runtime_that_is_killed_at_any_moment_leaves_a_cache_that_can_be_used(
    device: Device, start: Start
) -> None:
    chance = random.Random(2)
    for _ in range(12):
        running = start(env=device.environment, until=b"")
        # Not to be certain of anything, but to be somewhere in between.
        with contextlib.suppress(subprocess.TimeoutExpired):
            running.process.wait(chance.uniform(0, 0.4))
        running.process.send_signal(signal.SIGKILL)
        running.process.wait()
        for path in device.directory.glob("*.code"):
            path.unlink()
        running = start(env=device.environment, until=b"hello\n")
        assert "warning" not in running.stderr
    done = device.launch()
    assert (how(done), warnings(done)) == (LOADED, [])
    assert not list(device.directory.glob(".*"))


def test_many_first_launches_at_a_time_all_run(device: Device, start: Start) -> None:
    device.module.write_bytes(guest(say("hello\n") + sleep(600 * 10**9)))
    all_of_them = [start(env=device.environment, until=b"") for _ in range(4)]
    for running in all_of_them:
        running.read_until(b"hello\n")
        assert "warning" not in running.stderr
        assert "notice" not in running.stderr
    assert len(list(device.directory.glob("*"))) == 2


def test_a_compiler_enters_its_group(device: Device, tmp_path: Path) -> None:
    """Any file will do to see that it tries; the kernel's own is for the tests of a real system."""
    procs = tmp_path / "cgroup.procs"
    procs.touch()
    device.launch(env={"WEFT_COMPILER_GROUP": str(procs)})
    assert procs.read_text() == "0"
    procs.write_text("")
    device.launch(env={"WEFT_COMPILER_GROUP": str(procs)})
    assert procs.read_text() == ""


def test_a_group_that_cannot_be_entered_is_no_hindrance(device: Device, tmp_path: Path) -> None:
    group = {"WEFT_COMPILER_GROUP": str(tmp_path / "none"), "WEFT_LOG_LEVEL": "debug"}
    done = device.launch(env=group)
    assert (how(done), warnings(done)) == (COMPILED, [])
    said = f"cannot enter the control group of {tmp_path}/none: No such file or directory"
    assert f"debug: compiling {device.module}: {said}" in done.log


def test_sealed_code_is_handed_out(tmp_path: Path, run: Run) -> None:
    module, code = tmp_path / "m.wasm", tmp_path / "code"
    module.write_bytes(printing("hello\n"))
    with module.open("rb") as stdin, code.open("wb+") as file:
        stdin.seek(5)
        fd = file.fileno()
        options = ("--check-module", "-", "--code-to", str(fd))
        done = run(*options, args=(), stdin=stdin, pass_fds=(fd,), program="weft-runtime-wasmtime")
        assert (done.status, done.stdout, done.stderr) == (0, b"", "")
        key = code_cache.key_of(fd)
        assert key is not None
        assert key.module == hashlib.sha256(module.read_bytes()).digest()
        assert code_cache.complaint(fd, key) is None


def test_handed_out_code_is_what_a_launch_takes(device: Device, run: Run, tmp_path: Path) -> None:
    with (tmp_path / "code").open("wb+") as file, device.module.open("rb") as module:
        options = ("--check-module", str(device.module), "--code-to", str(file.fileno()))
        assert run(*options, args=(), pass_fds=(file.fileno(),)).status == 0
        key = code_cache.key_of(file.fileno())
        assert key is not None
        found = code_cache.find(Caches(device.cache / "weft"), module.fileno(), key.engine)
        os.close(code_cache.keep(device.cache / "weft", found, file.fileno()))
    done = device.launch()
    assert (how(done), warnings(done)) == (LOADED, [])


@pytest.mark.parametrize("value", ["0", "2", "x", "-1", "999", "99999999999999999999", "pipe"])
def test_code_goes_to_an_open_file_only(tmp_path: Path, run: Run, value: str) -> None:
    reader, writer = os.pipe()
    text = str(writer) if value == "pipe" else value
    done = run("--check-module", "x", f"--code-to={text}", args=(), pass_fds=(writer,))
    os.close(reader)
    os.close(writer)
    assert done.status == 164
    assert f"'{text}' is not the number of an open file, 3 or above" in done.end


def test_a_module_from_a_pipe_is_refused(run: Run) -> None:
    reader, writer = os.pipe()
    done = run("--check-module", "-", args=(), stdin=reader)
    os.close(reader)
    os.close(writer)
    assert (done.status, done.end) == (165, "err: standard input is not a regular file")
