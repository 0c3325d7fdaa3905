# SPDX-License-Identifier: Apache-2.0
"""The manual pages and the README say what the code does."""

import re
import subprocess
import tomllib
from collections.abc import Iterator
from itertools import pairwise

import pytest

from tests.packages import manifest as valid_manifest
from tests.unit.needs import ROOT, tool
from weft_runtime import limits, manifest, settings
from weft_runtime.errors import ExitStatus, Problem
from weft_runtime.journal import Event, Level
from weft_runtime.limits import Limit
from weft_runtime.runtime import parser

MAN = ROOT / "docs/man"
PAGES = {"weft-runtime.1", "wapp.toml.5"}
ALL_PAGES = sorted(PAGES | {path.name for path in MAN.glob("*")})

# The escapes of roff(7) that stand for a character; what else the pages have only changes the font.
CHARACTERS = {
    r"\-": "-", r"\e": "\\", r"\(aq": "'", r"\(dq": '"', r"\(bu": "*", r"\(en": "-", r"\(em": "-",
    r"\ ": " ",
}  # fmt: skip
ESCAPE = re.compile(r"\\(?:f\(?[A-Z]{1,2}|f\[[A-Z]*\]|\([a-z]{2}|[-e& ])")
FONT_MACROS = {"BR", "RB", "BI", "IB", "RI", "IR"}


def plain(line: str) -> str:
    """One line of a page's source without its markup."""
    macro, _, rest = line.partition(" ")
    if macro[1:] in FONT_MACROS and macro[:1] == ".":
        line = "".join(quoted or bare for quoted, bare in re.findall(r'"([^"]*)"|(\S+)', rest))
    elif macro[:1] in (".", "'"):
        line = rest.replace('"', "") if macro in (".B", ".I", ".SM", ".SB") else ""
    return ESCAPE.sub(lambda match: CHARACTERS.get(match[0], ""), line)


def sections(page: str) -> dict[str, list[str]]:
    """The source of each section of a page, by its title."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in (MAN / page).read_text().splitlines():
        if line.startswith(".SH "):
            lines = found.setdefault(line.removeprefix(".SH ").strip('"'), [])
        lines.append(line)
    return found


def section(page: str, title: str) -> str:
    """The text of a section, on one line."""
    lines = sections(page)[title]
    return " ".join(
        " ".join(plain(line) for line in lines[1:]).replace("T{", " ").replace("T}", " ").split()
    )


def tags(lines: list[str]) -> Iterator[str]:
    """What .TP paragraphs are about, each with the rest of its line."""
    for before, line in pairwise(lines):
        if before.startswith(".TP"):
            yield plain(line)


def has_word(text: str, word: str) -> bool:
    return re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", text) is not None


def parser_options() -> set[str]:
    actions = parser.build_parser("weft-runtime")._actions
    return {name for action in actions for name in action.option_strings}


def test_the_page_has_exactly_the_options_of_the_parser() -> None:
    named = [tag.split()[0] for tag in tags(sections("weft-runtime.1")["OPTIONS"])]
    assert sorted(named) == sorted(parser_options())


def test_the_page_shows_the_value_of_each_option_that_has_one() -> None:
    shown = {tag.split()[0]: tag.split()[1:] for tag in tags(sections("weft-runtime.1")["OPTIONS"])}
    actions = parser.build_parser("weft-runtime")._actions
    assert shown == {
        name: [] if action.nargs == 0 else [str(action.metavar)]
        for action in actions
        for name in action.option_strings
    }


def test_the_page_names_no_option_that_does_not_exist() -> None:
    text = " ".join(plain(line) for lines in sections("weft-runtime.1").values() for line in lines)
    assert set(re.findall(r"(?<![\w-])--[a-z-]+", text)) == parser_options()


def test_the_page_names_every_log_level() -> None:
    text = section("weft-runtime.1", "OPTIONS")
    assert [level.name.lower() for level in Level if not has_word(text, level.name.lower())] == []


def test_the_page_has_exactly_the_exit_statuses_of_the_table() -> None:
    lines = sections("weft-runtime.1")["EXIT STATUS"]
    numbers = [tag for tag in tags(lines) if not tag.startswith("0")]
    assert numbers == [str(int(status)) for status in ExitStatus]


@pytest.mark.parametrize("status", ExitStatus, ids=str)
def test_the_page_says_what_an_exit_status_means(status: ExitStatus) -> None:
    assert f" {int(status)} {status.meaning} " in f"{section('weft-runtime.1', 'EXIT STATUS')} "


def test_the_page_names_exactly_the_problem_codes() -> None:
    text = section("weft-runtime.1", "JOURNAL").partition("WEFT_PROBLEM:")[2].partition(".")[0]
    assert sorted(re.split(", | or ", text.strip())) == sorted(Problem)


def test_the_page_names_exactly_the_events_of_the_runtime() -> None:
    text = section("weft-runtime.1", "JOURNAL").partition("WEFT_EVENT (")[2].partition(")")[0]
    code = [path.read_text() for path in (ROOT / "weft_runtime/runtime").glob("*.py")]
    events = {Event[name].value for name in re.findall(r"\bEvent\.([A-Z_]+)", "\n".join(code))}
    events.add(Event.LOG_LOST.value)  # the log itself says so
    assert sorted(text.split(", ")) == sorted(events)


@pytest.mark.parametrize("limit", limits.ALL, ids=lambda limit: limit.what)
def test_the_page_shows_a_limit_and_its_reason(limit: Limit) -> None:
    text = f" {limit.what}: {limit.value} {limit.unit} {limit.reason} "
    assert text in f" {section('weft-runtime.1', 'LIMITS')}"


def test_the_page_shows_no_other_limit() -> None:
    named = [tag.partition(":")[0] for tag in tags(sections("weft-runtime.1")["LIMITS"])]
    assert named == [limit.what for limit in limits.ALL]


class Recording(dict[str, str]):
    """An empty environment that knows what was looked for in it."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def get(self, name: str, default: object = None) -> None:  # type: ignore[override] # nothing is ever found
        self.names.add(name)


