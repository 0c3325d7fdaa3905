# SPDX-License-Identifier: Apache-2.0
"""Boots a real systemd of a Debian release in a throw-away container, and runs commands in it."""

import contextlib
import fcntl
import hashlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import IO, Self

ROOTS = Path(__file__).resolve().parents[2] / ".cache" / "roots"
BOOT_SECONDS = 60  # half a second on an idle machine; a loaded one with several containers is far slower
STOP_SECONDS = 20  # a unit that ignores SIGTERM must not hold the tests for systemd's own 90 s
ENTRY_SECONDS = 30  # for an entry that takes some milliseconds on an idle machine
POLL_SECONDS = 0.02
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}

TOOLS = ("mmdebstrap", "systemd-nspawn", "nsenter", "unshare", "setpriv")
RECIPE = (
    *("mmdebstrap", "--quiet", "--variant=minbase", "--dpkgopt=force-unsafe-io"),
    "--include=systemd,systemd-sysv,dbus,procps,python3,python3-systemd,python3-sdnotify,python3-msgpack",
    "--include=python3-cryptography,python3-zstandard",
    # The build machine's name and resolver do not belong in there.
    '--customize-hook=rm -f "$1/etc/hostname" "$1/etc/resolv.conf"',
    # Empty, not "uninitialized": a new id at each boot, but no first boot with its presets.
    '--customize-hook=: >"$1/etc/machine-id"',
    # There is no network: a run at an unlucky hour would fail, and the system be degraded.
    '--customize-hook=chroot "$1" systemctl --quiet mask apt-daily.timer apt-daily-upgrade.timer',
    # Else every boot rebuilds caches that fit already (Debian 12 does not, and has no such program).
    '--customize-hook=p=/usr/lib/systemd/systemd-update-done; [ ! -e "$1$p" ] || chroot "$1" "$p"',
)

# A mount namespace of its own: nobody else sees the mounts, and they end with it. A process namespace of its
# own: when the test process is killed, the kernel kills all in it (nspawn alone would leave its container).
MOUNTS = ("setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--propagation", "private")
PRIVATE = (*MOUNTS, "--pid", "--mount-proc", "--kill-child=KILL", "sh", "-ec")

# On the tmpfs is what nspawn would leave in /run/systemd (propagation directories, locks), and what the
# system writes, above the cached root that all containers share; in /var/tmp nspawn has what is written
# to overlays, whose places it makes, but not the directories above. /sys/fs/cgroup becomes a cgroup2 mount,
# whatever the machine's setup. Each has its own cgroup: with --keep-unit two would share one "payload". With that option
# nspawn ends at a reboot, with 133, for its unit to start it again.
BOOT = """
mkdir -p /run/systemd
mount -t tmpfs -o mode=0755 tmpfs /run/systemd
mount -t tmpfs tmpfs /var/tmp
cd /run/systemd
mkdir lower upper work root
mount --bind -o ro "$1" lower
mount -t overlay -o lowerdir=lower,upperdir=upper,workdir=work overlay root
mkdir -p root/opt/weft
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir -p "/sys/fs/cgroup/$2"
echo $$ >"/sys/fs/cgroup/$2/cgroup.procs"
machine=$2
shift 2
status=133
while [ $status -eq 133 ]; do
    status=0
    systemd-nspawn --quiet --settings=no --directory=/run/systemd/root --machine="$machine" --boot \
        --keep-unit --register=no --private-network --console=pipe \
        --link-journal=no --resolv-conf=off --timezone=off "$@" || status=$?
done
exit $status
"""

# The parent of a command. nsenter as the parent stops itself when systemd stops all processes at power off,
# does not reap then, and nothing ends; unshare in Debian 12 cannot pass on that SIGKILL ended its child.
AWAIT = """
defined(my $pid = fork) or die "fork: $!\n";
if (!$pid) { exec { $ARGV[0] } @ARGV or warn "$ARGV[0]: $!\n"; exit 127 }
waitpid $pid, 0;
kill $? & 127, $$ if $? & 127;
exit $? >> 8;
"""

