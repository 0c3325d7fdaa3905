# SPDX-License-Identifier: Apache-2.0
"""Tests of weft_runtime.settings: what each variable of the environment means."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from weft_runtime import settings
from weft_runtime.errors import Problem, WeftError
from weft_runtime.settings import (
    EngineKind,
    LogSettings,
    LogTarget,
    RuntimeSettings,
    ServiceSettings,
    log_settings,
    report_descriptor,
    runtime_settings,
    service_settings,
)

SYSTEM = (Path("/var/lib/weft/apps"), Path("/usr/share/weft/apps"))
NOT_UTF8 = "/x\udcff\udc80"


def log_error(name: str, value: str) -> str:
    with pytest.raises(WeftError) as caught:
        log_settings({name: value})
    assert caught.value.problem is Problem.CONFIG_INVALID
    return str(caught.value)


def runtime_error(name: str, value: str) -> str:
    read = report_descriptor if name == "WEFT_REPORT_FD" else runtime_settings
    with pytest.raises(WeftError) as caught:
        read({name: value})
    assert caught.value.problem is Problem.CONFIG_INVALID
    return str(caught.value)


def test_an_empty_environment_means_the_defaults() -> None:
    assert log_settings({}) == LogSettings(LogTarget.AUTO, None, None)
    assert runtime_settings({}) == RuntimeSettings(SYSTEM, EngineKind.NATIVE, False, None)


@pytest.mark.parametrize(
    ("value", "kind"), [("native", "native"), ("pulley", "pulley"), ("", "native"), (NOT_UTF8, "native")]
)
def test_an_engine_is_chosen(value: str, kind: str) -> None:
    assert runtime_settings({"WEFT_ENGINE": value}).engine is EngineKind(kind)


@pytest.mark.parametrize("value", ["Pulley", "pulley64", " native", "0"])
def test_a_wrong_engine_is_told_with_the_right_ones(value: str) -> None:
    assert runtime_error("WEFT_ENGINE", value) == f"$WEFT_ENGINE is '{value}': expected 'native' or 'pulley'"


@pytest.mark.parametrize(("value", "group"), [("/a/b", Path("/a/b")), ("", None), (NOT_UTF8, None)])
def test_a_compiler_may_have_a_control_group(value: str, group: Path | None) -> None:
    assert runtime_settings({"WEFT_COMPILER_GROUP": value}).compiler_group == group


@pytest.mark.parametrize(("value", "found"), [("1", True), ("0", False), ("", False), (NOT_UTF8, False)])
def test_a_unit_says_that_the_background_compiler_can_be_asked(value: str, found: bool) -> None:
    assert runtime_settings({"WEFT_BACKGROUND": value}).has_background is found


def test_a_service_has_the_first_of_its_state_directories() -> None:
    assert service_settings({}) == ServiceSettings(None, None)
    assert service_settings({"STATE_DIRECTORY": "", "HOME": ""}) == ServiceSettings(None, None)
    environ = {"STATE_DIRECTORY": "/var/lib/a:/var/lib/b", "HOME": "/home/a"}
    assert service_settings(environ) == ServiceSettings(Path("/var/lib/a"), Path("/home/a"))


def test_the_system_stores_are_the_operators_then_the_distributions() -> None:
    assert settings.SYSTEM_STORES == SYSTEM


@pytest.mark.parametrize(
    ("value", "target"), [("auto", "auto"), ("journal", "journal"), ("stderr", "stderr"), ("", "auto")]
)
def test_the_log_has_a_target(value: str, target: str) -> None:
    assert log_settings({"WEFT_LOG": value}).target is LogTarget(target)


def test_a_wrong_log_target_is_told_with_the_right_ones() -> None:
    assert log_error("WEFT_LOG", "syslog\n") == (
        "$WEFT_LOG is 'syslog\\x0a': expected 'journal', 'stderr' or 'auto'"
    )


def test_the_log_level_and_the_journals_stream_are_passed_on() -> None:
    environ = {"WEFT_LOG_LEVEL": "debug", "JOURNAL_STREAM": "8:1234"}
    assert log_settings(environ) == LogSettings(LogTarget.AUTO, "debug", "8:1234")


def test_a_log_variable_that_is_not_utf8_counts_as_unset() -> None:
    environ = dict.fromkeys(["WEFT_LOG", "WEFT_LOG_LEVEL", "JOURNAL_STREAM"], NOT_UTF8)
    assert log_settings(environ) == log_settings({})


def test_the_users_store_comes_first() -> None:
    assert runtime_settings({"HOME": "/home/ada"}).stores == (
        Path("/home/ada/.local/share/weft/apps"),
        *SYSTEM,
    )


def test_an_empty_home_is_the_working_directory() -> None:
    assert runtime_settings({"HOME": ""}).stores == (Path(".local/share/weft/apps"), *SYSTEM)


def test_an_own_store_replaces_all_others() -> None:
    environ = {"WEFT_APP_STORE": "/srv/apps", "HOME": "/home/ada"}
    assert runtime_settings(environ).stores == (Path("/srv/apps"),)


def test_an_empty_store_is_the_working_directory() -> None:
    assert runtime_settings({"WEFT_APP_STORE": "", "HOME": "/home/ada"}).stores == (Path(),)


def test_a_store_that_is_not_utf8_counts_as_unset() -> None:
    assert runtime_settings({"WEFT_APP_STORE": NOT_UTF8, "HOME": NOT_UTF8}).stores == SYSTEM


@pytest.mark.parametrize("value", ["1", "yes", "true", "on", "YES", "True", "oN"])
def test_notification_can_be_switched_on(value: str) -> None:
    assert runtime_settings({"WEFT_SD_NOTIFY": value}).sd_notify is True


@pytest.mark.parametrize("value", ["0", "no", "false", "off", "NO", "", NOT_UTF8])
def test_notification_can_be_switched_off(value: str) -> None:
    assert runtime_settings({"WEFT_SD_NOTIFY": value}).sd_notify is False


@pytest.mark.parametrize("value", ["2", "maybe", " 1", "-1", "yes\n"])
def test_a_wrong_switch_is_told(value: str) -> None:
    shown = value.replace("\n", "\\x0a")
    expected = f"$WEFT_SD_NOTIFY is '{shown}': expected a boolean, 1 or 0"
    assert runtime_error("WEFT_SD_NOTIFY", value) == expected


def test_the_service_managers_socket_is_passed_on() -> None:
    assert runtime_settings({"NOTIFY_SOCKET": "@abstract"}).notify_socket == "@abstract"
    assert runtime_settings({"NOTIFY_SOCKET": NOT_UTF8}).notify_socket is None


def test_the_report_goes_to_an_open_descriptor() -> None:
    sink = os.open(os.devnull, os.O_WRONLY)
    try:
        assert report_descriptor({"WEFT_REPORT_FD": str(sink)}) == sink
    finally:
        os.close(sink)


def test_the_first_descriptor_after_the_standard_streams_will_do() -> None:
    code = "from weft_runtime.settings import *; print(report_descriptor({'WEFT_REPORT_FD': '3'}))"
    command = ["sh", "-c", '"$@" 3>/dev/null', "sh", sys.executable, "-c", code]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "3\n"


@pytest.mark.parametrize("byte", [0x80, 0xFF])
def test_each_byte_that_is_not_utf8_is_seen(byte: int) -> None:
    store = bytes([byte]).decode(errors="surrogateescape")
    assert runtime_settings({"WEFT_APP_STORE": store}).stores == SYSTEM


@pytest.mark.parametrize(
    "value",
    ["", "0", "1", "2", "-3", "+3", "3.0", " 3", "0x3", "³", "٣", "stdout", "99999", "9" * 30, "9" * 5000],
)
def test_the_report_goes_nowhere_else(value: str) -> None:
    shown = value if len(value) <= 256 else f"{value[:256]}..."
    assert runtime_error("WEFT_REPORT_FD", value) == (
        f"$WEFT_REPORT_FD is '{shown}': expected the number of an open descriptor, 3 or above"
    )


def test_a_report_descriptor_that_is_not_utf8_counts_as_unset() -> None:
    assert report_descriptor({"WEFT_REPORT_FD": NOT_UTF8}) is None


def test_the_process_environment_is_what_is_read_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEFT_APP_STORE", "/srv/apps")
    monkeypatch.setenv("WEFT_LOG", "stderr")
    assert runtime_settings().stores == (Path("/srv/apps"),)
    assert log_settings().target is LogTarget.STDERR
