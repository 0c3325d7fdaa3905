# SPDX-License-Identifier: Apache-2.0
"""weft_runtime.pack.engine: what the runtime is given when root asks it, and what is believed of what it gives back.

A probe in the place of the runtime does what the runtime would not: as if a module had taken it over.
"""

import json
import os
import shutil
import signal
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.command.harness import eventually
from tests.pack import trees
from tests.packages import APP_ID
from tests.unit.needs import tool
from weft_runtime.errors import WeftError
from weft_runtime.pack import code, engine
from weft_runtime.pack.code import Cache

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root asks somebody else")

# What it finds out about itself goes to a file that everybody can write; then it does what the test says.
PROBE = """\
#!/usr/bin/python3 -I
import fcntl, json, mmap, os, resource, sys, time

place = os.path.dirname(os.path.abspath(sys.argv[0]))
if sys.argv[1:] == ["--version"]:
    sys.exit()
code = int(sys.argv[-1].removeprefix("--code-to=")) if "--code-to" in sys.argv[-1] else None
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
with open(os.path.join(place, "found"), "a") as found:
    print(json.dumps({
        "arguments": sys.argv[1:], "environment": dict(os.environ), "module": os.read(0, 1 << 20).hex(),
        "user": status["Uid"].split(), "group": status["Gid"].split(), "groups": status["Groups"].split(),
        "no_new_privileges": status["NoNewPrivs"].strip(), "leads_session": os.getsid(0) == os.getpid(),
        "descriptors": sorted(map(int, os.listdir("/proc/self/fd"))), "directory": os.getcwd(),
        "core": resource.getrlimit(resource.RLIMIT_CORE), "file": resource.getrlimit(resource.RLIMIT_FSIZE),
        "data": resource.getrlimit(resource.RLIMIT_DATA), "cpu": resource.getrlimit(resource.RLIMIT_CPU),
    }), file=found)

def report(text):
    os.write(int(os.environ["WEFT_REPORT_FD"]), text)

exec(open(os.path.join(place, "act")).read())
"""


class Probe(NamedTuple):
    """A program in the runtime's place, in a directory that everybody can write to."""

    directory: Path

    def act(self, text: str) -> None:
        """Let it do this; `code` is the descriptor for the code, `report(bytes)` tells a reason."""
        (self.directory / "act").write_text(text)

    def found(self) -> list[dict[str, Any]]:
        """What it has found out, each time that it was executed."""
        return [json.loads(line) for line in (self.directory / "found").read_text().splitlines()]


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch) -> Iterator[Probe]:
    # Not below pytest's own directory, which is for its user alone.
    directory = Path(tempfile.mkdtemp(prefix="weft-probe-"))
    directory.chmod(0o755)
    program = directory / engine.RUNTIME
    program.write_text(PROBE)
    program.chmod(0o755)
    (directory / "found").touch()
    (directory / "found").chmod(0o666)
    monkeypatch.setattr(engine, "find_runtime", lambda *_: str(program))
    # Should the package be installed here as well: a test of that ends what it leaves behind.
    monkeypatch.setattr(engine, "USER", "nobody-of-that-name")
    yield Probe(directory)
    shutil.rmtree(directory)


@pytest.fixture
def module(tmp_path: Path) -> Iterator[int]:
    """A descriptor of the smallest module, which has been read to its end before."""
    path = tmp_path / "app.wasm"
    path.write_bytes(trees.MODULE)
    path.chmod(0o600)  # nobody else could open it
    with path.open("rb") as file:
        file.read()
        yield file.fileno()


@pytest.fixture
def code_fd() -> Iterator[int]:
    with code.receptacle() as fd:
        yield fd


def ask(module: int, code_fd: int | None = None) -> engine.Answer | None:
    return engine.ask(module, {**os.environ, "WEFT_ENGINE": "native", "SECRET": "x"}, code_fd)


def keep(code_fd: int, module: int, place: Path, digest: bytes | None = None) -> None:
    with open(module, "rb", closefd=False) as file:
        file.seek(0)
        code.keep(code_fd, file, digest, Cache(place / "cache", is_public=True))


@as_root
def test_root_asks_a_user_without_rights(probe: Probe, module: int, code_fd: int) -> None:
    probe.act("")
    assert ask(module, code_fd) == engine.Answer("")
    (found,) = probe.found()
    assert found["arguments"] == ["--check-module", "-", f"--code-to={code_fd}"]
    assert found["module"] == trees.MODULE.hex()
    assert "0" not in {*found["user"], *found["group"]}
    assert found["groups"] == []
    assert found["no_new_privileges"] == "1"
    assert found["leads_session"]
    assert found["directory"] == "/"
    report = found["environment"]["WEFT_REPORT_FD"]
    assert found["environment"] == {
        "LC_ALL": "C.UTF-8", "WEFT_ENGINE": "native", "WEFT_LOG": "stderr", "WEFT_REPORT_FD": report,
    }  # fmt: skip
    # The standard streams, what it shall write to, the two files that it has opened itself.
    assert len(found["descriptors"]) <= 7
    assert {0, 1, 2, code_fd, int(report)} <= set(found["descriptors"])


def test_what_it_may_use_is_bounded(probe: Probe, module: int, code_fd: int) -> None:
    probe.act("")
    ask(module, code_fd)
    (found,) = probe.found()
    assert found["core"] == [0, 0]
    for name in ("file", "data", "cpu"):
        assert 0 < found[name][1] < 2**63, name


