# SPDX-License-Identifier: Apache-2.0
"""Boots Debian in a virtual machine, with its own kernel and so all cgroup controllers, and runs commands in it.

The processor is emulated: this works wherever QEMU does, at about a tenth of the speed.
"""

import base64
import fcntl
import hashlib
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Self

from tests.system.container import ENVIRONMENT, PRIVATE, RECIPE, ROOTS, Suite

BOOT_SECONDS = 600  # half a minute on an idle machine
POLL_SECONDS = (0.05, 1.0)  # each question is work for the emulated processor
MEMORY_MIB = 1536
CPUS = 2
DISK_SIZE = "2G"  # sparse

TOOLS = ("mmdebstrap", "mke2fs", "qemu-system-x86_64", "unshare", "setpriv")

AGENT = "org.qemu.guest_agent.0"
SUITE = Suite.BOOKWORM
VM_RECIPE = (
    *RECIPE,
    "--include=udev,kmod,initramfs-tools,linux-image-cloud-amd64,qemu-guest-agent",
    # The only modules that the root needs: a small initrd is soon unpacked.
    '--customize-hook=printf "virtio_pci\\nvirtio_blk\\n" >"$1/etc/initramfs-tools/modules"',
    '--customize-hook=sed -i "s/^MODULES=.*/MODULES=list/" "$1/etc/initramfs-tools/initramfs.conf"',
    '--customize-hook=chroot "$1" update-initramfs -u',
    # Of no use here, and seconds of an emulated boot.
    '--customize-hook=chroot "$1" systemctl --quiet mask e2scrub_reap.service systemd-binfmt.service',
    # It logs each question.
    '--customize-hook=mkdir "$1/etc/systemd/system/qemu-guest-agent.service.d"',
    (
        '--customize-hook=printf "[Service]\\nLogLevelMax=notice\\n" '
        '>"$1/etc/systemd/system/qemu-guest-agent.service.d/quiet.conf"'
    ),
)

# The disk of one machine: the cached root, a package installed in it as in the making of an image, and files.
MAKE_DISK = """
root=$1 deb=$2 files=$3 disk=$4 size=$5
mount -t tmpfs tmpfs /mnt
cd /mnt
mkdir upper work root
mount -t overlay -o "lowerdir=$root,upperdir=upper,workdir=work" overlay root
mount -t proc proc root/proc
mount --bind /dev root/dev
cp "$deb" root/weft-runtime.deb
chroot root dpkg --install /weft-runtime.deb
umount root/dev root/proc
rm root/weft-runtime.deb
cp -R "$files/." root
mke2fs -q -t ext4 -O ^has_journal -m 0 -d root "$disk" "$size"
"""


class MachineError(Exception):
    """No machine can be had here, or one does not boot or answer."""


def missing() -> list[str]:
    """Name what keeps this process from booting machines."""
    rights = [] if os.geteuid() == 0 else ["root"]
    return rights + [tool for tool in TOOLS if shutil.which(tool) is None]


