# SPDX-License-Identifier: Apache-2.0
"""The command line of weft-appd and its settings: file, environment, and what is said about wrong ones."""

import os
import re
import subprocess
from dataclasses import fields
from pathlib import Path

import pytest

from tests.appd.conftest import Make
from tests.appd.harness import PROGRAMS, WAIT_SECONDS, Appd, Finished, descriptors, eventually, listens
from tests.packages import APP_ID
from weft_runtime import __version__
from weft_runtime.appd.settings import Settings, load, texts, variables
from weft_runtime.protocol import Error, LaunchApp, QueryRunning, RunningApps


@pytest.fixture
def place(make: Make) -> Appd:
    """A place without a daemon, whose environment sets nothing."""
    appd = make()
    for name in [name for name in appd.environ if name.startswith("WEFT_") and name != "WEFT_LOG"]:
        del appd.environ[name]
    appd.environ["WEFT_APPD_WS_PORT"] = "off"
    return appd


def check(appd: Appd, text: str | None = None) -> Finished:
    if text is not None:
        appd.config.write_text(text)
    return appd.run("--check", "--config", str(appd.config))


def test_right_settings_are_said_to_be_right(place: Appd) -> None:
    done = check(
        place,
        f"""
        runtime_bin = "/bin/true"
        app_store = "{place.store}"
        data_root = ""
        socket = "{place.directory}/socket"
        ws_port = 65535
        ws_origins = ["https://a.example", "https://b.example"]
        ready_timeout = 0.5
        stop_grace = 86400
        max_sessions = 1
        max_connections = 9999999
        idle_timeout = 0.1
        memory_max = "1G"
        cpu_quota = "50%"
        tasks_max = "infinity"
        log_lines = 10
        log_interval = 1
        log_level = "debug"
        restore = false
        """,
    )
    assert (done.status, done.stdout, done.stderr) == (0, "the settings are valid\n", "")
    assert not list(place.runtime.iterdir())


def test_all_that_is_wrong_is_named_at_once(place: Appd) -> None:
    place.environ |= {"WEFT_READY_TIMEOUT": "0", "WEFT_APPD_WS_PORT": "70000", "WEFT_RESTORE": ""}
    done = check(
        place,
        """
        max_sessions = 0
        stop_grace = "soon"
        log_lines = 1.5
        log_level = "loud"
        colour = "blue"
        data_root = "/srv\\u0000"
        idle_timeout = 2026-01-01
        [table]
        """,
    )
    assert (done.status, done.stdout) == (178, "")
    for part in (
        f"{place.config}: max_sessions is '0': expected a whole number from 1 to 9999999",
        f"{place.config}: stop_grace is 'soon': expected a number",
        f"{place.config}: log_lines is '1.5': expected a whole number",
        f"{place.config}: log_level is 'loud'",
        f"{place.config}: colour is no setting",
        f"{place.config}: data_root is '/srv\\x00': expected a path",
        f"{place.config}: idle_timeout is a date or time: expected ",
        f"{place.config}: table is a table: expected ",
        "$WEFT_READY_TIMEOUT is '0': expected a number of seconds from 0.1 to 86400",
        "$WEFT_APPD_WS_PORT is '70000': expected 'off' or a port from 0 (any free one) to 65535",
        "$WEFT_RESTORE is '': expected true or false",
    ):
        assert part in done.stderr
    assert done.stderr.count("\n") == 1
    # It does not start either, and says the same.
    started = place.run("--config", str(place.config))
    assert started.status == 178
    assert started.stderr.partition(": ")[2] == done.stderr.partition(": ")[2]


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("WEFT_READY_TIMEOUT", "nan"),
        ("WEFT_READY_TIMEOUT", "inf"),
        ("WEFT_STOP_GRACE", "-1"),
        ("WEFT_MAX_SESSIONS", "\u0661"),
        ("WEFT_MAX_SESSIONS", "1e3"),
        ("WEFT_MAX_SESSIONS", "10000000"),
        ("WEFT_APPD_WS_PORT", "-1"),
        ("WEFT_APPD_WS_PORT", ""),
        ("WEFT_LOG_INTERVAL", " "),
        ("WEFT_MEMORY_MAX", "0"),
        ("WEFT_MEMORY_MAX", "512MB"),
        ("WEFT_MEMORY_MAX", "0.5G"),
        ("WEFT_MEMORY_MAX", "max"),
        ("WEFT_CPU_QUOTA", "200"),
        ("WEFT_CPU_QUOTA", "0%"),
        ("WEFT_MEMORY_MAX", "512"),
        ("WEFT_TASKS_MAX", "-1"),
        ("WEFT_TASKS_MAX", "5000000"),
    ],
)
def test_a_value_of_the_environment_is_checked(place: Appd, variable: str, value: str) -> None:
    place.environ[variable] = value
    done = check(place)
    assert done.status == 178
    assert f"${variable} is '{value}': expected " in done.stderr


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"max_sessions = ", "{} is not TOML: "),
        (b"\xff", "{} is not TOML: "),
        (b"a = [" + b"[" * 100_000, "{} is not TOML: "),
        (None, "there is no file '{}'"),
    ],
    ids=["no TOML", "no UTF-8", "too deep", "absent"],
)
def test_a_file_that_cannot_be_read_is_named(place: Appd, content: bytes | None, complaint: str) -> None:
    if content is None:
        place.config.unlink()
    else:
        place.config.write_bytes(content)
    done = check(place)
    assert done.status == 178
    assert complaint.format(place.config) in done.stderr


