# SPDX-License-Identifier: Apache-2.0
"""Ways in which a device breaks: commands that break it, what the doctor finds, and what has to be cleared away after.

All commands are those of root. Findings of one device do not hide each other, so a case has as many as can be at the same
time; the commands that the doctor names are run in its order.
"""

from typing import NamedTuple

HELLO, TICKER = "org.weft.examples.hello", "org.weft.examples.ticker"
STORE = "/var/lib/weft/apps"
DROP_IN = "/etc/systemd/system/weft-appd.service.d"
APP_DROP_IN = "/etc/systemd/system/weft-app@.service.d"
TICKER_DROP_IN = f"/etc/systemd/system/weft-app@{TICKER}.service.d"


class Fault(NamedTuple):
    """One thing that is wrong, and the finding that names it."""

    how: str
    """Commands that make it so; none where another fault of the case has done that."""
    check: str
    status: str
    text: str
    """A regular expression for what it is and why."""
    mends: bool = True
    """Whether the command of the finding mends it; one that only shows who fills a disk does not."""


class Case(NamedTuple):
    name: str
    faults: tuple[Fault, ...]
    after: str = "true"
    """Commands that make the device as it was, where it is mended but not the same."""
    before: str = "true"


def _hello(name: str, version: str = "1.0.0", store: str = STORE) -> str:
    """A package of a test, made of the example."""
    return (
        f"cp -r /usr/share/weft/apps/{HELLO} {store}/{name}; "
        f'sed -i \'s/^id = .*/id = "{name}"/; s/^version = .*/version = "{version}"/\' {store}/{name}/wapp.toml; '
    )


def _full(directory: str, options: str, fill: str) -> str:
    """A disk of its own for a directory, with what is in it, and full."""
    return (
        f"cp -a {directory} /tmp/kept; mount -t tmpfs -o {options} tmpfs {directory}; cp -a /tmp/kept/. {directory}; "
        f"rm -r /tmp/kept; {fill}"
    )


REPAIR = f"""
umount /var/lib/weft/data /var/lib/weft/appd /var/cache/weft/appd /var/cache/weft/system
rm -rf {STORE}/* /var/lib/weft/data/* /etc/weft/trusted.d/* /etc/weft/revoked.d {DROP_IN} {APP_DROP_IN} {TICKER_DROP_IN} /var/lib/weft/appd/last-*
systemctl unmask weft-appd.service weft-appd.socket
systemctl disable --now weft-appd-ws.socket weft-app@org.example.none weft-app@org.example.gone weft-app@org.example.i
systemctl stop hog weft-appd.service weft-appd.socket
systemd-sysusers
usermod --append --groups weft alice
chmod 755 /etc/weft /etc/weft/trusted.d {STORE}
chown -R weft: /var/lib/weft/appd /var/lib/weft/data /var/cache/weft/appd
chmod 700 /var/lib/weft/appd /var/lib/weft/data /var/cache/weft/appd
chmod 755 /var/cache/weft/system /var/cache/weft/system/code
for file in appd.toml pack.toml; do cp /opt/$file /etc/weft; chmod 644 /etc/weft/$file; done
cd /tmp && apt-get install --yes --reinstall ./weft-runtime_*.deb
systemctl daemon-reload
systemctl enable weft-appd.service weft-appd.socket
systemctl reset-failed
systemctl start systemd-journald.socket systemd-journald weft-appd.socket weft-appd.service
"""
"""Makes the device as it was, after a case that has not come to its end, so that the next one is judged alone."""

