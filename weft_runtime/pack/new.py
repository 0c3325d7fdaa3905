# SPDX-License-Identifier: Apache-2.0
"""`weft-pack new`: the beginning of an app, which builds and runs as it is."""

from pathlib import Path
from string import Template

from weft_runtime.errors import Problem, WeftError, from_os_error
from weft_runtime.escape import quote
from weft_runtime.ids import AppId
from weft_runtime.pack.screen import PROGRAM, Screen

_ORGANISATION = "org.example"
"""Of an id that nobody has chosen."""

_MANIFEST = """\
# See wapp.toml(5).
[package]
id = "$id"
name = "$name"
version = "0.1.0"
description = "Says hello."
# What the app may use besides the clock and random numbers, such as a directory for its data:
# capabilities = ["fs:rw:app-data"]

[runtime]
module = "app.wasm"
args = ["world"]

[ui]
entry = "ui/index.html"
"""

_PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$name</title>
</head>
<body>
<h1>$name</h1>
</body>
</html>
"""

_README = """\
# $name

    ./build              # compiles $source to app.wasm
    weft-pack check .    # finds what is wrong with the package
    weft-pack run .      # runs it from here

On Debian, `./build` needs this: `apt-get install --no-install-recommends $packages`

`wapp.toml` is the manifest, wapp.toml(5); `ui/index.html` the first page of the user interface. To give the app
away, see `sign` and `bundle` in weft-pack(1).
"""

_IGNORED = "/app.wasm\n"

_RUST = """\
fn main() {
    let names: Vec<String> = std::env::args().skip(1).collect();
    println!("Hello, {}!", names.join(" and "));
}
"""

_RUST_BUILD = """\
#!/bin/sh
# Compile src/main.rs to app.wasm.
set -eu
cd "$$(dirname "$$0")"
# Debian's compiler, since one from elsewhere may have no library for the target, which was renamed after Debian 12.
target=wasm32-wasip1
/usr/bin/rustc --print target-list | grep -qx "$$target" || target=wasm32-wasi
exec /usr/bin/rustc --edition=2021 --target="$$target" -Clinker=wasm-ld -Copt-level=s -Clto -Cpanic=abort \\
    -Cstrip=debuginfo -o app.wasm src/main.rs
"""

_C = """\
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++)
        printf("Hello, %s!\\n", argv[i]);
    /* The library keeps output back until its buffer is full: flush what somebody should see at once. */
    return fflush(stdout) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
"""

_C_BUILD = """\
#!/bin/sh
# Compile src/main.c to app.wasm.
set -eu
cd "$$(dirname "$$0")"
exec /usr/bin/clang --target=wasm32-wasi -Os -Wall -Wextra -o app.wasm src/main.c
"""

# Name and text of the source, the build script, and the Debian packages that it needs.
_LANGUAGES = {
    "rust": ("src/main.rs", _RUST, _RUST_BUILD, "rustc libstd-rust-dev-wasm32 lld"),
    "c": ("src/main.c", _C, _C_BUILD, "clang lld wasi-libc libclang-rt-dev-wasm32"),
}


def make(screen: Screen, directory: Path, language: str, app_id: AppId | None) -> int:
    """Fill `directory`, which must be new or empty; returns the exit status. Raises WeftError."""
    app_id = app_id or _id_of(directory)
    source, program, build, packages = _LANGUAGES[language]
    words = {
        "id": app_id,
        "name": app_id.rpartition(".")[2].capitalize(),
        "source": source,
        "packages": packages,
    }
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if any(directory.iterdir()):
            raise WeftError(Problem.USAGE, f"{quote(str(directory))} is not empty")
        for name, text in {
            "wapp.toml": _MANIFEST,
            "README.md": _README,
            ".gitignore": _IGNORED,
            "ui/index.html": _PAGE,
            source: program.replace("$", "$$"),
            "build": build,
        }.items():
            path = directory / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(Template(text).substitute(words), encoding="utf-8")
        (directory / "build").chmod(0o755)
    except OSError as error:
        raise from_os_error(f"make {quote(str(directory))}", error) from None
    screen.line(f"created: {directory}")
    screen.note(f"next: {directory}/build && {PROGRAM} run {directory}")
    return 0


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