def test_a_directory_is_no_file(place: Appd) -> None:
    done = place.run("--check", "--config", str(place.directory))
    assert done.status == 178
    assert f"cannot read '{place.directory}': it is not a regular file" in done.stderr


def test_the_environment_wins_over_the_file(place: Appd) -> None:
    place.config.write_text(f'runtime_bin = "/bin/true"\napp_store = "{place.store}"\nmax_sessions = 5\n')
    place.environ |= {"WEFT_MAX_SESSIONS": "1", "WEFT_RUNTIME_BIN": "/bin/sleep"}
    place.start()
    assert place.find(" serves ").endswith(", runtime /bin/sleep")
    place.install("")
    place.environ["WEFT_RUNTIME_BIN"] = "/bin/true"


def test_the_settings_of_the_file_are_in_force(place: Appd) -> None:
    place.config.write_text(
        f'runtime_bin = "/bin/cat"\napp_store = "{place.store}"\nmax_sessions = 1\nlog_level = "debug"'
    )
    place.start()
    place.install("")
    assert place.find(" serves ").endswith(", runtime /bin/cat")
    place.control.send(LaunchApp(APP_ID, 0), LaunchApp(APP_ID, 0))
    place.control.receive()
    answer = place.control.receive()
    assert isinstance(answer, Error)
    assert answer.message == "there is 1 session already, the setting max_sessions allows no more"


def test_help_lists_every_setting_with_its_variable_and_its_default(place: Appd) -> None:
    done = place.run("--help")
    assert done.status == 0
    for setting in fields(Settings):
        entry = re.search(
            rf"^  {setting.name}, \$({setting.metadata['variable']})\n      (.+)$", done.stdout, re.MULTILINE
        )
        assert entry, setting.name
        assert setting.metadata["explanation"] in entry[2]
        assert not setting.metadata["default"] or f"[{setting.metadata['default']}]" in entry[2]
    for promised in ("1024", "256", "[7410]", "[30]", "[5]", "[1000]"):
        assert promised in done.stdout


def test_the_version_is_told(place: Appd) -> None:
    assert place.run("--version") == Finished(0, f"weft-appd {__version__}\n", "")


@pytest.mark.parametrize("options", [["--chec"], ["start"], ["--config"], ["-x"]])
def test_a_wrong_command_line_is_refused(place: Appd, options: list[str]) -> None:
    done = place.run(*options)
    assert (done.status, done.stdout) == (164, "")
    assert done.stderr.endswith(" [see weft-appd --help]\n")


