# SPDX-License-Identifier: Apache-2.0
"""Tests of weft_runtime.ids: which app ids and session ids are accepted."""

import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from weft_runtime.ids import APP_ID_MAX, SESSION_ID_MAX, AppId, SessionId

APP_ID_RULE = (
    "expected three or more labels of a-z and 0-9, each beginning with a letter, joined by dots, such as"
    " org.example.notes"
)
SESSION_ID_RULE = "expected a decimal number from 0 to 18446744073709551615"


@pytest.mark.parametrize(
    "text",
    [
        "org.example.notes",
        "a.b.c",
        "a1.b2.c3",
        "org.weft.demo.counter",
        "a.b.c.d.e.f",
        f"a.b.{'c' * (APP_ID_MAX - 4)}",
    ],
)
def test_app_ids_are_accepted(text: str) -> None:
    app_id = AppId.parse(text)
    assert app_id == text
    assert type(app_id) is AppId


@pytest.mark.parametrize(
    "text",
    [
        "", ".", "..", "...", "a", "a.b", "a..b.c", ".a.b.c", "a.b.c.", "A.b.c", "a.B.c", "a.b.C", "1a.b.c",
        "a.1b.c", "a.b.1", "a-b.c.d", "a_b.c.d", "a.b.c ", " a.b.c", "a.b.c\n", "\na.b.c", "a.b.c\0",
        "a.b.c/d", "../x", "../../a.b.c", "/tmp/evil", "a.b.c/..", "a.b.ç", "\u0430.b.c", "a.b.c\u0663",
        "a.b.\uff43", "a\u2024b\u2024c", "a.b.\udcff",
    ],
)  # fmt: skip
def test_other_texts_are_no_app_ids(text: str) -> None:
    with pytest.raises(ValueError, match="is not an app id"):
        AppId.parse(text)


def test_a_wrong_app_id_is_named_with_the_rule() -> None:
    with pytest.raises(ValueError, match="not an app id") as caught:
        AppId.parse("../x\n")
    assert str(caught.value) == f"'../x\\x0a' is not an app id: {APP_ID_RULE}"


@pytest.mark.parametrize("length", [APP_ID_MAX + 1, 10 * APP_ID_MAX])
def test_a_long_app_id_is_none(length: int) -> None:
    with pytest.raises(ValueError, match=f"it has {length} characters, expected 180 at most"):
        AppId.parse(f"a.b.{'c' * (length - 4)}")


def test_every_name_with_the_longest_app_id_in_it_fits() -> None:
    app_id = "i" * APP_ID_MAX
    names = [
        f"systemd-private-{'0' * 32}-weft-app@{app_id}.service-XXXXXX",
        f"weft-app@{app_id}.service.d", f"invocation:weft-app@{app_id}.service", f".{app_id}.app.tar.zst.00000000",
        f".{app_id}@{2**64 - 1}", f".{app_id}@incomplete-00000000", f".{app_id}@rubbish-00000000",
    ]  # fmt: skip
    assert max(map(len, names)) <= 255


def follows_app_id_rule(text: str) -> bool:
    if len(text) > APP_ID_MAX:
        return False
    labels = text.split(".")
    return len(labels) >= 3 and all(
        label[:1] in set(string.ascii_lowercase)
        and set(label) <= set(string.ascii_lowercase + string.digits)
        for label in labels
    )


def app_id_of(text: str) -> AppId | ValueError:
    try:
        return AppId.parse(text)
    except ValueError as error:
        return error


@given(
    st.text("ab01..Z-_ /\n", max_size=12)
    | st.lists(st.text("ab1", min_size=1, max_size=3), min_size=1, max_size=5).map(".".join)
)
def test_app_ids_are_exactly_those_of_the_rule(text: str) -> None:
    assert (app_id_of(text) == text) == follows_app_id_rule(text)


@given(st.text(st.characters()) | st.lists(st.text("a/.\0", max_size=2), max_size=4).map(".".join))
def test_an_app_id_is_one_safe_component_of_a_path(text: str) -> None:
    match app_id_of(text):
        case ValueError() as error:
            assert str(error).isprintable()
        case AppId() as app_id:
            assert app_id.isascii()
            assert not set("/\\\0") & set(app_id)
            assert not app_id.startswith(".")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0", 0),
        ("+5", 5),
        ("007", 7),
        ("18446744073709551615", 18446744073709551615),
        ("7", 7),
        ("+0", 0),
        ("+007", 7),
        ("000000000000000000000000018446744073709551615", 18446744073709551615),
        ("0" * 100_000, 0),
    ],
)
def test_session_ids_are_accepted(text: str, number: int) -> None:
    session_id = SessionId.parse(text)
    assert session_id == number
    assert type(session_id) is SessionId
    assert str(session_id) == str(number)


@pytest.mark.parametrize(
    "text",
    [
        "-0", "18446744073709551616", " 5", "5 ", "", "1_000", "0x10", "\uff15",
        "+", "++5", "+-5", "-5", "5.0", "1e3", "5\n", "\n5", "\t5", "5\0", "\u0663", "\xb2", "0b1", "0o7",
        "1,000", "\u096b",
        "99999999999999999999", "100000000000000000000", "9" * 100_000, "nan", "None", "true", "\udcff",
    ],
)  # fmt: skip
def test_other_texts_are_no_session_ids(text: str) -> None:
    with pytest.raises(ValueError, match="is not a session id"):
        SessionId.parse(text)


def test_a_wrong_session_id_is_named_with_the_rule() -> None:
    with pytest.raises(ValueError, match="not a session id") as caught:
        SessionId.parse("-0")
    assert str(caught.value) == f"'-0' is not a session id: {SESSION_ID_RULE}"


def as_u64(text: str) -> int | None:
    digits = text.removeprefix("+")
    if not digits or set(digits) - set(string.digits):
        return None
    number = sum(int(digit) * 10**place for place, digit in enumerate(reversed(digits)))
    return number if number <= SESSION_ID_MAX else None


def session_id_of(text: str) -> SessionId | ValueError:
    try:
        return SessionId.parse(text)
    except ValueError as error:
        return error


@given(
    st.text("0123456789+- _", max_size=25)
    | st.builds(
        "{}{}{}".format,
        st.sampled_from(["", "+"]),
        st.sampled_from(["", "0", "000"]),
        st.integers(0, 2**65),
    )
)
@example("18446744073709551615")
@example("18446744073709551616")
def test_session_ids_are_exactly_those_of_the_rule(text: str) -> None:
    match session_id_of(text):
        case ValueError() as error:
            assert as_u64(text) is None
            assert str(error).isprintable()
        case SessionId() as session_id:
            assert session_id == as_u64(text)