FILES = Case(
    "files",
    (
        Fault("chmod 666 /etc/weft/pack.toml", "trust", "problem", r"pack\.toml' can be written by others: its mode is 666"),
        Fault(
            "mkdir -p /etc/weft/trusted.d /etc/weft/revoked.d; echo nonsense >/etc/weft/trusted.d/one.pub",
            "trust", "problem", r"trusted\.d/one\.pub does not hold 64 hexadecimal digits",
        ),
        Fault(
            "cp /root/keys/weft-sign.pub /etc/weft/trusted.d/two.pub; chmod 666 /etc/weft/trusted.d/two.pub",
            "trust", "problem", r"trusted\.d/two\.pub can be written by others",
        ),
        Fault(
            "cp /root/keys/weft-sign.pub /etc/weft/trusted.d/three.key", "trust", "note",
            r"trusted\.d/three\.key is passed over: the name of a key ends in \.pub",
        ),
        Fault(
            "cp /root/keys/weft-sign.pub /etc/weft/trusted.d/four.pub; chown weft /etc/weft/trusted.d/four.pub",
            "trust", "problem", r"trusted\.d/four\.pub belongs to the user \d+, not to 0",
        ),
        Fault(
            "echo nonsense >'/etc/weft/revoked.d/a key'", "trust", "problem",
            r"revoked\.d/a key does not hold 64 hexadecimal digits: no key is trusted",
        ),
        Fault(
            "echo nonsense >/etc/weft/revoked.d/b; chmod 600 /etc/weft/revoked.d/b", "trust", "problem",
            r"cannot read '/etc/weft/revoked\.d/b'",
        ),
        Fault(
            _hello("org.example.a") + f"chmod 600 {STORE}/org.example.a/app.wasm", "packages", "problem",
            r"the user weft cannot read /var/lib/weft/apps/org\.example\.a/app\.wasm",
        ),
        Fault(
            _hello("org.example.b") + f"chmod 700 {STORE}/org.example.b", "packages", "problem",
            r"the user weft cannot read /var/lib/weft/apps/org\.example\.b",
        ),
        Fault(
            _hello("org.example.c") + f"rm {STORE}/org.example.c/app.wasm", "packages", "problem",
            r"app\.wasm not found at /var/lib/weft/apps/org\.example\.c/app\.wasm",
        ),
        Fault(
            _hello("org.example.d") + f"echo x >{STORE}/org.example.d/wapp.toml", "packages", "problem",
            r"org\.example\.d/wapp\.toml is not TOML",
        ),
        Fault(
            _hello("org.example.e") + f"sed -i 's/^capabilities = .*/capabilities = [\"rocket\"]/' {STORE}/org.example.e/wapp.toml",
            "packages", "problem", r"org\.example\.e asks for the unknown capability 'rocket'",
        ),
        Fault(
            _hello("org.example.j") + f"echo text >{STORE}/org.example.j/app.wasm",
            "packages", "problem", r"org\.example\.j/app\.wasm is text, not a WebAssembly module",
        ),
        Fault(
            "chmod 666 /etc/weft/appd.toml", "settings", "problem",
            r"/etc/weft/appd\.toml can be written by others: its mode is 666",
        ),
        Fault(
            _hello(HELLO, "0.9.0"), "packages", "note",
            rf"{HELLO} 0\.9\.0 in {STORE} hides the newer 1\.0\.0 in /usr/share/weft/apps",
        ),
        Fault(
            "mkdir -p /var/lib/weft/data/org.example.f", "data", "problem",
            r"data/org\.example\.f belongs to the user 0, not to weft",
        ),
        Fault(
            "mkdir -p /var/lib/weft/data/org.example.g; touch /var/lib/weft/data/org.example.g/x; "
            "chown weft /var/lib/weft/data/org.example.g; chmod 700 /var/lib/weft/data/org.example.g",
            "data", "problem", r"1 file in /var/lib/weft/data/org\.example\.g belong to other users than weft",
        ),
        Fault(
            "mkdir -p /var/lib/weft/data/org.example.h; chown weft /var/lib/weft/data/org.example.h; "
            "chmod 500 /var/lib/weft/data/org.example.h",
            "data", "problem", r"data/org\.example\.h cannot be written: its mode is 500",
        ),
        Fault("chown root /var/cache/weft/appd", "directories", "problem", r"/var/cache/weft/appd belongs to the user 0"),
        Fault(
            "chmod 777 /var/cache/weft/system/code", "directories", "problem",
            r"/var/cache/weft/system/code can be written by others: its mode is 777",
        ),
        Fault("chmod 500 /var/lib/weft/appd", "directories", "problem", r"/var/lib/weft/appd cannot be used: its mode is 500"),
        Fault(
            "chmod 666 /run/weft/appd.sock", "socket", "problem",
            r"the mode of /run/weft/appd\.sock is 666, not 660: others than the group can start and end apps",
        ),
        Fault("chgrp root /run/weft/appd.sock", "socket", "problem", r"/run/weft/appd\.sock belongs to 0:0, not to 0:"),
        Fault("chmod 700 /run/weft", "socket", "problem", r"nobody but its owner gets into /run/weft"),
    ),
    after=f"rm -rf {STORE}/* /etc/weft/trusted.d/* /etc/weft/revoked.d /var/lib/weft/data/org.example.*",
)  # fmt: skip

