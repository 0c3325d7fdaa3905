# SPDX-License-Identifier: Apache-2.0
"""The package in a root in which no systemd runs, as when an image is built; and what piuparts thinks of it."""

import os
import subprocess
from pathlib import Path

from tests.package.conftest import Deb, in_chroot
from tests.system.container import PRIVATE, Suite, make_root
from tests.unit.needs import tool

INSTALL = """
dpkg --install /opt/weft-runtime.deb
systemctl is-enabled weft-appd.service weft-appd.socket
! systemctl is-enabled weft-appd-ws.socket
getent passwd weft weft-compile
[ "$(stat --format=%U:%a /var/lib/weft /var/lib/weft/apps)" = "root:755
root:755" ]
# In a home it would leave compiled code, which is no file of ours any more.
env --unset=HOME weft-runtime-wasmtime org.weft.examples.hello 1
dpkg --install /opt/weft-runtime.deb
mkdir /var/lib/weft/apps/org.example.mine
systemctl enable weft-app@org.example.mine.service
weft-pack uninstall org.example.mine 2>&1 | grep 'disabled weft-app@org.example.mine.service'
! systemctl is-enabled weft-app@org.example.mine.service
# As dpkg --force-script-chrootless does it from outside of another root: that one's files are meant, not ours.
mkdir -p /tmp/other/etc/weft
DPKG_ROOT=/tmp/other sh -e /var/lib/dpkg/info/weft-runtime.postrm purge
[ -e /etc/weft/appd.toml ]
[ ! -e /tmp/other/etc/weft ]
dpkg --remove weft-runtime
dpkg --purge weft-runtime
[ -z "$(find / -xdev -name '*weft*' -not -path '/opt/*')" ]
"""


def test_it_installs_works_and_goes_where_no_systemd_runs(suite: Suite, deb: Deb) -> None:
    done = in_chroot(suite, deb.path, INSTALL)
    assert "\nHello, world!\n" in done.stdout
    assert "READY\n" in done.stdout


def test_piuparts_finds_nothing(root_gate: None, deb: Deb, tmp_path: Path) -> None:
    piuparts = tool("piuparts", "piuparts")
    # The root holds systemd and what else the package needs already: their traces are not ours, and nothing has to
    # be downloaded.
    root = make_root(Suite.BOOKWORM)
    options = ("--distribution=bookworm", "--no-upgrade-test", "--existing-chroot", os.fspath(root))
    done = subprocess.run(
        [
            *PRIVATE,
            'exec "$@"',
            "sh",
            piuparts,
            *options,
            "--tmpdir",
            os.fspath(tmp_path),
            os.fspath(deb.path),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "PASS: Installation and purging test." in done.stdout
