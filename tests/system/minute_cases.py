# SPDX-License-Identifier: Apache-2.0
"""What can go wrong on a device: how it comes about, what an operator reads of it, and the command that mends it.

The table of `docs/operations.md` is compared with this one. All commands are those of root, by a shell.
"""

from typing import NamedTuple

from tests.command.guests import (
    CREATE,
    OPENED,
    guest,
    leave,
    leave_on_error,
    path_open,
    put,
    say,
    sleep,
    writing,
)
from weft_runtime.journal import Event

HELLO, TICKER, CRASH = "org.weft.examples.hello", "org.weft.examples.ticker", "org.weft.examples.crash"
STORE, SOURCES, CONFIG = "/var/lib/weft/apps", "/opt/sources", "/etc/weft/appd.toml"

SYSTEMD = "systemd"
"""In place of an event: the entry is one of systemd's, about a unit of ours."""

UNASKED = f"{Event.SESSION_ENDED}, unasked and no success"
"""As docs/events.md calls the event of a session that has failed."""

DOCTOR = "weftctl doctor"
"""As the command: all that it names is run."""


class Failure(NamedTuple):
    name: str
    provoke: str
    event: str
    """That of the entry which tells it: UNASKED, SYSTEMD, or the value of an Event."""
    seen: str
    """The text of that entry behind app and session, in which `...` stands for anything; the page has it too."""
    cause: str
    """A regular expression that finds in the text what was done to the device: a file, a line, a status, a name."""
    command: str
    """What helps, as the entry or its explanation by `journalctl -x` names it; the page has it too. APP and ID stand for the
    app and its session there, other words in capitals for whatever is in their place."""
    app: str | None = None
    """The app that the entry is about."""
    is_service: bool = False
    """Whether it runs as a service, else as a session."""
    explains: str = ""
    """A regular expression for what `journalctl -x` says, with blanks for line breaks."""
    untrue: str = ""
    """The same for what no entry may say, nor its explanation."""
    doctor: str = ""
    """The same for what `weftctl doctor` finds, which is asked then."""
    says: tuple[tuple[str, str], ...] = ()
    """Other commands that tell it, and regular expressions for what they print."""
    mend: str = ""
    """What is run where `command` has gaps to fill in, or is part of more that the texts say."""
    shows: str = ""
    """A regular expression for what the commands print."""
    works: str = ""
    """Commands that succeed once it is mended, and do not bring the same entry again."""
    clean: str = ""
    """What has to be cleared away then, beside services and the apps in the store."""


_WRITE = leave_on_error(f"(call $write {OPENED} (i32.const 4096) (i32.const 4096))")