PARENTS = Case(
    "directories above",
    (
        Fault(f"chmod 700 {STORE}", "packages", "problem", rf"the user weft cannot read {STORE}: .*the mode of {STORE} is 700"),
        Fault("chmod 600 /etc/weft/pack.toml", "trust", "problem", r"cannot read '/etc/weft/pack\.toml'.*its mode is 600"),
        Fault("chmod 777 /etc/weft/trusted.d", "trust", "problem", r"/etc/weft/trusted\.d can be written by others"),
    ),
    after="rm -rf /etc/weft/trusted.d/* /etc/weft/revoked.d",
)  # fmt: skip

REVOKED = Case(
    "a revoked key",
    (
        Fault(
            "mkdir -p /etc/weft/revoked.d; cp /root/keys/weft-sign.pub /etc/weft/revoked.d/x; "
            "cp /root/keys/weft-sign.pub /etc/weft/trusted.d/x.pub",
            "trust", "note", r"the key in /etc/weft/trusted\.d/x\.pub is revoked: by /etc/weft/revoked\.d/x",
        ),
        Fault(f"chmod 777 {STORE}", "packages", "problem", rf"{STORE} can be written by others than root"),
    ),
    after="rm -rf /etc/weft/trusted.d/* /etc/weft/revoked.d",
)  # fmt: skip

_INSTALL_SIGNED = (
    f"cp -r /usr/share/weft/apps/{HELLO} /tmp/signed; sed -i 's/^id = .*/id = \"org.example.signed\"/' /tmp/signed/wapp.toml; "
    "weft-pack sign /tmp/signed --key /root/keys/weft-sign.key; weft-pack install /tmp/signed; rm -r /tmp/signed; "
    "cp /root/keys/weft-sign.pub /etc/weft/trusted.d/x.pub; "
)

POLICIES = (
    Case(
        "a policy that is none",
        (
            Fault(
                "echo 'policy = warm' >/etc/weft/pack.toml", "trust", "problem",
                r"/etc/weft/pack\.toml is not TOML.*no app starts",
            ),
        ),
    ),
    Case(
        "a policy that nothing meets",
        (
            Fault(
                "echo 'policy = requier' >/etc/weft/pack.toml", "trust", "problem",
                r"/etc/weft/pack\.toml is not TOML.*no app starts",
            ),
        ),
    ),
    Case(
        "no app is signed",
        (
            Fault(
                "echo 'policy = \"require\"' >/etc/weft/pack.toml", "trust", "problem",
                r"policy 'require', and no key is trusted: no app starts",
            ),
        ),
    ),
    Case(
        "an app was changed",
        (
            Fault(
                "echo 'policy = \"require\"' >/etc/weft/pack.toml; echo x >>/var/lib/weft/apps/org.example.signed/ui/index.html",
                "trust", "problem",
                r"org\.example\.signed is not signed by a trusted key, or was changed after it was signed",
            ),
            Fault("", "trust", "problem", r"policy 'require', and none of 3 apps is signed by a trusted key"),
        ),
        before=_INSTALL_SIGNED,
        after=f"rm -rf {STORE}/* /etc/weft/trusted.d/*",
    ),
    Case(
        "some apps are not signed",
        (
            Fault(
                "echo 'policy = \"require\"' >/etc/weft/pack.toml; " + _hello("org.example.a"), "trust", "problem",
                r"org\.example\.a is not signed: it does not start: the policy is 'require'",
            ),
        ),
        before=_INSTALL_SIGNED,
        after=f"rm -rf {STORE}/* /etc/weft/trusted.d/*; cp /opt/pack.toml /etc/weft/pack.toml",
    ),
)  # fmt: skip

