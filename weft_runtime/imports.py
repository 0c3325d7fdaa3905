# SPDX-License-Identifier: Apache-2.0
"""What an import that is not WASI's says about the program that has it."""

from collections.abc import Sequence

_GO_JS = "it was built by Go for a browser (GOOS=js): build it with GOOS=wasip1"
_WASM_BINDGEN = "it was built by wasm-bindgen for a browser: build it for the target wasm32-wasip1"

# Module names that give a toolchain away, and what to tell its user.
_BY_MODULE = {
    "wasi_unstable": "it was built for WASI snapshot 0 (wasi_unstable): rebuild it with a current toolchain",
    "go": _GO_JS,
    "gojs": _GO_JS,
    "wasi": "it uses WASI threads, which the engine does not offer: build it without threads",
    "wbg": _WASM_BINDGEN,
    "__wbindgen_placeholder__": _WASM_BINDGEN,
    "a": "it looks like a minified Emscripten program: build it with -sSTANDALONE_WASM",
}
_EMSCRIPTEN_PREFIXES = ("emscripten_", "_emscripten_", "__syscall_", "invoke_", "__cxa_", "_embind_")


def diagnose(names: Sequence[tuple[str, str]]) -> str | None:
    """What kind of program imports `names`, pairs of module and name, and what to do; None if unknown."""
    # What only one toolchain has comes first, wherever it stands in the list.
    for module, name in names:
        if module in _BY_MODULE:
            return _BY_MODULE[module]
        if module == "env" and name.startswith(_EMSCRIPTEN_PREFIXES):
            return "it was built by Emscripten for JavaScript: build it with -sSTANDALONE_WASM"
    for module, name in names:
        if module == "env" and name == "memory":
            return "it imports its memory, as programs with threads do: build it without threads"
        if module == "env" and name == "abort":
            return "it looks like AssemblyScript without WASI: build it with @assemblyscript/wasi-shim"
        if ":" in module:
            return "it imports an interface of the component model, but is no component itself"
    return None
