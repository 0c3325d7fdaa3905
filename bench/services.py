# SPDX-License-Identifier: Apache-2.0
"""`systemctl start` of an app as a service, beside the same unit around the `wasmtime` command, and one without a sandbox.

The command knows nothing of sd_notify(3): a wrapper says READY for it when its first byte of output comes. That wrapper is
of Perl, which every Debian has and which starts in a millisecond or two.
"""

import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from bench.app import App
from bench.measure import BenchError, Case, rotated, run

UNITS = Path("/run/systemd/system")
PLACE = Path("/var/lib/weft-bench")
"""Of what the units execute: in a sandbox nobody else's /tmp is seen."""

OURS, SANDBOXED, OPEN = NAMES = (
    "weft-app@{}.service",
    "weft-app@bench.command.service",
    "bench-open.service",
)
WARM_UPS = 3
"""Starts of each that do not count: directories are made, and the app is compiled."""

WRAPPER = r"""
pipe(my $out, my $in) or die;
defined(my $pid = fork) or die;
if (!$pid) { close $out; open STDOUT, ">&", $in or die; exec { $ARGV[0] } @ARGV or die }
close $in;
sysread($out, my $said, 65536) or die "it said nothing\n";
my $path = $ENV{NOTIFY_SOCKET};
$path =~ s/^@/\0/;
socket(my $manager, 1, 2, 0) or die;
send($manager, "READY=1", 0, pack("S a*", 1, $path)) or die;
do { syswrite STDOUT, $said } while sysread $out, $said, 65536;
waitpid $pid, 0;
exit $? >> 8;
"""
"""AF_UNIX is 1, and SOCK_DGRAM 2: the module that has the names takes longer to load than all of this."""

NO_LIMIT = "[Unit]\nStartLimitIntervalSec=0\n[Install]\nWantedBy=multi-user.target\n[Service]\n"


class Starts(NamedTuple):
    """Seconds of each start of one unit."""

    wall_s: list[float]
    """Of `systemctl start`."""
    inside_s: list[float]
    """From when the unit was begun with to when it was active, as the service manager says."""


def measure(hello: App, command: Case, scratch: Path, count: int) -> Mapping[str, Starts]:
    """Start each unit `count` times, in turns; the results by `NAMES`. Raises BenchError."""
    PLACE.mkdir(exist_ok=True)
    wrapper = PLACE / "wrapper.pl"
    wrapper.write_text(WRAPPER)
    *arguments, compiled = command.argv[: len(command.argv) - len(hello.args)]
    shutil.copy(compiled, PLACE / "hello.cwasm")
    words = ["/usr/bin/perl", str(wrapper), *arguments, str(PLACE / "hello.cwasm"), *hello.args]
    start = " ".join(f'"{word}"' for word in words)
    units = dict(zip(NAMES, (OURS.format(hello.id), SANDBOXED, OPEN), strict=True))
    _drop_in(units[OURS], NO_LIMIT)
    _drop_in(SANDBOXED, f"{NO_LIMIT}ExecStart=\nExecStart={start}\nExecStopPost=\nNotifyAccess=all\n")
    (UNITS / OPEN).write_text(f"{NO_LIMIT}Type=notify\nNotifyAccess=all\nExecStart={start}\n")
    run(["systemctl", "daemon-reload"])
    # Else an inactive unit is forgotten, with its times.
    run(["systemctl", "enable", "--runtime", "--quiet", *units.values()])
    starts = {name: Starts([], []) for name in NAMES}
    for number in range(-WARM_UPS, count):
        for name in rotated(NAMES, number):
            wall, inside = _start(units[name])
            if number >= 0:
                starts[name].wall_s.append(wall)
                starts[name].inside_s.append(inside)
    run(["systemctl", "disable", "--runtime", "--quiet", *units.values()])
    return starts


def _drop_in(unit: str, text: str) -> None:
    directory = UNITS / f"{unit}.d"
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "bench.conf").write_text(text)


def _start(unit: str) -> tuple[float, float]:
    begun = time.monotonic()
    done = subprocess.run(["/usr/bin/systemctl", "start", unit], stdin=subprocess.DEVNULL, check=False)
    wall = time.monotonic() - begun
    # The app ends by itself. This returns when all of the unit has.
    run(["systemctl", "stop", unit])
    names = ("Result", "InactiveExitTimestampMonotonic", "ActiveEnterTimestampMonotonic")
    shown = run(["systemctl", "show", *(f"--property={name}" for name in names), unit]).decode()
    values = dict(line.split("=", 1) for line in shown.splitlines())
    if done.returncode or values["Result"] != "success":
        said = run(["journalctl", "--unit", unit, "--lines=10", "--no-pager", "--output=cat"]).decode()
        raise BenchError(f"{unit} does not start: {values['Result']}: {said}")
    return wall, (int(values[names[2]]) - int(values[names[1]])) / 1e6