SETTINGS = (
    Case(
        "wrong settings",
        (
            Fault(
                "printf '%s\\n' 'max_sessions = \"many\"' 'app_store = \"/nope\"' 'frobs = 1' >>/etc/weft/appd.toml", "settings",
                "problem", r"max_sessions is 'many': expected a whole number.*frobs is no setting",
            ),
        ),
    ),
    Case(
        "a store that is not there",
        (
            Fault(
                "echo 'app_store = \"/nope\"' >>/etc/weft/appd.toml", "settings", "problem",
                r"app_store is '/nope': there is no such directory",
            ),
        ),
    ),
    Case(
        "settings that are no TOML",
        (Fault("echo 'restore = tru' >>/etc/weft/appd.toml", "settings", "problem", r"/etc/weft/appd\.toml is not TOML"),),
    ),
    Case(
        "settings that the daemon cannot read",
        (Fault("chmod 000 /etc/weft/appd.toml", "settings", "problem", r"the user weft cannot read /etc/weft/appd\.toml"),),
    ),
    Case(
        "settings of a directory that the daemon cannot enter",
        (Fault("chmod 700 /etc/weft", "settings", "problem", r"the user weft cannot read .*the mode of /etc/weft is 700"),),
    ),
    Case(
        "settings that are no file",
        (
            Fault(
                "rm /etc/weft/appd.toml; mkfifo /etc/weft/appd.toml", "settings", "problem",
                r"cannot read '/etc/weft/appd\.toml': it is not a regular file",
            ),
        ),
        after="cp /opt/appd.toml /etc/weft",
    ),
    Case(
        "settings that are not taken over",
        (
            Fault(
                "echo 'ready_timeout = 31' >>/etc/weft/appd.toml", "settings", "note",
                r"changed, and not taken over: ready_timeout is '30' in weft-appd, '31' in its settings",
            ),
            Fault(
                "touch /lib/systemd/system/weft-appd.service", "service", "note",
                r"the files of weft-appd\.service were changed",
            ),
        ),
        after="cp /opt/appd.toml /etc/weft; systemctl reset-failed weft-appd; systemctl restart weft-appd",
    ),
    Case(
        "a wrong variable of the unit",
        (
            Fault(
                f"mkdir -p {DROP_IN}; printf '[Service]\\nEnvironment=WEFT_READY_TIMEOUT=soon\\n' >{DROP_IN}/x.conf; "
                "systemctl daemon-reload",
                "settings", "problem", r"\$WEFT_READY_TIMEOUT is 'soon'",
            ),
        ),
        after=f"rm -r {DROP_IN}; systemctl daemon-reload; systemctl reset-failed weft-appd; systemctl restart weft-appd",
    ),
    Case(
        "a start that was tried too often",
        (
            Fault(
                "echo 'restore = 7' >>/etc/weft/appd.toml; systemctl stop weft-appd.service weft-appd.socket; "
                "for i in 1 2 3 4 5 6; do systemctl start weft-appd || true; done; cp /opt/appd.toml /etc/weft",
                "service", "problem", r"weft-appd\.service is failed: result: (start-limit-hit|exit-code)",
            ),
        ),
    ),
)  # fmt: skip

