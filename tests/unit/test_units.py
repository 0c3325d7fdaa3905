# SPDX-License-Identifier: Apache-2.0
"""The files for systemd agree with the code, with each other, and with what an old systemd knows."""

import os
import re
import subprocess
import tomllib
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from tests.unit.needs import ROOT, tool
from weft_runtime.appd import background, child, settings
from weft_runtime.appd.daemon import CONTROL_NAME, WS_NAME
from weft_runtime.client import SYSTEM_SOCKET
from weft_runtime.code_cache import Caches
from weft_runtime.errors import ExitStatus
from weft_runtime.journal import MESSAGE_IDS, Event
from weft_runtime.pack import engine
from weft_runtime.settings import SYSTEM_STORES, EngineKind, runtime_settings

INFRA = ROOT / "infra"
UNITS = INFRA / "systemd"
DAEMON, SOCKET, WEBSOCKET, DOORS, APP, SLICE, COMPILE, REQUESTS = (
    "weft-appd.service", "weft-appd.socket", "weft-appd-ws.socket", "weft-appd-sockets.service",
    "weft-app@.service", "weft-apps.slice", "weft-compile.service", "weft-compile.path",
)  # fmt: skip
PULLEY = "weft-app@.service.d/pulley.conf.example"
TOML = INFRA / "appd.toml"

# Exposure times ten, as `systemd-analyze security --threshold=` takes it.
THRESHOLDS = {DAEMON: 10, APP: 5, COMPILE: 12}

# What a restart may cure: a trap can depend on data, and the system may have memory and files again.
CURABLE = {ExitStatus.TRAP, ExitStatus.SOFTWARE, ExitStatus.OS_ERROR, ExitStatus.TRY_AGAIN}

# What the systemd of Debian 12 (252) does not have. It only warns of a key, and reads a value as another one.
TOO_NEW = re.compile(
    r"^(DelegateSubgroup|FileDescriptorStorePreserve|ImportCredential|LogFilterPatterns|MemoryPressure\w+|OpenFile"
    r"|PrivatePIDs|RestartMaxDelaySec|RestartSteps|SurviveFinalKillSignal)=|^Type=notify-reload|=disconnected$",
    re.MULTILINE,
)


def assignments(unit: str) -> Iterator[tuple[str, str, str]]:
    """Section, key and value of each line that assigns one."""
    section = ""
    for line in (UNITS / unit).read_text().splitlines():
        if match := re.fullmatch(r"\[(\w+)\]", line):
            section = match[1]
        elif line and not line.startswith("#"):
            key, _, value = line.partition("=")
            yield section, key, value


def values(unit: str, key: str) -> list[str]:
    return [value for _, name, value in assignments(unit) if name == key]


def value(unit: str, key: str) -> str:
    (found,) = values(unit, key)
    return found


def words(unit: str, key: str) -> set[str]:
    return set(value(unit, key).split())


def installed() -> list[Path]:
    return [TOML, *(path for path in UNITS.rglob("*") if path.is_file())]