def variables_read() -> set[str]:
    environ = Recording()
    settings.log_settings(environ)
    settings.runtime_settings(environ)
    settings.service_settings(environ)
    settings.cache_directory(environ)
    settings.report_descriptor(environ)
    settings.is_supervised(environ)
    assert environ.names
    return environ.names


def test_the_page_names_every_variable_that_is_read() -> None:
    text = section("weft-runtime.1", "ENVIRONMENT")
    assert sorted(name for name in variables_read() if not has_word(text, name)) == []


def test_the_page_names_no_variable_that_is_not_read() -> None:
    named = list(tags(sections("weft-runtime.1")["ENVIRONMENT"]))
    assert named
    assert sorted(set(named) - variables_read()) == []


def test_the_page_names_the_stores_in_their_order() -> None:
    text = section("weft-runtime.1", "FILES")
    stores = settings.runtime_settings({"HOME": "~"}).stores
    assert " ".join(str(store) for store in stores) in text


class Reads(dict[str, object]):
    """A table of a parsed file that notes which keys are looked for, in it and below."""

    def __init__(self, values: dict[str, object], path: str, seen: set[str]) -> None:
        super().__init__(values)
        self.path, self.seen = path, seen

    def get(self, key: str, default: object = None) -> object:
        self.seen.add(f"{self.path}{key}")
        value = super().get(key, default)
        return Reads(value, f"{self.path}{key}.", self.seen) if isinstance(value, dict) else value

    def __getitem__(self, key: str) -> object:
        return self.get(key)

    def __contains__(self, key: object) -> bool:
        self.seen.add(f"{self.path}{key}")
        return super().__contains__(key)


