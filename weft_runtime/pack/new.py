# SPDX-License-Identifier: Apache-2.0
"""`weft-pack new`: the beginning of an app, which builds and runs as it is."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from weft_runtime.errors import Problem, WeftError, from_os_error
from weft_runtime.escape import quote
from weft_runtime.ids import AppId
from weft_runtime.pack.languages import LANGUAGES, SDK
from weft_runtime.pack.screen import PROGRAM, Screen

_ORGANISATION = "org.example"
"""Of an id that nobody has chosen."""

_TEMPLATES = Path(__file__).with_name("templates")

_BUILD = "build"


def make(screen: Screen, directory: Path, language: str, app_id: AppId | None, *, with_ui: bool) -> int:
    """Fill `directory`, which must be new or empty; returns the exit status. Raises WeftError."""
    app_id = app_id or _id_of(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if any(directory.iterdir()):
            raise WeftError(Problem.USAGE, f"{quote(str(directory))} is not empty")
        for name, text in _files(language, app_id, with_ui=with_ui):
            path = directory / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
        (directory / _BUILD).chmod(0o755)
    except OSError as error:
        raise from_os_error(f"make {quote(str(directory))}", error) from None
    screen.line(f"created: {directory}")
    screen.note(f"next: {directory}/{_BUILD} && {PROGRAM} run {directory}")
    return 0


def _files(language: str, app_id: AppId, *, with_ui: bool) -> Iterator[tuple[str, str]]:
    """Path and text of each file of the app."""
    own = _TEMPLATES / language
    sources = sorted(path for path in own.iterdir() if path.name != _BUILD)
    (main,) = (path.name for path in sources if path.stem == "main")
    words = {
        "id": app_id,
        "name": app_id.rpartition(".")[2].capitalize(),
        "sources": f"src/{main}",
        "install": "\n".join(f"    {command}" for command in LANGUAGES[language].install),
        "page": ", `ui/index.html` the first page of the user interface" if with_ui else "",
        "sdk": SDK,
    }

    def text(path: Path) -> str:
        return _filled(path.read_text(encoding="utf-8"), words)

    yield "wapp.toml", text(_TEMPLATES / "wapp.toml") + (text(_TEMPLATES / "ui.toml") if with_ui else "")
    yield "README.md", text(_TEMPLATES / "README.md")
    yield ".gitignore", "/app.wasm\n"
    # The templates are no scripts yet.
    yield _BUILD, f"#!/bin/sh\n{text(_TEMPLATES / _BUILD)}{text(own / _BUILD)}"
    for path in sources:
        yield f"src/{path.name}", text(path)
    if with_ui:
        yield "ui/index.html", text(_TEMPLATES / "index.html")


def _filled(template: str, words: Mapping[str, str]) -> str:
    """`template` with each `@WORD@` replaced."""
    for word, value in words.items():
        template = template.replace(f"@{word}@", value)
    return template


def _id_of(directory: Path) -> AppId:
    """An id for an app whose directory has this name: the name itself, or one that ends in it."""
    name = directory.resolve().name
    for text in (name, f"{_ORGANISATION}.{name}"):
        try:
            return AppId.parse(text)
        except ValueError:
            pass
    message = f"{quote(name)} cannot be made into an app id"
    raise WeftError(Problem.USAGE, message, f"say --id, {AppId.RULE}")