@pytest.mark.parametrize("path", installed(), ids=lambda path: path.name)
def test_a_file_has_its_licence_and_no_long_lines(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert lines[0] == "# SPDX-License-Identifier: Apache-2.0"
    assert [line for line in lines if len(line) > 118] == []


@pytest.mark.parametrize("unit", [DAEMON, SOCKET, WEBSOCKET, DOORS, APP, SLICE, COMPILE, REQUESTS])
def test_a_unit_says_where_it_is_described(unit: str) -> None:
    pages = {f"{path.name[:-2]}({path.suffix[1:]})" for path in (ROOT / "docs/man").iterdir()}
    named = [page.removeprefix("man:") for page in value(unit, "Documentation").split()]
    assert named
    assert set(named) <= pages


@pytest.mark.parametrize("unit", [DAEMON, SOCKET, WEBSOCKET, DOORS, APP, SLICE, COMPILE, REQUESTS, PULLEY])
def test_keys_are_sorted_where_there_are_many(unit: str) -> None:
    keys = [
        key for section, key, _ in assignments(unit) if section in ("Service", "Socket", "Slice", "Path")
    ]
    assert keys == sorted(keys, key=str.casefold)


@pytest.mark.parametrize("unit", [DAEMON, SOCKET, WEBSOCKET, DOORS, APP, SLICE, COMPILE, REQUESTS, PULLEY])
def test_no_unit_needs_a_newer_systemd_than_debian_12_has(unit: str) -> None:
    assert TOO_NEW.search((UNITS / unit).read_text()) is None


def test_what_a_restart_cannot_cure_is_not_restarted() -> None:
    assert words(APP, "RestartPreventExitStatus") == {str(int(code)) for code in {*ExitStatus} - CURABLE}
    assert words(DAEMON, "RestartPreventExitStatus") == {
        str(int(code)) for code in (ExitStatus.USAGE, ExitStatus.CONFIG)
    }


def test_a_directive_that_is_left_out_is_missed_aloud() -> None:
    """What one of the services has, the others have as well, or say why they have not."""
    hardening = re.compile(
        r"Protect\w+|Private\w+|Restrict\w+|Lock\w+|NoNew\w+|NoExec\w+|SystemCall\w+|IPAddressDeny"
    )
    has = {unit: {key for _, key, _ in assignments(unit) if hardening.fullmatch(key)} for unit in THRESHOLDS}
    for unit in THRESHOLDS:
        text = (UNITS / unit).read_text()
        lacking = set().union(*has.values(), {"MemoryDenyWriteExecute"}) - has[unit]
        assert [key for key in lacking if not re.search(rf"^#.*{key}=", text, re.MULTILINE)] == []
    assert not values(DAEMON, "MemoryDenyWriteExecute")


def test_the_daemon_may_open_what_its_limits_ask_for() -> None:
    defaults = {setting.name: setting.metadata["default"] for setting in fields(settings.Settings)}
    needed = int(defaults["max_sessions"]) * 4 + int(defaults["max_connections"]) * 2 + 100
    assert needed < int(value(DAEMON, "LimitNOFILE"))
    assert str(needed) in (UNITS / DAEMON).read_text()


def test_sockets_have_the_names_that_the_daemon_looks_for() -> None:
    assert value(SOCKET, "FileDescriptorName") == CONTROL_NAME
    assert value(SOCKET, "ListenStream") == str(SYSTEM_SOCKET)
    assert value(WEBSOCKET, "FileDescriptorName") == WS_NAME
    port = next(field for field in fields(settings.Settings) if field.name == "ws_port").metadata["default"]
    assert value(WEBSOCKET, "ListenStream") == f"127.0.0.1:{port}"
    assert value(WEBSOCKET, "Service") == DAEMON


def test_the_websocket_is_enabled_by_nothing_else() -> None:
    assert value(DAEMON, "Also") == SOCKET
    for unit in (DAEMON, SOCKET, APP):
        assert not [line for line in assignments(unit) if WEBSOCKET in line[2]]


def test_roots_directories_are_made_as_roots() -> None:
    lines = (UNITS / "tmpfiles.d/weft-runtime.conf").read_text().splitlines()
    made = {tuple(line.split()) for line in lines if line and not line.startswith("#")}
    wanted = ("/var/lib/weft", str(SYSTEM_STORES[0]), "/var/cache/weft", "/var/cache/weft/system")
    assert made == {("d", path, "0755", "root", "root", "-") for path in wanted}


def test_the_users_have_no_home_to_put_packages_in() -> None:
    lines = (UNITS / "sysusers.d/weft-runtime.conf").read_text().splitlines()
    made = [
        re.fullmatch(r'u (\S+) +- "[^"]+" +/nonexistent', line) for line in lines if line and line[0] != "#"
    ]
    assert [match and match[1] for match in made] == ["weft", engine.USER]
    assert (value(DAEMON, "User"), value(DAEMON, "Group")) == ("weft", "weft")
    assert not values(COMPILE, "User")


def test_the_compiler_may_write_where_root_keeps_what_it_makes() -> None:
    assert f"/var/cache/{value(COMPILE, 'CacheDirectory')}" == str(Caches().system)
    assert value(COMPILE, "CacheDirectoryMode") == "0755"
    assert f"/run/{value(COMPILE, 'RuntimeDirectory')}" == str(engine.LOCK.parent)


def test_a_request_for_the_compiler_is_where_the_daemon_writes_it() -> None:
    directory = f"/run/{value(DAEMON, 'RuntimeDirectory')}"
    assert value(REQUESTS, "PathChanged") == f"{directory}/{background.FILE_NAME}"
    assert value(REQUESTS, "Unit") == COMPILE
    assert value(COMPILE, "StartLimitIntervalSec") == "0"


def test_a_service_that_ran_into_a_limit_has_the_compiler_started() -> None:
    assert value(APP, "ExecStopPost").endswith("/service-ended %i")
    script = (INFRA / "libexec/service-ended").read_text()
    assert f"MESSAGE_ID={MESSAGE_IDS[Event.NOT_READY]} " in script
    assert f"| *{int(ExitStatus.TRY_AGAIN)}) systemctl --no-block start {COMPILE} " in script
    assert f"*{int(ExitStatus.USAGE)} | *{int(ExitStatus.NO_INPUT)})" in script


def test_five_rounds_without_ready_fit_into_the_start_limit() -> None:
    """With a third more, for each round takes longer on a busy device."""
    one = sum(int(value(APP, key)) for key in ("TimeoutStartSec", "TimeoutStopSec", "RestartSec"))
    assert int(value(APP, "StartLimitIntervalSec")) >= int(value(APP, "StartLimitBurst")) * one * 4 / 3


def test_what_units_run_is_in_the_tree() -> None:
    lines = [*values(DAEMON, "ExecStopPost"), *values(DOORS, "ExecStop"), *values(APP, "ExecStopPost")]
    programs = {line.lstrip("-+").split()[0] for line in lines}
    here = {f"/usr/lib/weft-runtime/{path.name}" for path in (INFRA / "libexec").iterdir()}
    assert programs == here
    assert all(os.access(path, os.X_OK) for path in (INFRA / "libexec").iterdir())


@pytest.mark.parametrize("unit", [DAEMON, APP])
def test_where_the_compiler_can_be_asked_the_runtime_is_told(unit: str) -> None:
    environment = dict(value.split("=", 1) for value in values(unit, "Environment"))
    assert runtime_settings(environment).has_background
    # The daemon's own environment is not that of its sessions.
    assert child.environment(environment, log_to_journal=True)["WEFT_BACKGROUND"] == "1"


def test_the_example_of_a_drop_in_chooses_the_interpreter() -> None:
    name, _, kind = value(PULLEY, "Environment").partition("=")
    assert runtime_settings({name: kind}).engine is EngineKind.PULLEY
    assert value(PULLEY, "MemoryDenyWriteExecute") == "yes"


def test_the_settings_file_lists_each_setting_with_its_default() -> None:
    """One paragraph each: "# VARIABLE: explanation", then "#name = default", a comment as well."""
    _, *paragraphs = re.split(r"\n\n(?=# WEFT_)", TOML.read_text().rstrip())
    shown = [tuple(paragraph.splitlines()) for paragraph in paragraphs]
    assert shown == [
        (
            f"# {setting.metadata['variable']}: {setting.metadata['explanation']}",
            f"#{setting.name} = {in_toml(setting.metadata['default'])}",
        )
        for setting in fields(settings.Settings)
    ]


def in_toml(default: str) -> str:
    return default if default.isdigit() or default in ("true", "false") else f'"{default}"'


def test_the_settings_file_changes_nothing_as_it_is_nor_without_the_comment_signs(tmp_path: Path) -> None:
    assert tomllib.loads(TOML.read_text()) == {}
    everything = tmp_path / "appd.toml"
    everything.write_text(re.sub(r"^#(?=\w+ = )", "", TOML.read_text(), flags=re.MULTILINE))
    assert len(tomllib.loads(everything.read_text())) == len(fields(settings.Settings))
    assert settings.load(everything, {}) == settings.load(TOML, {})


@pytest.mark.parametrize("unit", THRESHOLDS)
def test_a_service_is_hardened(unit: str) -> None:
    """By the systemd of this machine; tests/system asks those of both releases.

    What it has to say against the unit, the unit itself names with a reason.
    """
    command = [
        tool("systemd-analyze", "systemd"), "security", "--offline=true", "--no-pager",
        f"--threshold={THRESHOLDS[unit]}", str(UNITS / unit),
    ]  # fmt: skip
    environ = os.environ | {"LC_ALL": "C.UTF-8"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environ)
    assert done.returncode == 0, done.stdout + done.stderr
    against = re.findall(r"^✗ (\w+)=", done.stdout, re.MULTILINE)
    assert len(against) > 3
    text = (UNITS / unit).read_text()
    # A line of comment names it, or stands above the line that sets it to less than all.
    named = [re.search(rf"^#.*\b{key}=|^#.*\n{key}=", text, re.MULTILINE) for key in against]
    assert [key for key, found in zip(against, named, strict=True) if found is None] == []