GUESTS: dict[str, tuple[bytes, str, str]] = {
    "odd": (guest(sleep(3600 * 10**9)), "", ""),
    "three": (guest(say("I give up\n", 2) + leave(3)), "", ""),
    "greedy": (
        guest("(loop $l (br_if $l (i32.ne (memory.grow (i32.const 1024)) (i32.const -1)))) unreachable"), "", "",
    ),
    "slow": (guest(sleep(3 * 10**9 // 2) + say("READY\n") + sleep(3600 * 10**9)), "", 'ready = "guest"'),
    "loud": (guest(put("x\n" * 64) + writing(1, 20, 128)), "", ""),
    "rocket": (guest(""), 'capabilities = ["rocket"]', ""),
    "writer": (
        guest(leave_on_error(path_open("file", write=True, flags=CREATE)) + _WRITE * 16),
        'capabilities = ["fs:rw:app-data"]', "",
    ),
}  # fmt: skip
"""Modules of the apps org.example.NAME, which are in SOURCES, and what their tables [package] and [runtime] have besides."""


def _app(name: str) -> str:
    return f"org.example.{name}"


def _put(name: str, change: str = "true") -> str:
    """Commands that put an app into the store, as cp does; then `change` is done to it."""
    return f"cp -r {SOURCES}/{_app(name)} {STORE}; cd {STORE}/{_app(name)}; {change}; cd /; "


def _unit(name: str) -> str:
    return f"weft-app@org.example.{name}.service"


def _again(name: str) -> str:
    return f"weft-pack install {SOURCES}/{_app(name)}"


def _set(line: str) -> str:
    return f"echo '{line}' >>{CONFIG}; systemctl reload weft-appd; "


def _status(unit: str) -> str:
    return f"$(systemctl show --value --property=ExecMainStatus {unit})"


_PLAIN = f"cp /opt/appd.toml {CONFIG}; systemctl reload weft-appd"
_RESTART = "systemctl reset-failed weft-appd.service weft-appd.socket; systemctl restart weft-appd"
_DROP_IN = "/etc/systemd/system/weft-appd.service.d"
_REQUIRE = "echo 'policy = \"require\"' >/etc/weft/pack.toml; "
_PUBLIC = "cp /root/keys/weft-sign.pub /etc/weft/trusted.d; "
_WARN = "cp /opt/pack.toml /etc/weft; rm -f /etc/weft/trusted.d/*"


def _change(line: str) -> str:
    """Commands that add to the daemon's unit."""
    return f"mkdir -p {_DROP_IN}; printf '[Service]\n{line}\n' >{_DROP_IN}/override.conf; systemctl daemon-reload; "


def _full(directory: str, size: str) -> str:
    """Commands that give a directory a disk of its own, with what is in it, and full."""
    return (
        f"mkdir -p {directory}; cp -a {directory} /tmp/kept; mount -t tmpfs -o size={size} tmpfs {directory}; "
        f"cp -a /tmp/kept/. {directory}; rm -r /tmp/kept; dd if=/dev/zero of={directory}/filler bs=4k status=none || true; "
    )


_NEWER = (
    f"cp -r {SOURCES}/org.example.rocket /tmp; cd /tmp/org.example.rocket; "
    "sed -i '/^capab/d; s/^version.*/version = \"9.0.0\"/' wapp.toml; cd /; "
    "weft-pack install /tmp/org.example.rocket; rm -r /tmp/org.example.rocket"
)
"""Commands that install a version of the app which asks for nothing."""


def _runs(app_id: str) -> str:
    return f"weftctl list | grep -q '{app_id} .* running '"


SESSIONS = (
    Failure(
        "an app has done its work",
        f"weftctl launch --wait {HELLO}",
        Event.SESSION_ENDED, "ended with status 0 after ...: the app exited with status 0", "status 0",
        "weftctl launch APP",
        app=HELLO, explains="has ended with success, .* Nothing needs to be done",
    ),
    Failure(
        "an app ends with a status of its own",
        f"{_put('three')} weftctl launch --wait org.example.three || [ $? = 3 ]",
        UNASKED, "ended with status ... after ...: the app exited with status ...", "exited with status 3",
        "weftctl logs ID",
        app=_app("three"), explains=r"App org\.example\.three has failed \(session \d+\)", shows="I give up",
    ),
    Failure(
        "an app crashes",
        f"cp -r /opt/examples/crash {STORE}/{CRASH}; weftctl launch --wait {CRASH} || [ $? = 134 ]",
        Event.TRAPPED, "the app trapped in _start: unreachable: ...", "`unreachable` instruction executed",
        "weftctl logs APP",
        app=CRASH, explains="a defect of the app, or a limit", shows=r"_start \(function \d+, offset 0x",
    ),
    Failure(
        "an app crashes because it gets no more memory",
        f"{_put('greedy')} weftctl launch --wait org.example.greedy || [ $? = 134 ]",
        Event.TRAPPED, "the app trapped in ...; it had ... bytes of memory; the limit for one guest memory is ... bytes",
        r"it had 1006895104 bytes of memory; the limit for one guest memory is 1073741824 bytes",
        "weftctl logs APP",
        app=_app("greedy"), explains="an app that asks for more is refused", shows="limit for one guest memory",
        says=(("weftctl list --all", "limit for one guest memory"),),
    ),
    Failure(
        "somebody has stopped a session",
        f"weftctl launch {TICKER}; setpriv --reuid=alice --regid=alice --init-groups weftctl stop {TICKER}",
        Event.SESSION_ENDED, "ended by SIGTERM after ...: terminated by ...", r"terminated by alice \(uid \d+\)",
        "weftctl launch APP",
        app=TICKER, explains="because that was asked for", untrue="[Nn]obody|No client",
        works=_runs(TICKER), clean=f"weftctl stop {TICKER}",
    ),
    Failure(
        "somebody has stopped a service",
        f"systemctl start weft-app@{TICKER}; systemctl stop weft-app@{TICKER}",
        Event.STOPPED, "stopped by SIGTERM while running _start", "SIGTERM",
        "weftctl logs APP",
        app=TICKER, is_service=True, explains="Somebody or something sent the signal", shows="Stopping ",
    ),
    Failure(
        "a session is killed",
        f"weftctl launch {TICKER}; kill -KILL $(weftctl list --json | pid_of {TICKER}); "
        f"until weftctl list --all | grep -q SIGKILL; do sleep 0.1; done",
        UNASKED, "ended by SIGKILL after ...: killed by SIGKILL", "SIGKILL",
        "weftctl launch APP",
        app=TICKER, says=(("weftctl list --all", f"{TICKER} .* killed by SIGKILL"),),
        works=_runs(TICKER), clean=f"weftctl stop {TICKER}",
    ),
    Failure(
        "a service is killed",
        f"systemctl start weft-app@{TICKER}; systemctl kill --signal=KILL weft-app@{TICKER}; "
        f"until systemctl show weft-app@{TICKER} | grep -q NRestarts=1 && systemctl is-active weft-app@{TICKER}; "
        "do sleep 0.1; done",
        SYSTEMD, "weft-app@...: Main process exited, code=killed, status=9/KILL", "KILL",
        "weftctl status APP",
        app=TICKER, is_service=True, shows="State: +running.*Restarts: +1 by systemd",
    ),
    Failure(
        "a session does not say READY",
        f"{_put('slow')} {_set('ready_timeout = 1')} ! weftctl launch org.example.slow",
        Event.NOT_READY, "ending it: it did not say READY within ... s", "READY within 1 s",
        "ready_timeout",
        app=_app("slow"), explains="setting ready_timeout in /etc/weft/appd.toml .*systemctl reload",
        mend=f"sed -i 's/^ready_timeout = .*/ready_timeout = 30/' {CONFIG}; systemctl reload weft-appd",
        works="weftctl launch org.example.slow", clean=f"weftctl stop org.example.slow; {_PLAIN}",
    ),
    Failure(
        "a service does not say READY",
        f"{_put('slow')} mkdir -p /etc/systemd/system/{_unit('slow')}.d; "
        "printf '[Unit]\nStartLimitBurst=1\n[Service]\nTimeoutStartSec=1\n' "
        f">/etc/systemd/system/{_unit('slow')}.d/override.conf; systemctl daemon-reload; ! systemctl start {_unit('slow')}; "
        f"until systemctl is-failed {_unit('slow')}; do sleep 0.1; done",
        Event.NOT_READY, "it did not say READY within ... s [an app that needs longer: ...]", "READY within 1 s",
        "systemctl edit weft-app@APP.service",
        app=_app("slow"), is_service=True, explains="TimeoutStartSec=", untrue="Nothing needs to be done",
        says=(("weftctl list", "failed .*did not say READY"),),
        mend="SYSTEMD_EDITOR=give_time "
        f"script --quiet --return --command 'systemctl edit {_unit('slow')}' /dev/null; "
        f"systemctl reset-failed {_unit('slow')}",
        works=f"systemctl start {_unit('slow')}",
        clean=f"systemctl stop {_unit('slow')}; rm -r /etc/systemd/system/{_unit('slow')}.d; systemctl daemon-reload",
    ),
    Failure(
        "an app prints too much",
        f"{_put('loud')} weftctl launch --wait org.example.loud",
        Event.OUTPUT_DROPPED, "... lines of its output were dropped: more than ... lines in ... s", "^280 lines .* 1000 lines",
        "log_lines",
        app=_app("loud"), explains="settings log_lines and log_interval",
        mend=_set("log_lines = 2000"), works="weftctl launch --wait org.example.loud", clean=_PLAIN,
    ),
)  # fmt: skip

PACKAGES = (
    Failure(
        "the app of a service is not installed",
        f"! systemctl start {_unit('odd')}; [ {_status(_unit('odd'))} = 166 ]",
        Event.PACKAGE_NOT_FOUND, "package '...' not found in any package store; searched: ...",
        f"'org.example.odd' .*'{STORE}'",
        "weft-pack install",
        app=_app("odd"), is_service=True, explains="weftctl apps", mend=_again("odd"),
        works=f"systemctl start {_unit('odd')}",
    ),
    Failure(
        "an app that is launched is not installed",
        "weftctl launch org.example.odd || [ $? = 166 ]",
        Event.LAUNCH_REFUSED, "launch for ... refused: package '...' not found in any package store; searched: ...",
        f"'org.example.odd' .*'{STORE}'",
        "weft-pack install",
        app=_app("odd"), explains="weftctl apps", mend=_again("odd"), works="weftctl launch org.example.odd",
        clean="weftctl stop org.example.odd",
    ),
    Failure(
        "a manifest is no TOML",
        f"{_put('odd', 'echo x y >>wapp.toml')} ! weftctl launch org.example.odd",
        Event.LAUNCH_REFUSED, "launch for ... refused: ...wapp.toml is not TOML: ...",
        rf"{STORE}/org\.example\.odd/wapp\.toml is not TOML: .*line \d+, column \d+",
        DOCTOR,
        app=_app("odd"), doctor="odd/wapp.toml is not TOML.* install it again",
        works=f"[ ! -e {STORE}/org.example.odd ]; {_again('odd')}; weftctl launch org.example.odd",
        clean="weftctl stop org.example.odd",
    ),
    Failure(
        "a value in a manifest is wrong",
        f"{_put('odd', 'sed -i s/^version.*/version=7/ wapp.toml')} ! systemctl start {_unit('odd')}",
        Event.PACKAGE_INVALID, "...wapp.toml: ... is ...: expected ...",
        rf"{STORE}/org\.example\.odd/wapp\.toml: package\.version is an integer",
        "weft-pack check DIRECTORY",
        app=_app("odd"), is_service=True, explains="install a package that is whole", shows="package.version",
        mend=f"weft-pack check {STORE}/org.example.odd || true; weft-pack uninstall org.example.odd; {_again('odd')}",
        works=f"systemctl start {_unit('odd')}",
    ),
    Failure(
        "a module is something else",
        f"{_put('odd', 'echo text >app.wasm')} weftctl launch org.example.odd || [ $? = 165 ]",
        Event.PACKAGE_INVALID, "...app.wasm is ..., not a WebAssembly module...", rf"{STORE}/org\.example\.odd/app\.wasm is text",
        "weft-pack check DIRECTORY",
        app=_app("odd"), explains="install a package that is whole", shows="is text, not a WebAssembly module",
        mend=f"weft-pack check {STORE}/org.example.odd || true; weft-pack install --force {SOURCES}/org.example.odd",
        works="weftctl launch org.example.odd", clean="weftctl stop org.example.odd",
    ),
    Failure(
        "the module of a session is missing",
        f"{_put('odd', 'rm app.wasm')} weftctl launch org.example.odd || [ $? = 166 ]",
        Event.LAUNCH_REFUSED, "launch for ... refused: ... not found at ...",
        rf"app\.wasm not found at {STORE}/org\.example\.odd/app\.wasm",
        DOCTOR,
        app=_app("odd"), doctor=f"app.wasm not found at {STORE}/org.example.odd/app.wasm.* install it again",
        works=f"[ ! -e {STORE}/org.example.odd ]",
    ),
    Failure(
        "the module of a service is missing",
        f"{_put('odd', 'rm app.wasm')} ! systemctl start {_unit('odd')}; [ {_status(_unit('odd'))} = 166 ]",
        Event.PACKAGE_INVALID, "... not found at ...", rf"app\.wasm not found at {STORE}/org\.example\.odd/app\.wasm",
        "weft-pack check DIRECTORY",
        app=_app("odd"), is_service=True, explains="install a package that is whole", shows=r"app\.wasm",
        mend=f"weft-pack check {STORE}/org.example.odd || true; weft-pack install --force {SOURCES}/org.example.odd",
        works=f"systemctl start {_unit('odd')}",
    ),
    Failure(
        "a service asks for an unknown capability",
        f"{_put('rocket')} ! systemctl start {_unit('rocket')}; [ {_status(_unit('rocket'))} = 177 ]",
        Event.CAPABILITY_REFUSED, "unknown capability '...'", "'rocket'",
        "weft-pack install SOURCE",
        app=_app("rocket"), is_service=True, explains="Nothing is wrong with the device", untrue="full disk",
        mend=_NEWER,
        works=f"systemctl start {_unit('rocket')}",
    ),
    Failure(
        "a session asks for an unknown capability",
        f"{_put('rocket')} ! weftctl launch org.example.rocket",
        Event.CAPABILITY_REFUSED, "launch for ... refused: unknown capability '...'", "'rocket'",
        "weft-pack install SOURCE",
        app=_app("rocket"), explains="Nothing is wrong with the device", untrue="full disk",
        doctor=f"{STORE}/org.example.rocket asks for the unknown capability 'rocket'",
        mend=_NEWER, works="weftctl launch --wait org.example.rocket",
    ),
    Failure(
        "the instance of a service is no app id",
        "! systemctl start weft-app@Nonsense",
        Event.USAGE, "argument app_id: '...' is not an app id: ...", "'Nonsense'",
        "weftctl apps",
        is_service=True, explains="instance of a service must be the id of an installed app", untrue="full disk",
        shows=f"{TICKER} .*", mend=f"weftctl apps; systemctl reset-failed weft-app@Nonsense; systemctl start weft-app@{TICKER}",
        works=f"systemctl is-active weft-app@{TICKER}",
    ),
    Failure(
        "an app is not signed",
        f"{_put('odd')} {_REQUIRE} weftctl launch org.example.odd || [ $? = 177 ]",
        Event.NOT_TRUSTED, "'...' is not signed [the policy in ... is 'require']",
        rf"'{STORE}/org\.example\.odd' is not signed .*/etc/weft/pack\.toml",
        "weft-pack sign",
        app=_app("odd"), explains="install it again", untrue="full disk", doctor="org.example.odd is not signed.*does not start",
        mend=f"cp -r {SOURCES}/org.example.odd /tmp; weft-pack sign /tmp/org.example.odd --key /root/keys/weft-sign.key; "
        f"{_PUBLIC} weft-pack install --force /tmp/org.example.odd; rm -r /tmp/org.example.odd",
        works="weftctl launch org.example.odd", clean=f"weftctl stop org.example.odd; {_WARN}",
    ),
    Failure(
        "an app was changed after it was signed",
        f"{_REQUIRE} {_PUBLIC} weft-pack sign {SOURCES}/org.example.three --key /root/keys/weft-sign.key; "
        f"weft-pack install {SOURCES}/org.example.three; echo x >>{STORE}/org.example.three/ui/index.html; "
        "weftctl launch org.example.three || [ $? = 177 ]",
        Event.CHANGED, "'...' was changed after it was signed: ... [the policy in ... is 'require']",
        rf"'{STORE}/org\.example\.three' .* 'weft-sign' had signed",
        "weft-pack install SOURCE",
        app=_app("three"), explains="somebody who got at the files", untrue="full disk",
        doctor="org.example.three is not signed by a trusted key, or was changed after it was signed",
        mend=f"weft-pack install --force {SOURCES}/org.example.three",
        works="weftctl launch --wait org.example.three || [ $? = 3 ]", clean=_WARN,
    ),
    Failure(
        "the policy is wrong",
        f"{_put('odd')} echo 'policy = warm' >/etc/weft/pack.toml; weftctl launch org.example.odd || [ $? = 178 ]",
        Event.SETTINGS_INVALID, "...pack.toml is not TOML: ...", r"/etc/weft/pack\.toml is not TOML: .*line 1, column",
        DOCTOR,
        app=_app("odd"), doctor=r"/etc/weft/pack\.toml is not TOML.*no app starts",
        says=(("weft-appd --check", r"pack\.toml is not TOML.*no app would start"),),
        works="weftctl launch org.example.odd", clean=f"weftctl stop org.example.odd; {_WARN}",
    ),
    Failure(
        "others can write the policy",
        f"{_put('odd')} chmod 666 /etc/weft/pack.toml; ! systemctl start {_unit('odd')}",
        Event.SETTINGS_INVALID, "'...pack.toml' can be written by others: ...", r"/etc/weft/pack\.toml.* its mode is 666",
        DOCTOR,
        app=_app("odd"), is_service=True, doctor=r"pack\.toml' can be written by others.*no app starts",
        works="weftctl launch org.example.odd", clean="weftctl stop org.example.odd",
    ),
    Failure(
        "the daemon cannot read a package",
        f"{_put('odd', 'chmod 700 .')} ! weftctl launch org.example.odd",
        Event.LAUNCH_REFUSED, "launch for ... refused: cannot read the package '...': Permission denied [...]",
        rf"'{STORE}/org\.example\.odd'",
        "chmod -R a+rX DIRECTORY",
        app=_app("odd"), untrue="not found", doctor=rf"the user weft cannot read {STORE}/org\.example\.odd",
        works="weftctl launch org.example.odd", clean="weftctl stop org.example.odd",
    ),
    Failure(
        "the data of an app belong to root",
        f"{_put('writer')} mkdir /var/lib/weft/data/org.example.writer; ! weftctl launch --wait org.example.writer",
        Event.LAUNCH_REFUSED, "launch for ... refused: cannot write to the data directory '...': it belongs to ... [...]",
        "'/var/lib/weft/data/org.example.writer': it belongs to the user 0",
        "chown -R USER DIRECTORY",
        app=_app("writer"), untrue="cannot make", works="weftctl launch --wait org.example.writer",
        clean="rm -r /var/lib/weft/data/org.example.writer",
    ),
    Failure(
        "the disk with the data of apps is full",
        f"{_put('writer')} {_full('/var/lib/weft/data', '1M')} {_RESTART}; "
        "weftctl launch --wait org.example.writer || [ $? = 51 ]",
        UNASKED, "ended with status ... after ...: the app exited with status ...", "status 51",
        DOCTOR,
        app=_app("writer"), explains="looks at the device, for full disks",
        doctor="the disk at /var/lib/weft/data is full: .* for the data of apps",
        mend="rm /var/lib/weft/data/filler", works="weftctl launch --wait org.example.writer",
        clean=f"umount --lazy /var/lib/weft/data; {_RESTART}",
    ),
    Failure(
        "compiled code is damaged",
        f"weft-pack compile {HELLO}; echo x >/var/cache/weft/system/code/$(code_of {HELLO}); weftctl launch --wait {HELLO}",
        Event.CODE_REJECTED, "..., ignoring this compiled code", r"^/var/cache/weft/system/code/\S+\.code is truncated",
        "weft-pack compile APP",
        app=HELLO, explains="compiled again instead", works=f"weftctl launch --wait {HELLO}",
    ),
    Failure(
        "compiled code cannot be kept",
        f"{_put('odd')} {_full('/var/cache/private/weft-apps', '64k')} rm -f /var/cache/weft/system/code/$(code_of org.example.odd); "
        f"systemctl start {_unit('odd')}",
        Event.CODE_NOT_KEPT, "the compiled code of ... is not kept: ...", rf"{STORE}/org\.example\.odd/app\.wasm .*No space left",
        "weft-pack compile APP",
        app=_app("odd"), is_service=True, explains="each start compiles it again",
        works=f"systemctl restart {_unit('odd')}", clean=f"systemctl stop {_unit('odd')}; umount /var/cache/private/weft-apps",
    ),
)  # fmt: skip

DAEMON = (
    Failure(
        "a setting is wrong at a reload",
        f"echo 'max_sessions = \"many\"' >>{CONFIG}; ! systemctl reload weft-appd",
        Event.RELOAD_FAILED, "reload refused, going on as before: ...", r"/etc/weft/appd\.toml: max_sessions is 'many'",
        "systemctl reload weft-appd",
        explains="No app was touched", untrue="could not be started|did not start",
        mend=f"! weft-appd --check; sed -i '$d' {CONFIG}; systemctl reload weft-appd", works="weftctl status",
    ),
    Failure(
        "a setting is wrong at a start",
        f"echo 'max_sessions = \"many\"' >>{CONFIG}; ! systemctl restart weft-appd",
        Event.SETTINGS_INVALID, "...appd.toml: ... is ...: expected ...", r"/etc/weft/appd\.toml: max_sessions is 'many'",
        DOCTOR,
        untrue="The app ", doctor="max_sessions is 'many'", works="weftctl status", clean=_PLAIN,
    ),
    Failure(
        "the daemon was started too often",
        f"echo 'max_sessions = \"many\"' >>{CONFIG}; for i in 1 2 3 4 5 6; do systemctl restart weft-appd || true; done; "
        f"cp /opt/appd.toml {CONFIG}; ! systemctl start weft-appd",
        SYSTEMD, "weft-appd.service: Start request repeated too quickly.", "too quickly",
        DOCTOR,
        doctor=r"weft-appd\.service is failed", works="weftctl status",
    ),
    Failure(
        "the daemon cannot read its settings",
        f"chmod 000 {CONFIG}; ! systemctl reload weft-appd",
        Event.RELOAD_FAILED, "reload refused, going on as before: cannot read '...': Permission denied",
        r"'/etc/weft/appd\.toml': Permission denied",
        DOCTOR,
        doctor=r"the user weft cannot read /etc/weft/appd\.toml",
        says=(("weft-appd --check", r"cannot read '/etc/weft/appd\.toml': Permission denied"),),
        works="systemctl reload weft-appd",
    ),
    Failure(
        "there is no program that runs apps",
        f"{_change('Environment=WEFT_RUNTIME_BIN=/nope')} {_RESTART}",
        Event.NO_RUNTIME, "the runtime '...' is no executable program [...]", "'/nope' .*WEFT_RUNTIME_BIN",
        DOCTOR,
        untrue="WEFT_APP_ID|Somebody asked", doctor="'/nope' is no executable program.*no app runs",
        works=f"weftctl launch --wait {HELLO}", clean=f"rm -r {_DROP_IN}; systemctl daemon-reload",
    ),
    Failure(
        "the program without an engine runs apps",
        f"mv /usr/lib/weft-runtime/vendor/wasmtime /opt; {_change('Environment=WEFT_RUNTIME_BIN=/usr/bin/weft-runtime')} {_RESTART}; "
        f"weftctl launch --wait {HELLO}",
        Event.STUB, "this is the stub: no Wasm code ran, for want of the engine", "no Wasm code ran",
        "weft-runtime-wasmtime --version",
        app=HELLO, explains="set WEFT_RUNTIME_BIN to it", shows="wasmtime ",
        mend=f"mv /opt/wasmtime /usr/lib/weft-runtime/vendor; weft-runtime-wasmtime --version; "
        f"sed -i 's,/usr/bin/weft-runtime$,&-wasmtime,' {_DROP_IN}/override.conf; systemctl daemon-reload; {_RESTART}",
        works=f"weftctl launch --wait {HELLO}", clean=f"rm -r {_DROP_IN}; systemctl daemon-reload; {_RESTART}",
    ),
    Failure(
        "the engine is missing",
        f"find /usr/lib/weft-runtime -name _libwasmtime.so -delete; {_RESTART}; weftctl launch {HELLO} || [ $? = 169 ]",
        Event.ENGINE_MISSING, "the engine, wasmtime, is installed but cannot be loaded: ... [...]", r"_libwasmtime\.so",
        "weft-runtime-wasmtime --version",
        app=HELLO, explains="Debian package weft-runtime brings the engine: install it again", doctor="no app runs",
        mend="cd /tmp; apt-get install --yes --reinstall ./weft-runtime_*.deb; weft-runtime-wasmtime --version",
        shows="wasmtime ", works=f"weftctl launch --wait {HELLO}",
    ),
    Failure(
        "apps are not started again",
        f"weftctl launch {TICKER}; until grep -q {TICKER} /var/lib/weft/appd/last-session.json; do sleep 0.1; done; "
        f"{_change('RestartSec=100ms')} systemctl reset-failed weft-appd; for i in 1 2 3 4; do "
        f"{_runs(TICKER)}; systemctl kill --signal=KILL --kill-whom=main weft-appd; "
        f"until [ $i = 4 ] || {_runs(TICKER)}; do sleep 0.1; done; done; weftctl status",
        Event.RESTORE_REFUSED, "the last ... starts of these apps did not last ... s; their list is in ... [...]",
        r"/var/lib/weft/appd/last-session\.refused\.json",
        "weftctl restore",
        explains="weftctl launch to find the one that does it", doctor="were not started again: the last 3 starts",
        works=_runs(TICKER), clean=f"weftctl stop {TICKER}; rm -r {_DROP_IN}; systemctl daemon-reload",
    ),
    Failure(
        "the daemon was killed",
        f"weftctl launch {TICKER}; until grep -q {TICKER} /var/lib/weft/appd/last-session.json; do sleep 0.1; done; "
        "systemctl reset-failed weft-appd; before=$(systemctl show --property=MainPID weft-appd); "
        "systemctl kill --signal=KILL --kill-whom=main weft-appd; "
        "until [ $before != $(systemctl show --property=MainPID weft-appd) ] && systemctl is-active weft-appd; do sleep 0.1; done",
        SYSTEMD, "weft-appd.service: Main process exited, code=killed, status=9/KILL", "KILL",
        "systemctl status weft-appd",
        untrue=f"{TICKER}.*(status 1|ended by itself|has failed)", shows=r"active \(running\)",
        works=f"until {_runs(TICKER)}; do sleep 0.1; done", clean=f"weftctl stop {TICKER}",
    ),
    Failure(
        "the list of running apps cannot be saved",
        f"systemctl stop weft-appd; {_full('/var/lib/weft/appd', '1M')} {_RESTART}; weftctl launch {TICKER}",
        Event.SAVE_FAILED, "cannot save the list of running apps in '...': ...",
        r"'/var/lib/weft/appd/last-session\.json': No space left .* will not be started again after the next start",
        "df DIRECTORY",
        explains="The apps themselves go on", doctor=r"the disk at /var/lib/weft/appd is full: .* left for the state",
        mend="df /var/lib/weft/appd; rm /var/lib/weft/appd/filler", shows="100%",
        works=f"until grep -q {TICKER} /var/lib/weft/appd/last-session.json; do sleep 0.1; done",
        clean=f"weftctl stop {TICKER}; systemctl stop weft-appd; umount /var/lib/weft/appd; systemctl start weft-appd",
    ),
    Failure(
        "the port of the WebSocket is taken",
        "systemd-run --quiet --unit=hog python3 -m http.server --bind 127.0.0.1 7410; "
        f"until grep -q :1CF2 /proc/net/tcp; do sleep 0.1; done; systemctl enable --quiet weft-appd-ws.socket; {_RESTART}",
        SYSTEMD, "weft-appd-ws.socket: Failed to create listening socket (...): Address already in use", "7410",
        DOCTOR,
        doctor=r"nobody listens at 127\.0\.0\.1:7410: port 7410 is in use by python3",
        says=(("weftctl status", r"WebSocket: +none at 127\.0\.0\.1:7410: .*'weftctl doctor'"),),
        works=r"weftctl status | grep 'WebSocket:  *127\.0\.0\.1:7410'",
        clean=f"systemctl disable --quiet --now weft-appd-ws.socket; {_RESTART}",
    ),
    Failure(
        "the group is missing",
        "systemctl stop weft-appd.service weft-appd.socket; userdel weft; groupdel weft || true; ! systemctl start weft-appd",
        SYSTEMD, "weft-appd.socket: Failed to resolve group weft: ...", "group weft",
        DOCTOR,
        doctor="there is no group 'weft'", works="weftctl status", clean="usermod --append --groups weft alice",
    ),
)  # fmt: skip

FAILURES = (*SESSIONS, *PACKAGES, *DAEMON)