@pytest.mark.parametrize("level", ["notice", "warning"])
def test_the_log_has_nothing_below_its_level(place: Appd, level: str) -> None:
    place.config.write_text(
        f'runtime_bin = "/bin/false"\napp_store = "{place.store}"\nlog_level = "{level}"'
    )
    process = subprocess.Popen(
        [*place.program, "--config", place.config], env=place.environ, stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        eventually(lambda: listens(place.socket), "it listens")
        place.install("", capabilities=["sys:notifications"])
        place.launch()
        assert place.until_stopped(1).exit_status == 1
        place.disconnect()
        process.terminate()
        _, stderr = process.communicate(timeout=WAIT_SECONDS)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0
    found = [line.split(": ")[1] for line in stderr.splitlines()]
    assert found == (["notice", "warning"] if level == "notice" else ["warning"])


def test_without_a_directory_for_its_files_it_does_not_start(place: Appd) -> None:
    del place.environ["XDG_RUNTIME_DIR"]
    done = place.run("--config", str(place.config))
    assert done.status == 178
    assert "err: there is no directory for run-time files: " in done.stderr
    assert "[set XDG_RUNTIME_DIR to a directory of your own]" in done.stderr


def test_a_directory_that_cannot_be_made_is_a_clear_error(place: Appd) -> None:
    place.environ["XDG_RUNTIME_DIR"] = str(place.config)
    done = place.run("--config", str(place.config))
    assert done.status == 171
    assert f"err: cannot make the directory '{place.config}/weft': Not a directory" in done.stderr


def test_a_wrong_log_target_is_a_clear_error(place: Appd) -> None:
    place.environ["WEFT_LOG"] = "printer"
    done = place.run("--config", str(place.config))
    assert done.status == 178
    assert "$WEFT_LOG is 'printer': expected 'journal', 'stderr' or 'auto'" in done.stderr


def test_closed_standard_streams_do_not_become_connections(place: Appd) -> None:
    """Else the log would go to whoever comes first."""
    place.environ["WEFT_RUNTIME_BIN"] = "/bin/true"
    process = subprocess.Popen(
        ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", PROGRAMS / "weft-appd", "--config", place.config],
        env=place.environ, cwd=place.directory,
    )  # fmt: skip
    try:
        eventually(lambda: listens(place.socket), "it listens")
        connections = [place.connect() for _ in range(4)]
        for connection in connections:
            answer = connection.ask(LaunchApp("nonsense", 0))  # a warning in the log
            assert isinstance(answer, Error)
            assert connection.is_quiet
        opened = descriptors(process.pid)
        assert [opened[fd] for fd in (0, 1, 2)] == ["/dev/null"] * 3
        assert connections[0].ask(QueryRunning()) == RunningApps(())
        place.disconnect()
        process.terminate()
        assert process.wait(WAIT_SECONDS) == 0
    finally:
        process.kill()
        process.wait()


def test_settings_can_be_checked_where_no_daemon_could_run(place: Appd) -> None:
    """As an operator does, who has none of the directories that systemd makes for the daemon."""
    del place.environ["XDG_RUNTIME_DIR"]
    assert check(place).stdout == "the settings are valid\n"


def test_a_path_that_is_no_text_is_shown_safely(place: Appd) -> None:
    path = Path(os.fsdecode(os.fsencode(place.directory) + b"/\xff\x1b"))
    done = place.run("--check", "--config", os.fspath(path))
    assert done.status == 178
    assert f"there is no file '{place.directory}/\\xff\\x1b'" in done.stderr


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ('app_store = "/nope"', "app_store is '/nope': there is no such directory"),
        ('app_store = "/dev/null"', "app_store is '/dev/null': there is no such directory"),
        ('data_root = "/dev/null"', "data_root is '/dev/null': it is no directory"),
        ('app_shell_bin = "/nope"', "app_shell_bin is '/nope': it is no executable program"),
        (
            'app_store = "/nope"\nruntime_bin = "/nope"',
            "'/nope': there is no such directory; the runtime '/nope' is no",
        ),
    ],
)
def test_what_the_settings_name_must_be_there(place: Appd, line: str, complaint: str) -> None:
    for variable in ("WEFT_APP_STORE", "WEFT_DATA_ROOT", "WEFT_RUNTIME_BIN"):
        place.environ.pop(variable, None)
    place.environ["PATH"] = os.environ["PATH"]
    place.config.write_text(f"{line}\n")
    done = check(place)
    assert done.status == 178
    assert complaint in done.stderr


def test_a_store_that_the_caller_names_may_be_made_by_the_first_installation(place: Appd) -> None:
    place.environ["WEFT_APP_STORE"] = str(place.directory / "later")
    assert check(place).status == 0


def test_every_setting_reads_what_it_is_written_as() -> None:
    values = load(Path("/dev/null"), {})
    environ = {variable: texts(values)[name] for name, variable in variables().items()}
    assert load(Path("/dev/null"), environ) == values