def make_root() -> Path:
    """Return the root without our package, made once and kept until the recipe changes."""
    if lack := missing():
        raise MachineError(f"missing: {', '.join(lack)} [packages: mmdebstrap, e2fsprogs, qemu-system-x86]")
    digest = hashlib.sha256("\0".join(VM_RECIPE).encode()).hexdigest()[:12]
    root, unfinished = ROOTS / f"vm-{SUITE}-{digest}", ROOTS / f"vm-{SUITE}-unfinished"
    ROOTS.mkdir(parents=True, exist_ok=True)
    with (ROOTS / f".vm-{SUITE}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not root.is_dir():
            for old in ROOTS.glob(f"vm-{SUITE}-*"):
                subprocess.run(["rm", "-rf", "--one-file-system", old], check=True)
            # The lock is held until the last process that may write there has ended.
            _run_privately('exec "$@"', *VM_RECIPE, SUITE, unfinished, pass_fds=[lock.fileno()])
            unfinished.rename(root)
    return root


class Machine:
    """One boot of Debian 12; a context manager that leaves nothing behind.

    `deb` is installed in it, and `files` is a directory that is copied over its root.
    """

    def __init__(self, deb: Path, files: Path) -> None:
        self._deb, self._files = deb, files
        self._qemu: subprocess.Popen[bytes] | None = None
        # Appended to by QEMU itself and by what it emulates.
        self._console: IO[bytes] = tempfile.TemporaryFile("a+b")  # noqa: SIM115 - until `close`

    def __enter__(self) -> Self:
        root = make_root()
        # QEMU keeps it open.
        with tempfile.NamedTemporaryFile(dir=ROOTS) as disk:
            _run_privately(MAKE_DISK, root, self._deb, self._files, disk.name, DISK_SIZE)
            try:
                self._boot(root, disk.name)
            except BaseException:
                self.close()
                raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Pull the plug: nothing of it is kept."""
        qemu, self._qemu = self._qemu, None
        if qemu is not None:
            qemu.kill()
            qemu.communicate()
        self._console.close()

    @property
    def is_alive(self) -> bool:
        return self._qemu is not None and self._qemu.poll() is None

    @property
    def console(self) -> str:
        """What the kernel and systemd have written to the console."""
        self._console.seek(0)
        return self._console.read().decode(errors="backslashreplace")

    def run(
        self,
        *argv: str,
        check: bool = True,
        input: str | None = None,  # noqa: A002 - named as in subprocess.run
        timeout: float = 600,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside as root, to its end, in a clean environment."""
        order: dict[str, object] = {
            "path": argv[0],
            "arg": argv[1:],
            "env": [
                f"{name}={value}" for name, value in {**ENVIRONMENT, "HOME": "/root", **(env or {})}.items()
            ],
            "capture-output": True,
        }
        if input is not None:
            order["input-data"] = base64.b64encode(input.encode()).decode()
        started = self._ask("guest-exec", order)
        deadline = time.monotonic() + timeout
        pause, longest = POLL_SECONDS
        while not (ended := self._ask("guest-exec-status", started))["exited"]:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(argv, timeout)
            time.sleep(pause)
            pause = min(2 * pause, longest)
        status = -ended["signal"] if "signal" in ended else ended["exitcode"]
        stdout, stderr = (
            base64.b64decode(ended.get(f"{name}-data", "")).decode(errors="backslashreplace")
            for name in ("out", "err")
        )
        if check and status:
            error = subprocess.CalledProcessError(status, argv, stdout, stderr)
            error.add_note(f"stdout: {stdout}\nstderr: {stderr}")
            raise error
        return subprocess.CompletedProcess(argv, status, stdout, stderr)

    def sh(self, script: str) -> str:
        """The standard output of a shell script that must succeed."""
        return self.run("sh", "-euc", script).stdout

    def write(self, path: str | Path, text: str, mode: int = 0o644) -> None:
        """Put a file into the machine, with the directories above it."""
        self.run("install", "-D", f"--mode={mode:o}", "/dev/stdin", os.fspath(path), input=text)

    def journal(self, *matches: str) -> list[dict[str, object]]:
        """Return the journal's entries."""
        self.run("journalctl", "--sync")
        shown = self.run("journalctl", "--quiet", "--no-pager", "--all", "--output=json", *matches).stdout
        return [json.loads(line) for line in shown.splitlines()]

    def _boot(self, root: Path, disk: str) -> None:
        (kernel,), (initrd,) = root.glob("boot/vmlinuz-*"), root.glob("boot/initrd.img-*")
        self._qemu = subprocess.Popen(
            [
                *("setpriv", "--pdeathsig", "KILL", "qemu-system-x86_64", "-nodefaults", "-no-user-config"),
                *("-accel", "tcg,thread=multi", "-cpu", "max", "-smp", str(CPUS), "-m", str(MEMORY_MIB)),
                *("-display", "none", "-nic", "none", "-no-reboot"),
                *("-kernel", kernel, "-initrd", initrd),
                *("-append", "console=ttyS0 root=/dev/vda rw quiet systemd.show_status=1"),
                *("-drive", f"if=virtio,format=raw,cache=unsafe,file={disk}"),
                *("-chardev", f"file,id=console,append=on,path=/proc/self/fd/{self._console.fileno()}"),
                *("-serial", "chardev:console"),
                *("-chardev", "stdio,id=agent,signal=off", "-device", "virtio-serial"),
                *("-device", f"virtserialport,chardev=agent,name={AGENT}"),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._console,
            pass_fds=[self._console.fileno()],
            start_new_session=True,  # Ctrl-C is for the tests alone
        )
        deadline = time.monotonic() + BOOT_SECONDS
        state = ""
        while state not in ("running", "degraded") and time.monotonic() < deadline:
            # It fails at once while there is no bus yet.
            wait = self.run("systemctl", "is-system-running", "--wait", check=False, timeout=BOOT_SECONDS)
            state = wait.stdout.strip()
        if state != "running":
            failed = self.run("systemctl", "--failed", "--plain", "--no-legend").stdout
            raise MachineError(f"the machine is '{state}', failed units:\n{failed}console:\n{self.console}")

    def _ask(self, command: str, arguments: object) -> Any:
        """Ask the QEMU guest agent; what is asked before it runs, it answers when it does."""
        qemu = self._qemu
        if qemu is None:
            raise MachineError("the machine is not running")
        assert qemu.stdin is not None
        assert qemu.stdout is not None
        try:
            qemu.stdin.write(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
            qemu.stdin.flush()
            # There is one answer to each question, so nothing waits in the buffer.
            answered, _, _ = select.select([qemu.stdout], [], [], BOOT_SECONDS)
            line = qemu.stdout.readline() if answered else b""
        except BrokenPipeError:
            line = b""
        except BaseException:
            self.close()  # the answer would be taken for the next question's
            raise
        if not line:
            fate = "does not answer" if qemu.poll() is None else "has ended"
            raise MachineError(f"the machine {fate}, console:\n{self.console}")
        answer = json.loads(line)
        if "return" not in answer:
            raise MachineError(f"{command}: {answer}")
        return answer["return"]


def _run_privately(script: str, *arguments: str | Path, pass_fds: Sequence[int] = ()) -> None:
    """Run a script that may mount what it likes; it and its mounts end with this process."""
    done = subprocess.run(
        [*PRIVATE, script, "sh", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**ENVIRONMENT, "DEBIAN_FRONTEND": "noninteractive"},
        text=True,
        pass_fds=pass_fds,
        check=False,
    )
    if done.returncode:
        raise MachineError(f"making the disk failed:\n{done.stdout}")