def manifest_keys(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Every key that is read, with its table: `package.id`."""
    seen: set[str] = set()
    values = tomllib.loads(valid_manifest())
    monkeypatch.setattr(tomllib, "loads", lambda text: Reads(values, "", seen))
    manifest.parse(b"", "wapp.toml")
    return {key for key in seen if "." in key}


def documented_keys() -> dict[str, str]:
    """The keys of wapp.toml(5), with what stands behind each."""
    keys, table = {}, ""
    lines = sections("wapp.toml.5")["DESCRIPTION"]
    for before, line in pairwise(lines):
        if line.startswith(".SS ["):
            table = line.removeprefix(".SS [").removesuffix("]")
        elif before.startswith(".TP"):
            name, _, about = plain(line).partition(" ")
            keys[f"{table}.{name}"] = about
    return keys


def test_the_page_has_exactly_the_keys_that_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    assert sorted(documented_keys()) == sorted(manifest_keys(monkeypatch))


def test_the_page_says_which_keys_are_required() -> None:
    required = {key for key, about in documented_keys().items() if "required" in about}
    assert required == {"package.id", "package.name", "package.version", "runtime.module", "ui.entry"}


def test_the_page_names_every_ready_mode() -> None:
    text = section("wapp.toml.5", "DESCRIPTION")
    assert [mode for mode in manifest.ReadyMode if not has_word(text, mode)] == []


def test_the_example_of_the_page_is_a_valid_manifest() -> None:
    lines = sections("wapp.toml.5")["EXAMPLE"]
    text = "\n".join(plain(line) for line in lines if not line.startswith("."))
    assert manifest.parse(text.encode(), "example").module


LINTERS = {
    "mandoc": (["mandoc", "-T", "lint", "-W", "warning"], "mandoc"),
    "man": (["man", "--warnings", "--encoding=UTF-8", "--local-file"], "man-db"),
}
"""How a page is checked by what people read it with, and the Debian package of that."""


@pytest.mark.parametrize("linter", LINTERS)
@pytest.mark.parametrize("page", ALL_PAGES)
def test_the_page_is_good_roff(page: str, linter: str) -> None:
    command, package = LINTERS[linter]
    result = subprocess.run(
        [tool(command[0], package), *command[1:], str(MAN / page)],
        capture_output=True,
        text=True,
        check=False,
        env={"LC_ALL": "C.UTF-8", "PATH": "/usr/bin:/bin", "MANWIDTH": "80"},
    )
    # What man(1) shows is the page itself.
    assert (result.stdout * (linter == "mandoc") + result.stderr, result.returncode) == ("", 0)


RENDERERS = {
    "mandoc": ("mandoc", "-T", "utf8", "-O", "width=80"),
    "man": ("man", "--local-file", "--encoding=UTF-8"),
}
"""What shows a page in a terminal of 80 columns, with MANWIDTH."""


@pytest.mark.parametrize("renderer", RENDERERS)
@pytest.mark.parametrize("page", ALL_PAGES)
def test_the_page_can_be_read_in_80_columns(page: str, renderer: str) -> None:
    command = RENDERERS[renderer]
    shown = subprocess.run(
        [tool(command[0], LINTERS[renderer][1]), *command[1:], str(MAN / page)],
        capture_output=True,
        text=True,
        check=True,
        env={"LC_ALL": "C.UTF-8", "PATH": "/usr/bin:/bin", "MANWIDTH": "80", "MAN_KEEP_FORMATTING": ""},
    ).stdout
    lines = [re.sub(".\b", "", line) for line in shown.splitlines()]
    # What is shown as typed may be longer than any line of text.
    typed = {plain(line) for line in (MAN / page).read_text().splitlines()}
    assert [line for line in lines if len(line) > 80 and line.strip() not in typed] == []
    # A table whose columns leave no room for the last one has one word of it a line.
    assert [line for line in lines if re.match(r" {45,}\S", line)] == []


@pytest.mark.parametrize("page", ALL_PAGES)
def test_the_page_has_its_licence_and_its_title(page: str) -> None:
    name, _, number = page.rpartition(".")
    lines = (MAN / page).read_text().splitlines()
    assert '.\\" SPDX-License-Identifier: Apache-2.0' in lines[:2]
    title = next(line for line in lines if line.startswith(".TH "))
    assert plain(f".B {title.removeprefix('.TH ')}").split()[:2] == [name.upper(), number]


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) < 100


def test_every_page_that_another_names_exists() -> None:
    texts = {
        page: " ".join(plain(line) for line in (MAN / page).read_text().splitlines()) for page in ALL_PAGES
    }
    # A page is found under each of the names that its section NAME has.
    known = {
        f"{name}({page[-1]})"
        for page in ALL_PAGES
        for name in section(page, "NAME").partition(" - ")[0].split(", ")
    }
    named = {
        name
        for text in texts.values()
        for name in re.findall(r"\b(?:weft[a-z-]*|wapp\.toml)\([1-8]\)", text)
    }
    assert "weft-runtime(1)" in known
    assert sorted(named - known) == []


def test_every_search_of_the_journal_asks_for_what_only_journald_can_set() -> None:
    """Any user can write entries with our fields: what we tell an operator to type must not find those."""
    trusted = re.compile(r" _UID=| _SYSTEMD_UNIT=| _PID=1")
    forgeable = re.compile(r"journalctl (?:.*(?:\bWEFT_[A-Z_]+=|--identifier|-u |--unit)|-x[`'])")
    files = [
        ROOT / "README.md",
        *(ROOT / "docs").rglob("*"),
        *(ROOT / "infra").rglob("*"),
        *(ROOT / "examples").glob("*/ui/*.html"),
        *(ROOT / "packaging/debian").glob("weft-runtime.*"),
        *(ROOT / "weft_runtime").rglob("*.py"),
    ]
    found = 0
    for path in files:
        if not path.is_file():
            continue
        for line in path.read_text(encoding="utf-8").replace("\\-", "-").splitlines():
            if forgeable.search(line):
                found += 1
                assert trusted.search(line), f"{path}: {line}"
    assert found > 5