UNITS = (
    Case(
        "units",
        (
            Fault(
                "systemctl disable weft-appd.service weft-appd.socket", "boot", "problem",
                r"weft-appd\.service and weft-appd\.socket are disabled: nothing starts at the next boot",
            ),
            Fault(
                "systemctl start weft-app@org.example.none || true", "apps", "problem",
                r"weft-app@org\.example\.none\.service is failed: it ended with status 166, .*'org\.example\.none' not found",
            ),
            Fault(
                "systemctl enable weft-app@org.example.gone", "apps", "problem",
                r"weft-app@org\.example\.gone\.service is enabled: org\.example\.gone is not installed",
            ),
            Fault(
                _hello("org.example.i") + f"cp {STORE}/org.example.i/wapp.toml /tmp; echo x >{STORE}/org.example.i/wapp.toml; "
                f"systemctl start weft-app@org.example.i || true; cp /tmp/wapp.toml {STORE}/org.example.i",
                "apps", "problem", r"weft-app@org\.example\.i\.service is failed: it ended with status 165, .*is not TOML",
            ),
            Fault(
                "systemd-run --quiet --unit=hog python3 -m http.server --bind 127.0.0.1 7410; "
                "until grep -q :1CF2 /proc/net/tcp; do sleep 0.1; done; "
                "systemctl enable weft-appd-ws.socket; systemctl reset-failed weft-appd; systemctl restart weft-appd",
                "websocket", "problem",
                r"weft-appd-ws\.socket is enabled and failed: nobody listens at 127\.0\.0\.1:7410: port 7410 is in use by python3",
            ),
        ),
        after=f"systemctl disable --now weft-appd-ws.socket; systemctl reset-failed weft-appd; systemctl restart weft-appd; rm -rf {STORE}/*",
    ),
    Case(
        "services that never fail",
        (
            Fault(
                f"mkdir -p {APP_DROP_IN}; printf '[Service]\\nTimeoutStartSec=2min\\n' >{APP_DROP_IN}/x.conf; "
                "systemctl daemon-reload",
                "apps", "note",
                r"weft-app@\.service is started again for ever .*READY: StartLimitIntervalSec= is 240 s, .* need 631 s",
            ),
            Fault(
                f"mkdir -p {TICKER_DROP_IN}; printf '[Unit]\\nStartLimitIntervalSec=0\\n' >{TICKER_DROP_IN}/x.conf; "
                "systemctl daemon-reload",
                "apps", "note",
                rf"weft-app@{TICKER}\.service is started again for ever .*READY: StartLimitIntervalSec= is 0 s",
            ),
        ),
        after=f"rm -r {APP_DROP_IN} {TICKER_DROP_IN}; systemctl daemon-reload",
    ),
    Case(
        "a WebSocket that a boot opens by itself",
        (
            Fault(
                "mkdir -p /etc/systemd/system/sockets.target.wants; ln -s /lib/systemd/system/weft-appd-ws.socket "
                "/etc/systemd/system/sockets.target.wants; systemctl daemon-reload",
                "websocket", "problem",
                r"sockets\.target\.wants/weft-appd-ws\.socket is left of an earlier release: a boot opens",
            ),
        ),
        after="test -L /etc/systemd/system/weft-appd.service.wants/weft-appd-ws.socket; "
        "systemctl disable --now weft-appd-ws.socket; systemctl reset-failed weft-appd; systemctl restart weft-appd",
    ),
    Case(
        "a WebSocket that is not open",
        (Fault("systemctl enable weft-appd-ws.socket", "websocket", "problem", r"enabled and inactive: nobody listens at"),),
    ),
    Case(
        "a WebSocket that is not enabled",
        (Fault("systemctl disable weft-appd-ws.socket", "websocket", "note", r"open at 127\.0\.0\.1:7410, but .*not enabled"),),
    ),
    Case(
        "what the services of apps cannot read",
        (
            Fault(
                _hello("org.example.k") + f"chmod 640 {STORE}/org.example.k/app.wasm; chgrp weft {STORE}/org.example.k/app.wasm",
                "packages", "problem",
                r"for services of apps: the user of a service cannot read .*/org\.example\.k/app\.wasm",
            ),
            Fault(
                "chmod 640 /etc/weft/pack.toml; chgrp weft /etc/weft/pack.toml", "trust", "problem",
                r"for services of apps: cannot read '/etc/weft/pack\.toml': Permission denied",
            ),
        ),
        before=f"systemctl start weft-app@{TICKER}",
        after=f"systemctl stop weft-app@{TICKER}; rm -r {STORE}/*",
    ),
    Case(
        "a socket that is none",
        (
            Fault(
                "rm /run/weft/appd.sock; touch /run/weft/appd.sock", "socket", "problem", r"/run/weft/appd\.sock is no socket",
            ),
        ),
    ),
    Case(
        "a socket that is gone",
        (Fault("rm /run/weft/appd.sock", "socket", "problem", r"listen\w+ on '/run/weft/appd\.sock'"),),
    ),
    Case(
        "a daemon that hangs",
        (
            Fault(
                "kill -STOP $(systemctl show --value --property=MainPID weft-appd)", "socket", "problem",
                r"no answer within 5 s",
            ),
        ),
    ),
    Case(
        "a unit that systemd does not take",
        (
            Fault(
                f"systemctl stop weft-appd; mkdir -p {DROP_IN}; printf '[Service]\\nExecStart=nonsense\\n' >{DROP_IN}/x.conf; "
                "systemctl daemon-reload",
                "service", "problem", r"systemd cannot load weft-appd\.service: bad-setting",
            ),
        ),
    ),
    Case(
        "the operator has stopped it",
        (
            Fault(
                "systemctl stop weft-appd.service weft-appd.socket", "service", "note",
                r"weft-appd\.service is stopped, and so are its sockets",
            ),
            Fault("mkdir -p /run/weft-appd", "directories", "note", r"/run/weft-appd is left of a weft-appd that has ended"),
            Fault("", "socket", "note", r"not open: weft-appd is stopped"),
        ),
    ),
    Case(
        "masked units",
        (
            Fault(
                "systemctl stop weft-appd.service weft-appd.socket; systemctl mask weft-appd.service weft-appd.socket",
                "service", "problem", r"weft-appd\.service and weft-appd\.socket are masked: nothing can start it",
            ),
        ),
    ),
    Case(
        "no user and no group",
        (
            Fault(
                "systemctl stop weft-appd.service weft-appd.socket; userdel weft; groupdel weft; userdel weft-compile; "
                "systemctl start weft-appd || true",
                "users", "problem", r"there is no user 'weft': weft-appd\.service runs as it",
            ),
            Fault("", "users", "problem", r"there is no group 'weft'"),
            Fault("", "users", "problem", r"there is no user 'weft-compile': no app is compiled when it is installed"),
        ),
        after="usermod --append --groups weft alice",
    ),
    Case(
        "no journal",
        (
            Fault(
                "systemctl stop 'systemd-journald*.socket' systemd-journald.service", "journal", "problem",
                r"systemd-journald\.service is (inactive|failed)",
            ),
        ),
    ),
)  # fmt: skip

