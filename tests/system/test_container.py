# SPDX-License-Identifier: Apache-2.0
"""Tests of the container harness itself, on both releases."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.system import container as harness
from tests.system.container import BOOT_SECONDS, POLL_SECONDS, Container, ContainerError, Suite, make_root

ENGINE = """
import sys
sys.path.append("/opt/weft/site")
from wasmtime import Engine, Instance, Module, Store
store = Store(Engine())
module = Module(store.engine, '''(module (func (export "answer") (result i32)
    (i32.mul (i32.const 6) (i32.const 7))))''')
print(*sys.version_info[:2], Instance(store, module, []).exports(store)["answer"](store))
"""


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + BOOT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "still not so"
        time.sleep(POLL_SECONDS)


def traces(name: str) -> list[Path]:
    """Return the processes and cgroups on this machine that belong to a container."""
    # Other containers' groups come and go meanwhile, which os.walk does not mind.
    found = [Path(group) for group, _, _ in os.walk("/sys/fs/cgroup") if Path(group).name == name]
    for path in [*Path("/proc").glob("[0-9]*/cmdline"), *Path("/proc").glob("[0-9]*/cgroup")]:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if name.encode() in path.read_bytes():
                found.append(path)
    return found


def state_of(root: Path) -> dict[str, tuple[int, int, int]]:
    state = {}
    for directory, directories, files in os.walk(root):
        for name in [".", *directories, *files]:
            stat = (Path(directory) / name).lstat()
            state[f"{directory}/{name}"] = (stat.st_mode, stat.st_size, stat.st_mtime_ns)
    return state


def test_it_runs_the_systemd_of_its_release(container: Container, suite: Suite) -> None:
    assert container.run("systemctl", "is-system-running").stdout == "running\n"
    assert f"VERSION_CODENAME={suite}\n" in container.run("cat", "/etc/os-release").stdout
    expected = {Suite.BOOKWORM: "systemd 252 ", Suite.TRIXIE: "systemd 257 "}[suite]
    assert container.run("systemctl", "--version").stdout.startswith(expected)


def test_the_journal_can_be_read_by_field(container: Container) -> None:
    container.run("systemd-cat", "--identifier=weft-plain", "--priority=notice", "echo", "hello")
    (entry,) = container.journal("SYSLOG_IDENTIFIER=weft-plain")
    assert (entry["MESSAGE"], entry["PRIORITY"]) == ("hello", "5")


def test_a_journal_value_that_is_not_text_comes_as_bytes(container: Container) -> None:
    container.run("systemd-cat", "--identifier=weft-bytes", "printf", r"\377 or \033[1m\n")
    assert [entry["MESSAGE"] for entry in container.journal("SYSLOG_IDENTIFIER=weft-bytes")] == [
        b"\xff or \x1b[1m"
    ]


def test_a_unit_can_be_run_and_awaited(container: Container) -> None:
    ended = container.run("systemd-run", "--wait", "--quiet", "sh", "-c", "exit 7", check=False)
    assert ended.returncode == 7


@pytest.mark.parametrize(
    ("script", "status"), [("exit 0", 0), ("exit 134", 134), ("kill $$", -15), ("kill -9 $$", -9)]
)
def test_the_end_of_a_command_is_passed_on(container: Container, script: str, status: int) -> None:
    ended = container.run("sh", "-c", f"echo out; echo err >&2; {script}", check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (status, "out\n", "err\n")


def test_a_command_that_does_not_exist_is_named(container: Container) -> None:
    ended = container.run("weft-nonesuch", check=False)
    assert (ended.returncode, ended.stderr) == (127, "weft-nonesuch: No such file or directory\n")


def test_a_checked_command_raises_with_its_output(container: Container) -> None:
    with pytest.raises(subprocess.CalledProcessError) as caught:
        container.run("sh", "-c", "echo why >&2; exit 3")
    assert caught.value.returncode == 3
    assert caught.value.__notes__ == ["stdout: \nstderr: why\n"]


def test_a_command_has_a_clean_environment(container: Container, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEFT_APPS_DIR", "/host")
    names = {line.split("=")[0] for line in container.run("env", env={"WEFT_X": "1"}).stdout.splitlines()}
    assert names - {"PWD"} == {"PATH", "LANG", "HOME", "WEFT_X"}


def test_a_command_is_in_the_containers_own_cgroup(container: Container) -> None:
    assert "0::/init.scope\n" in container.run("cat", "/proc/self/cgroup").stdout


def test_a_command_can_be_another_users(container: Container) -> None:
    assert container.run("sh", "-c", "id -un; id -gn", user="nobody").stdout == "nobody\nnogroup\n"


def test_a_command_that_takes_too_long_is_killed(container: Container) -> None:
    for user in None, "nobody":
        with pytest.raises(subprocess.TimeoutExpired):
            container.run("sleep", "4321", timeout=0.5, user=user)
        assert container.run("pgrep", "--exact", "sleep", check=False).returncode == 1  # not even a zombie


def test_a_command_can_be_talked_to(container: Container) -> None:
    with container.popen("cat", stdin=subprocess.PIPE) as process:
        assert process.communicate("ping\n") == ("ping\n", "")


def test_a_signal_reaches_the_command_itself(container: Container) -> None:
    with container.popen(
        "sh", "-c", "trap 'echo got it; exit 5' TERM; echo on; while :; do sleep 0.1; done"
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "on\n"
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=10) == ("got it\n", "")
    assert process.returncode == 5


def test_a_file_is_written_with_its_mode(container: Container) -> None:
    container.write("/srv/new/file", "text \N{SNOWMAN}\n", 0o751)
    assert container.run("stat", "--format=%a %U", "/srv/new/file").stdout == "751 root\n"
    assert container.run("cat", "/srv/new/file").stdout == "text \N{SNOWMAN}\n"


def test_what_is_bound_is_read_only_and_what_an_overlay_takes_is_its_own(
    suite: Suite, tmp_path: Path
) -> None:
    bound, below = tmp_path / "bound", tmp_path / "below"
    for path in (bound, below):
        path.mkdir()
        (path / "seen").touch()
    binds, overlays = {bound: Path("/srv/bound")}, {below: Path("/srv/over")}
    with Container(suite, binds=binds, overlays=overlays) as container:
        denied = container.run("touch", "/srv/bound/file", check=False)
        container.run("touch", "/srv/over/file")
        found = container.run("sh", "-c", "cd /srv; echo */*").stdout
    assert (denied.returncode, denied.stderr) == (
        1,
        "touch: cannot touch '/srv/bound/file': Read-only file system\n",
    )
    assert found == "bound/seen over/file over/seen\n"
    assert [path.name for path in below.iterdir()] == ["seen"]


def test_the_engine_works_with_the_python_of_the_release(container: Container, suite: Suite) -> None:
    python = {Suite.BOOKWORM: "3 11", Suite.TRIXIE: "3 13"}[suite]
    assert container.run("python3", "-I", "-c", ENGINE).stdout == f"{python} 42\n"


def test_the_launcher_takes_libraries_from_the_release(container: Container) -> None:
    launcher = container.run("cat", "/usr/local/bin/weft-runtime-wasmtime").stdout
    names = ["cryptography", "msgpack", "sdnotify", "systemd.journal", "wasmtime"]
    show = f"import {', '.join(names)}\nfor name in {names}: print(sys.modules[name].__file__)\n"
    container.write("/usr/local/bin/show", launcher.split("from weft_runtime")[0] + show, 0o755)
    assert container.run("show").stdout.splitlines() == [
        "/usr/lib/python3/dist-packages/cryptography/__init__.py",
        "/usr/lib/python3/dist-packages/msgpack/__init__.py",
        "/usr/lib/python3/dist-packages/sdnotify/__init__.py",
        "/usr/lib/python3/dist-packages/systemd/journal.py",
        "/opt/weft/site/wasmtime/__init__.py",
    ]


def test_every_boot_is_a_fresh_one(suite: Suite, boot: Callable[[Suite], Container]) -> None:
    root = make_root(suite)
    before = state_of(root)
    first = boot(suite)
    first.write("/etc/left", "behind")
    first.run("rm", "/usr/bin/python3")
    first.close()
    second = boot(suite)
    assert second.run("test", "-e", "/etc/left", check=False).returncode == 1
    assert second.run("test", "-e", "/usr/bin/python3", check=False).returncode == 0
    assert state_of(root) == before


def test_a_reboot_keeps_what_is_on_disks_alone(suite: Suite, boot: Callable[[Suite], Container]) -> None:
    machine = boot(suite)
    before = machine.run("cat", "/proc/sys/kernel/random/boot_id").stdout
    machine.run("touch", "/var/kept", "/run/lost")
    machine.reboot()
    assert machine.run("cat", "/proc/sys/kernel/random/boot_id").stdout != before
    assert machine.run("find", "/var/kept", "/run/lost", check=False).stdout == "/var/kept\n"
    assert machine.run("systemctl", "is-system-running").stdout == "running\n"


def test_two_at_once_do_not_disturb_each_other(suite: Suite, boot: Callable[[Suite], Container]) -> None:
    first, second = boot(suite), boot(suite)
    first.write("/run/mine", "")
    assert second.run("test", "-e", "/run/mine", check=False).returncode == 1
    first.close()
    assert (first.is_alive, second.is_alive) == (False, True)
    assert second.run("systemctl", "is-system-running").stdout == "running\n"
    with pytest.raises(ContainerError, match="is not running"):
        first.run("true")


def test_a_container_that_will_not_stop_leaves_nothing(
    suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harness, "STOP_SECONDS", 1)
    with Container(suite) as container:
        container.run("systemd-run", "--quiet", "sh", "-c", "trap '' TERM; while :; do sleep 1; done")
        command = container.popen("sleep", "4321")
        assert traces(container.name)
    assert traces(container.name) == []
    assert make_root(suite).name not in Path("/proc/self/mountinfo").read_text()
    assert command.wait(1) == -signal.SIGKILL


def test_a_container_that_powered_itself_off_is_noticed(suite: Suite) -> None:
    with Container(suite) as container:
        command = container.popen("sleep", "4321")
        container.run("systemctl", "poweroff")
        wait_until(lambda: not container.is_alive)
        assert command.wait(1) in (-signal.SIGTERM, -signal.SIGKILL)
    assert traces(container.name) == []


def test_a_failed_unit_at_boot_is_named(suite: Suite, tmp_path: Path) -> None:
    unit = "systemd-user-sessions.service"
    (tmp_path / "fail:.conf").write_text("[Service]\nExecStart=\nExecStart=false\n")
    inside = Path(f"/etc/systemd/system/{unit}.d/fail.conf")
    container = Container(suite, binds={tmp_path / "fail:.conf": inside})
    with pytest.raises(ContainerError, match=f"^'{suite}' is degraded, failed units:\n{unit} "), container:
        pass
    assert traces(container.name) == []


def test_a_killed_test_process_takes_its_container_along(suite: Suite) -> None:
    script = (
        "import sys, time; from tests.system.container import *\n"
        f"with Container(Suite('{suite}')) as c: print(c.name, flush=True); time.sleep(600)"
    )
    repository = Path(__file__).resolve().parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=repository, stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        name = owner.stdout.readline().strip()
        assert [path for path in traces(name) if path.is_file()]
        owner.kill()
    wait_until(lambda: not [path for path in traces(name) if path.is_file()])  # empty cgroups may be left
    with Container(suite):
        pass
    assert traces(name) == []
