# SPDX-License-Identifier: Apache-2.0
"""Tests of weft_runtime.runtime.arguments: the command line and what is said of a wrong one."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from weft_runtime.errors import Problem, WeftError
from weft_runtime.journal import Level
from weft_runtime.runtime.arguments import (
    Arguments,
    HelpRequested,
    Preopen,
    VersionRequested,
    parse,
    parse_plain,
)
from weft_runtime.runtime.parser import build_parser, parse_any

APP = "org.example.app"
RULE = (
    "expected three or more labels of a-z and 0-9, each beginning with a letter, joined by dots, such as"
    " org.example.notes"
)


def parsed(*argv: str) -> Arguments:
    return parse(argv, "weft-runtime")


def error_of(*argv: str) -> str:
    with pytest.raises(WeftError) as caught:
        parsed(*argv)
    assert caught.value.problem is Problem.USAGE
    assert caught.value.hint == "see weft-runtime --help"
    return caught.value.message


def test_an_app_and_a_session_are_enough() -> None:
    assert parsed(APP, "+007") == Arguments(
        app_id=parsed(APP, "7").app_id,
        session_id=parsed(APP, "7").session_id,
        preopens=(),
        ipc_socket=None,
        sd_notify=False,
        log_level=None,
    )
    assert parsed(APP, "7").app_id == APP
    assert parsed(APP, "+007").session_id == 7


def test_options_may_stand_anywhere() -> None:
    expected = parsed(APP, "1", "--sd-notify", "--log-level", "debug")
    assert expected.sd_notify
    assert expected.log_level is Level.DEBUG
    assert parsed("--sd-notify", APP, "--log-level=debug", "1") == expected
    assert parsed("--log-level", "debug", "--sd-notify", "--", APP, "1") == expected
    assert parsed(APP, "--log-level", "info", "--sd-notify", "--log-level", "debug", "--", "1") == expected


@pytest.mark.parametrize(
    ("argv", "missing"),
    [
        ([], "app_id, session_id"),
        (["--sd-notify"], "app_id, session_id"),
        ([APP], "session_id"),
        ([APP, "--log-level", "debug"], "session_id"),
    ],
)
def test_app_and_session_are_required(argv: list[str], missing: str) -> None:
    assert error_of(*argv) == f"the following arguments are required: {missing}"


def test_a_service_has_no_session() -> None:
    service = parsed("--service", APP, "--sd-notify")
    assert (
        service == parsed(APP, "--sd-notify", "--service") == parsed("--sd-notify", "--service", "--", APP)
    )
    assert (service.app_id, service.session_id, service.sd_notify) == (APP, None, True)
    assert error_of("--service", APP, "7") == "unexpected argument: 7"
    assert error_of("--service") == "the following arguments are required: app_id"


def test_a_wrong_app_id_is_told() -> None:
    assert error_of("../x", "1") == f"argument app_id: '../x' is not an app id: {RULE}"


@pytest.mark.parametrize("text", ["-0", "-1", "", " 5", "x", "18446744073709551616", "-1.5", "-"])
def test_a_wrong_session_id_is_told(text: str) -> None:
    assert error_of(APP, text) == (
        f"argument session_id: '{text}' is not a session id: expected a decimal number from 0 to"
        " 18446744073709551615"
    )


@pytest.mark.parametrize(
    ("argv", "surplus"),
    [
        (["extra"], "extra"),
        (["2", "3"], "2"),
        (["--app"], "--app"),
        (["-h"], "-h"),
        (["-v"], "-v"),
        (["-1"], "-1"),
        (["--sd-noti"], "--sd-noti"),
        (["--preo", "x"], "--preo"),
        (["--preo=x"], "--preo=x"),
        (["--Help"], "--Help"),
        ([""], ""),
        (["\x1b[31m"], "\\x1b[31m"),
        (["\udcff"], "\\xff"),
        (["--", "--help"], "--help"),
    ],
)
def test_anything_else_is_unexpected(argv: list[str], surplus: str) -> None:
    assert error_of(APP, "1", *argv) == f"unexpected argument: {surplus}"


@pytest.mark.parametrize(
    ("text", "host", "guest"),
    [
        ("/srv/notes", "/srv/notes", "/srv/notes"),
        ("/srv/notes::/data", "/srv/notes", "/data"),
        ("a::b::c", "a", "b::c"),
        ("a:b", "a:b", "a:b"),
        ("a:::b", "a", ":b"),
        ("a b::c d", "a b", "c d"),
        (".", ".", "."),
        ("käse", "käse", "käse"),
    ],
)
def test_a_preopen_is_split_at_its_first_double_colon(text: str, host: str, guest: str) -> None:
    assert parsed(APP, "1", "--preopen", text).preopens == (Preopen(host, guest, True),)
    assert parsed(APP, "1", f"--preopen-ro={text}").preopens == (Preopen(host, guest, False),)


def test_preopens_keep_their_order_whichever_their_kind() -> None:
    argv = ["--preopen-ro", "a", "--preopen", "b::x", "--preopen-ro", "c", "--preopen", "a"]
    assert parsed(APP, "1", *argv).preopens == (
        Preopen("a", "a", False), Preopen("b", "x", True), Preopen("c", "c", False), Preopen("a", "a", True),
    )  # fmt: skip


def test_a_parse_leaves_nothing_for_the_next_one() -> None:
    parsed(APP, "1", "--preopen", "a")
    assert parsed(APP, "1").preopens == ()


@pytest.mark.parametrize("option", ["--preopen", "--preopen-ro"])
@pytest.mark.parametrize("text", ["", "::", "::b", "a::", ":::", "::::"])
def test_a_preopen_without_a_path_is_told(option: str, text: str) -> None:
    assert error_of(APP, "1", option, text) == (
        f"argument {option}: '{text}' is not HOST[::GUEST]: a path is empty"
    )


@pytest.mark.parametrize("byte", [0x80, 0xFF])
def test_a_preopen_that_is_not_utf8_is_told(byte: int) -> None:
    path = bytes([byte]).decode(errors="surrogateescape")
    assert error_of(APP, "1", "--preopen", path) == f"argument --preopen: '\\x{byte:x}' is not UTF-8"


@pytest.mark.parametrize("option", ["--preopen", "--preopen-ro", "--ipc-socket", "--log-level"])
def test_an_option_without_its_value_is_told(option: str) -> None:
    assert error_of(APP, "1", option) == f"argument {option}: expected one argument"
    assert error_of(APP, "1", option, "--sd-notify") == f"argument {option}: expected one argument"


@pytest.mark.parametrize("option", ["--sd-notify", "--help", "--version"])
def test_an_option_with_a_value_it_cannot_have_is_told(option: str) -> None:
    assert error_of(APP, "1", f"{option}=x") == f"argument {option}: ignored explicit argument 'x'"


@pytest.mark.parametrize("option", ["--preopen", "--preopen-ro", "--ipc-socket", "--log-level"])
def test_two_dashes_are_no_value(option: str) -> None:
    assert error_of(APP, "1", f"{option}=--") == f"argument {option}: '--' is no value"
    assert error_of(APP, "1", option, "--") == f"argument {option}: expected one argument"


def test_the_last_ipc_socket_counts() -> None:
    assert parsed(APP, "1", "--ipc-socket", "/a", "--ipc-socket", "/b").ipc_socket == "/b"


@pytest.mark.parametrize("text", ["/", "/" * 107, "é" * 53, "\udcff" * 107])
def test_an_ipc_socket_may_be_as_long_as_the_system_allows(text: str) -> None:
    assert parsed(APP, "1", "--ipc-socket", text).ipc_socket == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [("", ""), ("/" * 108, "/" * 108), ("é" * 54, "é" * 54), ("\udcff" * 108, "\\xff" * 108)],
)
def test_an_impossible_ipc_socket_is_told(text: str, shown: str) -> None:
    assert error_of(APP, "1", "--ipc-socket", text) == (
        f"argument --ipc-socket: '{shown}' is not the path of a socket: expected 1 to 107 bytes"
    )


def test_a_wrong_log_level_is_told_with_the_right_ones() -> None:
    assert error_of(APP, "1", "--log-level", "loud") == (
        "argument --log-level: 'loud' is not a log level: expected one of emerg, alert, crit, err, warning,"
        " notice, info, debug"
    )


def test_help_names_every_option_and_needs_no_other_argument() -> None:
    with pytest.raises(HelpRequested) as caught:
        parsed("--help")
    text = str(caught.value)
    assert text.startswith("usage: weft-runtime ")
    options = [name for action in build_parser("x")._actions for name in action.option_strings]
    assert len(options) == 11
    assert [option for option in options if option not in text] == []


def test_version_needs_no_other_argument() -> None:
    with pytest.raises(VersionRequested):
        parsed("--version")
    with pytest.raises(VersionRequested):
        parsed("--nonsense", "--version", APP)


ARBITRARY = st.text(st.characters(), max_size=12)
PIECES = st.sampled_from(
    [
        APP, "1", "+5", "-0", "--preopen", "--preopen-ro", "--ipc-socket", "--sd-notify", "--log-level",
        "--version", "--help", "--", "-", "--=", "--preopen=", "--preopen=a::b", "--ipc-socket=--",
        "--sd-notify=1", "--log-level=err", "debug", "a::b", "::", "", " ", "\udcff", "\ud800", "--prefix",
        "-1",
        "@file", "%s", "{}",
    ]
)  # fmt: skip


def result_of(argv: list[str]) -> Arguments | WeftError | HelpRequested | VersionRequested:
    try:
        return parsed(*argv)
    except (WeftError, HelpRequested, VersionRequested) as error:
        return error


@given(st.lists(ARBITRARY | PIECES, max_size=8))
@example([APP, "1", "--preopen=--"])
@example([APP, "1", "--ipc-socket=--"])
@example([APP, "1", "--log-level=--"])
@example([APP, "1", "--ipc-socket=\ud800"])
def test_no_command_line_breaks_the_parser(argv: list[str]) -> None:
    match result_of(argv):
        case WeftError() as error:
            assert error.problem is Problem.USAGE
            assert str(error).isprintable()
        case HelpRequested():
            assert any(text.startswith("--help") for text in argv)
        case VersionRequested():
            assert any(text.startswith("--version") for text in argv)
        case Arguments() as arguments:
            assert arguments.app_id in argv
            assert all(isinstance(preopen, Preopen) for preopen in arguments.preopens)
            assert isinstance(arguments.ipc_socket, str | None)
            assert isinstance(arguments.log_level, Level | None)


# Mostly right, so that the two parsers often have a result to compare.
USUAL = st.sampled_from([["--service"], ["--sd-notify"], [APP], ["1"], ["--"]]) | st.tuples(
    st.sampled_from(
        ["--preopen", "--preopen-ro", "--ipc-socket", "--log-level", "--check-module", "--help"]
    ),
    st.sampled_from(["a::b", "a=b", " -a", "err", "ERROR", "-1", "--", "--sd-notify", ""]),
    st.booleans(),
).map(lambda option: [f"{option[0]}={option[1]}"] if option[2] else [option[0], option[1]])


@given(
    st.permutations([[APP], ["1"]]),
    st.lists(USUAL | st.lists(ARBITRARY | PIECES, max_size=2), max_size=4),
    st.data(),
)
@example([[APP], ["1"]], [["--preopen", "a::b"], ["--log-level=err"]], None)
def test_the_plain_parser_has_no_result_but_that_of_argparse(
    words: list[list[str]], others: list[list[str]], data: st.DataObject | None
) -> None:
    parts = words + others if data is None else data.draw(st.permutations(words + others))
    argv = [word for part in parts for word in part]
    try:
        plain = parse_plain(argv)
    except ValueError:
        return
    if plain is not None:
        assert plain == parse_any(argv, "weft-runtime")


@pytest.mark.parametrize(
    "argv",
    [
        [APP, "1"],
        [APP, "1", "--preopen", "a::b", "--preopen-ro=c", "--ipc-socket", "/x", "--log-level=debug"],
        ["--sd-notify", "--service", APP],
    ],
)
def test_the_usual_command_lines_need_no_argparse(argv: list[str]) -> None:
    assert parse_plain(argv) == parse_any(argv, "weft-runtime")


PATHS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters=":"), min_size=1, max_size=5)


@given(
    st.lists(st.tuples(st.sampled_from(["--preopen", "--preopen-ro"]), PATHS, PATHS), max_size=4),
    st.sampled_from([None, *Level]),
    st.booleans(),
    st.data(),
)
def test_options_mean_the_same_wherever_they_stand(
    preopens: list[tuple[str, str, str]], level: Level | None, sd_notify: bool, data: st.DataObject
) -> None:
    options = [[f"{option}={host}::{guest}"] for option, host, guest in preopens]
    options += [] if level is None else [["--log-level", level.name.lower()]]
    options += [["--sd-notify"]] if sd_notify else []
    words = [[APP], ["42"]]
    argv: list[str] = []
    while options or words:
        argv += (options if options and (not words or data.draw(st.booleans())) else words).pop(0)
    arguments = parsed(*argv)
    assert (arguments.app_id, arguments.session_id) == (APP, 42)
    assert (arguments.log_level, arguments.sd_notify) == (level, sd_notify)
    assert arguments.preopens == tuple(
        Preopen(host, guest, option == "--preopen") for option, host, guest in preopens
    )