ENGINES = (
    Case(
        "no runtime",
        (
            Fault(
                "rm /usr/bin/weft-runtime-wasmtime; systemctl reset-failed weft-appd; systemctl restart weft-appd", "engine", "problem",
                r"weft-runtime-wasmtime.*no app runs",
            ),
            Fault(
                "until weftctl list --json | grep -q runtime; do sleep 0.1; done", "restore", "problem",
                rf"{TICKER} waits to be started again, tried \d+ times?: .*runtime",
            ),
        ),
        before=f"weftctl launch {TICKER}",
        after=f"weftctl stop {TICKER}",
    ),
    Case(
        "a runtime that the daemon may not execute",
        (
            Fault(
                "chmod 700 $(readlink -f /usr/bin/weft-runtime-wasmtime)", "engine", "problem",
                r"weft-runtime-wasmtime.*no app runs",
            ),
        ),
    ),
    Case(
        "an engine that does not load",
        (
            Fault(
                "rm $(find /usr/lib/weft-runtime -name '_libwasmtime.so')", "engine", "problem", r"no app runs",
            ),
        ),
    ),
    Case(
        "another runtime",
        (
            Fault(
                f"mkdir -p {DROP_IN}; printf '[Service]\\nEnvironment=WEFT_RUNTIME_BIN=/nope\\n' >{DROP_IN}/x.conf; "
                "systemctl daemon-reload; systemctl reset-failed weft-appd; systemctl restart weft-appd",
                "engine", "problem", r"the runtime '/nope' is no executable program.*: no app runs",
            ),
        ),
        after=f"rm -r {DROP_IN}; systemctl daemon-reload",
    ),
    Case(
        "an older daemon",
        (
            Fault(
                "sed -i 's/^__version__ = .*/__version__ = \"99.0.0\"/' /usr/lib/weft-runtime/weft_runtime/__init__.py",
                "versions", "note", r"weftctl 99\.0\.0, .*but weft-appd \S+ is running",
            ),
        ),
        after="cd /tmp; apt-get install --yes --reinstall ./weft-runtime_*.deb; systemctl reset-failed weft-appd; systemctl restart weft-appd",
    ),
)  # fmt: skip

