# SPDX-License-Identifier: Apache-2.0
"""The parser of weft-pack, its manual page and its completion say the same."""

import argparse
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.unit.needs import ROOT, tool
from weft_runtime.pack.languages import LANGUAGES, SDK, listed
from weft_runtime.pack.main import build_parser

PAGE = ROOT / "docs/man/weft-pack.1"
COMPLETION = ROOT / "completion/weft-pack.bash"


def commands() -> Mapping[str, argparse.ArgumentParser]:
    found = [action for action in build_parser()._actions if isinstance(action, argparse._SubParsersAction)]
    choices: Mapping[str, argparse.ArgumentParser] = found[0].choices
    return choices


def options_of(parser: argparse.ArgumentParser) -> set[str]:
    return {option for action in parser._actions for option in action.option_strings}


def synopsis_of(name: str, parser: argparse.ArgumentParser) -> str:
    """The command with what cannot be left out, as the page has it."""
    words = [name]
    for action in parser._actions:
        if not action.option_strings:
            shown = {"?": f"[{action.metavar}]", "*": f"[{action.metavar}...]"}
            words.append(shown.get(str(action.nargs), str(action.metavar)))
    words += [
        f"{action.option_strings[-1]} {action.metavar}" for action in parser._actions
        if action.option_strings and action.required
    ]  # fmt: skip
    if parser.usage is not None:
        words.append(parser.usage.partition(f"{words[-1]} ")[2])
    return " ".join(words)


def section(name: str) -> str:
    found = re.search(rf"^\.SH {name}\n(.*?)(?=^\.SH |\Z)", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert found, name
    return found[1].replace("\\-", "-")


def entries() -> dict[str, str]:
    """What the page says of each command, by its heading."""
    found = {}
    for part in section("COMMANDS").split(".SS ")[1:]:
        head, _, text = part.partition("\n")
        found[re.sub(r"\\f[IP]", "", head)] = text
    return found


def options_in(text: str) -> set[str]:
    """The options that have an entry of their own."""
    heads = re.findall(r"^\.TP\n(.*)$", text, re.MULTILINE)
    return {option for head in heads for option in re.findall(r"(?<![\w-])--?[a-z][a-z-]*", head)}


def test_the_page_has_the_commands_and_arguments_of_the_parser() -> None:
    assert sorted(entries()) == sorted(synopsis_of(name, parser) for name, parser in commands().items())


def test_the_page_has_the_options_of_the_parser() -> None:
    assert options_in(section("OPTIONS")) == options_of(build_parser()) | {"--json"}
    for head, text in entries().items():
        own = options_of(commands()[head.split()[0]]) - {"-h", "--help", "--json"}
        assert options_in(text) == own, head


def test_the_page_says_which_commands_print_json() -> None:
    text = section("OPTIONS").partition("--json\n")[2].partition("print JSON")[0]
    named = set(re.findall(r"[a-z-]+", text)) & set(commands())
    assert named == {name for name, parser in commands().items() if "--json" in options_of(parser)}


def test_the_page_names_the_languages() -> None:
    assert f"\n{listed()}.\n" in entries()["new DIR --lang LANG"]
    assert SDK.split()[-1] in entries()["new DIR --lang LANG"]


@pytest.mark.parametrize(
    "name", ["WEFT_APP_STORE", "HOME", "WEFT_RUNTIME_BIN", "WEFT_APPD_SOCKET", "WEFT_DATA_ROOT", "NO_COLOR"]
)
def test_the_page_names_a_variable_that_is_read(name: str) -> None:
    code = [path.read_text() for path in (ROOT / "weft_runtime").rglob("*.py")]
    assert f".B {name}\n" in section("ENVIRONMENT")
    assert any(f'"{name}"' in text for text in code)


def completed(*words_before: str, cwd: Path = ROOT) -> list[str]:
    """What bash offers for the last of these words, where nothing is installed."""
    script = (
        'source "$1"; shift; COMP_WORDS=(weft-pack "$@"); COMP_CWORD=$#; _weft_pack; echo "${COMPREPLY[*]}"'
    )
    done = subprocess.run(
        [tool("bash", "bash"), "--norc", "-uc", script, "bash", COMPLETION, *words_before],
        env={"PATH": "/usr/bin:/bin", "WEFT_APP_STORE": "/nonexistent"}, cwd=cwd,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stderr == ""
    return done.stdout.split()


def test_the_completion_has_the_commands_and_options_of_the_parser() -> None:
    assert completed("") == list(commands())
    assert set(completed("-")) == options_of(build_parser())
    for name, parser in commands().items():
        assert set(completed(name, "-")) == options_of(parser), name


def test_the_completion_offers_values(tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "archive").touch()
    assert completed("new", "x", "--lang", "") == list(LANGUAGES)
    assert listed() in commands()["new"].format_help().replace("\n", " ")
    assert completed("check", "", cwd=tmp_path) == ["package"]
    assert completed("sign", "--key", "arch", cwd=tmp_path) == ["archive"]
    assert completed("sign", "--key", "archive", "", cwd=tmp_path) == ["package"]
    assert sorted(completed("install", "", cwd=tmp_path)) == ["archive", "package"]
    assert completed("bundle", "package", "--out", "", cwd=tmp_path) == ["package"]
    assert completed("install", "--rollback", "", cwd=tmp_path) == []


def test_each_command_explains_itself() -> None:
    for name, parser in commands().items():
        help_text = parser.format_help()
        assert help_text.startswith(f"usage: weft-pack {name} "), name
        assert [option for option in options_of(parser) if option not in help_text] == []