# Ends what runs in a container's cgroup and removes it, and those that killed test processes left behind.
SWEEP = """
mount -t cgroup2 cgroup2 /sys/fs/cgroup
cd /sys/fs/cgroup
for group in "$1" weft-test-*; do
    owner=${group#weft-test-}
    [ "$group" = "$1" ] || [ ! -d "/proc/${owner%-*}" ] || continue
    while [ -d "$group" ]; do
        echo 1 >"$group/cgroup.kill" || break
        find "$group" -depth -type d -exec rmdir {} + 2>/dev/null || sleep 0.02
    done
done
"""

_serial = itertools.count(1)


class Suite(StrEnum):
    BOOKWORM = "bookworm"
    TRIXIE = "trixie"


class ContainerError(Exception):
    """No container can be had here, or one does not boot."""


def missing() -> list[str]:
    """Name what keeps this process from booting containers."""
    rights = [] if os.geteuid() == 0 else ["root"]
    return rights + [tool for tool in TOOLS if shutil.which(tool) is None]


def make_root(suite: Suite) -> Path:
    """Return the root of a release, made once and kept until the recipe changes; nothing may write to it."""
    if lack := missing():
        raise ContainerError(f"missing: {', '.join(lack)} [packages: mmdebstrap, systemd-container]")
    digest = hashlib.sha256("\0".join(RECIPE).encode()).hexdigest()[:12]
    root, unfinished = ROOTS / f"{suite}-{digest}", ROOTS / f"{suite}-unfinished"
    ROOTS.mkdir(parents=True, exist_ok=True)
    with (ROOTS / f".{suite}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not root.is_dir():
            for old in ROOTS.glob(f"{suite}-*"):
                subprocess.run(["rm", "-rf", "--one-file-system", old], check=True)
            made = subprocess.run(
                [*PRIVATE, 'exec "$@"', "sh", *RECIPE, suite, unfinished],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                pass_fds=[lock.fileno()],  # held until the last process that may write there has ended
            )
            if made.returncode:
                raise ContainerError(f"mmdebstrap of '{suite}' failed: {made.stdout}")
            unfinished.rename(root)
    return root


class Command(subprocess.Popen[str]):
    """A process below a parent that awaits it and ends as it does; signals go to the process itself.

    Were the parent killed, the zombie would wait for PID 1 of this machine, and its namespace with it.
    """

    def send_signal(self, sig: int) -> None:
        if self.poll() is None:
            for pid in _children(self.pid) or [self.pid]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, sig)