_ZEROS = "dd if=/dev/zero of={}/filler bs=1M status=none || true"

DISKS = (
    Case(
        "disks",
        (
            Fault(
                _full("/var/lib/weft/data", "size=8M", _ZEROS.format("/var/lib/weft/data")), "disks", "problem",
                r"the disk at /var/lib/weft/data is full: \d+ KiB of 8192 KiB are left for the data of apps", mends=False,
            ),
            Fault(
                _full("/var/lib/weft/appd", "size=8M", _ZEROS.format("/var/lib/weft/appd")), "disks", "problem",
                r"the disk at /var/lib/weft/appd is full: .* left for the state", mends=False,
            ),
            Fault(
                _full("/var/cache/weft/appd", "size=64M,nr_inodes=40",
                      "i=0; while touch /var/cache/weft/appd/$i 2>&-; do i=$((i+1)); done"),
                "disks", "problem", r"the disk at /var/cache/weft/appd has no inodes left", mends=False,
            ),
            Fault(
                _full("/var/cache/weft/system", "size=200M", "mount -o remount,ro /var/cache/weft/system"),
                "disks", "problem", r"the disk at /var/cache/weft/system is read-only",
            ),
        ),
        after="umount /var/lib/weft/data /var/lib/weft/appd /var/cache/weft/appd /var/cache/weft/system",
    ),
    Case(
        "what waits",
        (
            Fault(
                "systemctl stop weft-appd.service weft-appd.socket; cd /var/lib/weft/appd; "
                f"echo '[\"{TICKER}\"]' >last-session.refused.json; chown weft: last-session.refused.json; "
                "systemctl start weft-appd",
                "restore", "problem",
                r"the apps in /var/lib/weft/appd/last-session\.refused\.json were not started again: an earlier start",
            ),
            Fault(
                "rm -f /var/cache/weft/system/code/*; python3 -IS /opt/vain.py", "code", "problem",
                rf"{TICKER} was compiled in vain: it took too long",
            ),
        ),
        after=f"weftctl stop {TICKER}",
    ),
)  # fmt: skip

CASES = (FILES, PARENTS, REVOKED, *POLICIES, *SETTINGS, *UNITS, *ENGINES, *DISKS)