@as_root
def test_what_a_module_has_ended_is_not_done_again_as_root(probe: Probe, module: int, code_fd: int) -> None:
    for how, words in (
        ("sys.exit(7)", "status 7 and told no reason"),
        ("os.kill(os.getpid(), 9)", "the compiler was killed, as for want of memory"),
    ):
        probe.act(how)
        with pytest.raises(WeftError, match=words):
            ask(module, code_fd)
    assert len(probe.found()) == 2


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[" * 60000, b'{"reason": ' + b"[" * 60000, b"[]", b"{}", b"\xff"]
)
def test_no_report_is_too_strange(probe: Probe, module: int, text: bytes) -> None:
    probe.act(f"report({text!r}); sys.exit(165)")
    answer = ask(module)
    assert answer is not None
    assert answer.complaint == f"{engine.RUNTIME} ended with status 165 and told no reason"


@pytest.mark.parametrize("text", ["x", "weftcode", "x" * 4096])
def test_what_is_no_code_is_not_kept(
    probe: Probe, module: int, code_fd: int, tmp_path: Path, text: str
) -> None:
    probe.act(f"os.write(code, {text.encode()!r})")
    assert ask(module, code_fd) == engine.Answer("")
    with pytest.raises(WeftError) as caught:
        keep(code_fd, module, tmp_path)
    assert caught.value.message == "what the compiler has put out is no compiled code"
    assert not (tmp_path / "cache").exists()


def test_the_code_of_another_module_is_not_kept(module: int, code_fd: int, tmp_path: Path) -> None:
    assert ask(module, code_fd) == engine.Answer("")
    with pytest.raises(WeftError) as caught:
        keep(code_fd, module, tmp_path, digest=bytes(32))
    assert caught.value.message == "what the compiler has put out is the code of another module"
    assert not (tmp_path / "cache").exists()


def test_the_code_of_the_module_is_kept(module: int, code_fd: int, tmp_path: Path) -> None:
    assert ask(module, code_fd) == engine.Answer("")
    keep(code_fd, module, tmp_path)
    (entry,) = (tmp_path / "cache").glob("code/*.code")
    assert stat.S_IMODE(entry.stat().st_mode) == 0o644
    assert entry.read_bytes()[:4] == b"\x7fELF"


# Whoever has a writable mapping could write after the file was looked at.
MAP = """
memory = mmap.mmap(code, os.write(code, bytes(4096)), mmap.MAP_SHARED)
if os.fork() == 0:
    os.setsid()
    with open(os.path.join(place, "found"), "a") as found:
        print(json.dumps({"user": os.getpid()}), file=found)
    time.sleep(3600)
"""


def test_what_can_still_be_changed_is_not_kept(
    probe: Probe, module: int, code_fd: int, tmp_path: Path
) -> None:
    probe.act(MAP)
    ask(module, code_fd)
    eventually(lambda: len(probe.found()) == 2, "the process that stays has said which one it is")
    pid = probe.found()[1]["user"]
    try:
        with pytest.raises(WeftError) as caught:
            keep(code_fd, module, tmp_path)
        assert caught.value.message == "cannot seal the compiled code: Device or resource busy"
    finally:
        os.kill(pid, signal.SIGKILL)


def test_what_is_sealed_cannot_be_changed(module: int, code_fd: int, tmp_path: Path) -> None:
    ask(module, code_fd)
    keep(code_fd, module, tmp_path)
    for change in (
        lambda: os.pwrite(code_fd, b"x", 0), lambda: os.truncate(code_fd, 0), lambda: os.truncate(code_fd, 1 << 30)
    ):  # fmt: skip
        with pytest.raises(PermissionError):
            change()


def test_one_that_does_not_answer_is_ended(
    probe: Probe, module: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe.act("time.sleep(3600)")
    monkeypatch.setattr(engine, "SECONDS", 1)
    monkeypatch.setattr(engine, "_TICK_MS", 50)
    calls: list[None] = []
    with pytest.raises(WeftError, match="did not answer in 1 s"):
        engine.ask(module, os.environ, waiting=lambda: calls.append(None))
    assert calls  # meanwhile somebody could say that it goes on


@as_root
def test_a_runtime_that_nobody_else_can_execute_still_checks(tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    for name in ("weft-pack", engine.RUNTIME):
        shutil.copy(tool(name, "weft-runtime"), private)
    home = tmp_path / "home"
    package = trees.make(tmp_path / "source")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [private / "weft-pack", *arguments],
            env={"HOME": str(home)}, capture_output=True, text=True, check=False,
        )  # fmt: skip

    done = run("install", "--user", str(package))
    assert done.stdout == f"installed {APP_ID} -> {home}/.local/share/weft/apps/{APP_ID}\n"
    (note,) = (line for line in done.stderr.splitlines() if "compiled" in line)
    user = engine._account().name
    assert note == (
        f"weft-pack: the compiled code is not kept: the user {user} cannot execute '{private}/{engine.RUNTIME}'"
    )
    assert not (home / ".cache").exists()
    # And refuses what it would refuse.
    (package / "app.wasm").write_bytes(trees.MODULE + b"\0")
    done = run("check", str(package))
    assert done.returncode == 1
    assert "is not a valid module" in done.stderr