class Container:
    """One boot of a release; a context manager that leaves nothing behind.

    `binds` maps paths of this machine to paths inside, where they are read-only. `overlays` does the same, but what is
    written there is the container's own. `root` is a directory that `save` has made, to be booted instead of the plain
    release.
    """

    def __init__(
        self,
        suite: Suite,
        *,
        binds: Mapping[Path, Path] | None = None,
        overlays: Mapping[Path, Path] | None = None,
        root: Path | None = None,
    ) -> None:
        self.suite = suite
        self._root = root
        self.name = f"weft-test-{os.getpid()}-{next(_serial)}"
        self._mounts = [
            *(f"--bind-ro={_escaped(path)}:{_escaped(inside)}" for path, inside in (binds or {}).items()),
            *(
                f"--overlay={_escaped(path)}::{_escaped(inside)}"
                for path, inside in (overlays or {}).items()
            ),
        ]
        self._nspawn: Command | None = None
        self._commands: list[Command] = []
        self._init = 0  # PID of the container's PID 1, as seen from here
        self._running = False

    def __enter__(self) -> Self:
        root = self._root or make_root(self.suite)
        with tempfile.TemporaryFile() as console:
            try:
                self._nspawn = Command(
                    [*PRIVATE, BOOT, "sh", root, self.name, *self._mounts],
                    stdin=subprocess.DEVNULL,
                    stdout=console,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
                    start_new_session=True,  # Ctrl-C is for the tests alone
                )
                self._wait_until_running(self._nspawn, console)
            except BaseException:
                self.close()
                raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Power off, by force where asking does not help; no process, mount or cgroup stays."""
        process, self._nspawn = self._nspawn, None
        if process is None:
            return
        try:
            for command in self._commands:
                command.kill()
                command.wait()
            if self._running and process.poll() is None:
                os.kill(self._init, signal.SIGRTMIN + 4)  # "power off", says systemd(1)
                process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            pass
        finally:
            process.kill()
            process.wait()
            subprocess.run([*MOUNTS, "sh", "-ec", SWEEP, "sh", self.name], check=True, timeout=STOP_SECONDS)

    def reboot(self) -> None:
        """Boot again; what is on disks stays. Commands that still run are killed."""
        nspawn, before = self._nspawn, self._init
        if nspawn is None:
            raise ContainerError(f"container '{self.name}' is not running")
        for command in self._commands:
            command.kill()
            command.wait()
        self._commands.clear()
        self._running = False
        os.kill(before, signal.SIGRTMIN + 5)  # "reboot", says systemd(1)
        deadline = time.monotonic() + BOOT_SECONDS
        while (init := _init_of(nspawn.pid)) in (0, before):
            if nspawn.poll() is not None or time.monotonic() > deadline:
                raise ContainerError(f"'{self.suite}' does not come back from a reboot")
            time.sleep(POLL_SECONDS)
        self._init = init
        with tempfile.TemporaryFile() as console:
            self._wait_until_running(nspawn, console)

    def save(self, directory: Path) -> None:
        """Power off, and copy all that is on disks to a new directory, with an empty machine id again."""
        nspawn = self._nspawn
        if nspawn is None:
            raise ContainerError(f"container '{self.name}' is not running")
        # It holds the mounts, which the container takes along otherwise.
        copy = 'read -r _; cp --archive /run/systemd/root "$0"; : >"$0/etc/machine-id"'
        copier = subprocess.Popen(
            ["nsenter", f"--target={nspawn.pid}", "--mount", "--", "sh", "-ec", copy, directory],
            stdin=subprocess.PIPE,
        )
        try:
            self.close()
            copier.communicate(b"\n")
        finally:
            copier.kill()
            copier.wait()
        if copier.returncode:
            raise ContainerError(f"cannot copy the disks of '{self.name}' to {directory}")

    @property
    def is_alive(self) -> bool:
        return self._nspawn is not None and self._nspawn.poll() is None

    def run(
        self,
        *argv: str,
        check: bool = True,
        input: str | None = None,  # noqa: A002 - named as in subprocess.run
        timeout: float = 60,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside, to its end, in a clean environment and the cgroup of PID 1."""
        stdin = subprocess.DEVNULL if input is None else subprocess.PIPE
        with self.popen(*argv, stdin=stdin, env=env, user=user) as process:
            try:
                stdout, stderr = process.communicate(input, timeout)
            except BaseException:
                process.kill()
                raise
        if check and process.returncode:
            error = subprocess.CalledProcessError(process.returncode, argv, stdout, stderr)
            error.add_note(f"stdout: {stdout}\nstderr: {stderr}")
            raise error
        return subprocess.CompletedProcess(argv, process.returncode, stdout, stderr)

    @contextlib.contextmanager
    def repaired_by(self, commands: str) -> Iterator[None]:
        """Run `commands`, each of which may fail, if what is done meanwhile fails: the next test is judged alone then."""
        try:
            yield
        except BaseException:
            self.run("sh", "-c", commands, check=False, timeout=300)
            raise

    def popen(
        self,
        *argv: str,
        stdin: int = subprocess.DEVNULL,
        stdout: int = subprocess.PIPE,
        stderr: int = subprocess.PIPE,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
    ) -> Command:
        """Start a command inside; it is killed at the latest when the container is closed."""
        nspawn = self._nspawn
        if nspawn is None or nspawn.poll() is not None:
            raise ContainerError(f"container '{self.name}' is not running")
        identity: tuple[str, ...] = ()
        if user is not None:
            group = self.run("id", "--group", user).stdout.strip()
            identity = ("setpriv", f"--reuid={user}", f"--regid={group}", "--init-groups", "--")
        # nsenter does not change the cgroup, and from inside no process can reach across a cgroup namespace.
        cgroup = f"/proc/{nspawn.pid}/root/sys/fs/cgroup/{self.name}/payload/init.scope/cgroup.procs"
        command = Command(
            [
                *("sh", "-c", 'echo $$ >"$0" && exec "$@"', cgroup),
                *("nsenter", "--target", str(self._init), "--all", "--no-fork", "--"),
                *("perl", "-e", AWAIT, *identity, *argv),
            ],
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env={**ENVIRONMENT, "HOME": "/root" if user is None else "/", **(env or {})},
            encoding="utf-8",
            errors="backslashreplace",
            start_new_session=True,
        )
        self._commands.append(command)
        return command

    def write(self, path: str | Path, text: str, mode: int = 0o644) -> None:
        """Put a file into the container, with the directories above it."""
        self.run("install", "-D", f"--mode={mode:o}", "/dev/stdin", os.fspath(path), input=text)

    def journal(self, *matches: str, at_least: int = 0) -> list[dict[str, object]]:
        """Return the journal's entries; a value with unprintable characters comes as bytes.

        The daemon waits for no entry: an answer may be there before the entry that tells the same. So who knows that
        there are some says how many to wait for, `at_least`.
        """
        deadline = time.monotonic() + ENTRY_SECONDS
        while True:
            self.run("journalctl", "--sync")
            shown = self.run(
                "journalctl", "--quiet", "--no-pager", "--all", "--output=json", *matches
            ).stdout
            entries = [json.loads(line) for line in shown.splitlines()]
            if len(entries) >= at_least or time.monotonic() > deadline:
                break
            time.sleep(POLL_SECONDS)
        return [{name: _value(field) for name, field in entry.items()} for entry in entries]

    def _wait_until_running(self, nspawn: Command, console: IO[bytes]) -> None:
        deadline = time.monotonic() + BOOT_SECONDS
        state = ""
        while nspawn.poll() is None and (left := deadline - time.monotonic()) > 0:
            self._init = self._init or _init_of(nspawn.pid)
            if self._init:
                # It fails at once while there is no bus yet.
                with contextlib.suppress(subprocess.TimeoutExpired):
                    wait = self.run("systemctl", "is-system-running", "--wait", check=False, timeout=left)
                    state = wait.stdout.strip() or state
            if state == "running":
                self._running = True
                return
            if state == "degraded":
                failed = self.run("systemctl", "--failed", "--plain", "--no-legend").stdout
                raise ContainerError(f"'{self.suite}' is degraded, failed units:\n{failed}")
            time.sleep(POLL_SECONDS)
        console.seek(0)
        fate = "ended while booting" if nspawn.poll() is not None else f"is not up after {BOOT_SECONDS} s"
        output = console.read().decode(errors="backslashreplace")
        raise ContainerError(f"'{self.suite}' {fate}, last state '{state}', console:\n{output}")


def _children(pid: int) -> list[int]:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def _init_of(wrapper: int) -> int:
    """Return the PID of the container's PID 1, or 0 while its start is still being prepared."""
    for child in _children(wrapper):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if Path(f"/proc/{child}/comm").read_text() == "systemd\n":
                return child
        if init := _init_of(child):
            return init
    return 0


def _escaped(path: Path) -> str:
    return os.fspath(path).replace("\\", "\\\\").replace(":", "\\:")


def _value(field: object) -> object:
    """Undo what journalctl does to a value that is not printable UTF-8: a list of its bytes."""
    if isinstance(field, list) and all(isinstance(item, int) for item in field):
        return bytes(field)
    return field
