# SPDX-License-Identifier: Apache-2.0
"""What the names in a module say about who made it, and for which host: a hint where it is no app.

The names are facts of each toolchain and host: of its documentation, or of what it emits.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from weft_runtime.wasm import wasi
from weft_runtime.wasm.reader import FUNCTION, MEMORY, Import, Module

NAMES_MAX = 2000
"""Imports, and exports, that are looked at: one that tells is among the first, and nobody waits for more."""

_NAME_MAX = 200
"""Characters of a name that are compared: those that tell are shorter."""


class _Kind(NamedTuple):
    """A kind of module: it has one of these names, each a regular expression for the whole of it."""

    hint: str
    modules: str = ""
    """From where something is imported."""
    env: str = ""
    """What is imported from the module `env`, in which many toolchains put what their host offers."""
    imports: str = ""
    """What is imported, from wherever but WASI."""
    exports: str = ""
    sections: str = ""
    """Custom sections."""


_WASI_ALONE = "build it for WASI preview 1 alone"
_LIBRARY = "it is a shared library: link a program, without -shared"
_CONTRACT = "build a program of its own, with a main function"

# The first one counts, so what is narrower stands before what is wider.
_KINDS = (
    _Kind(
        _LIBRARY, sections=r"dylink(\.0)?",
    ),
    _Kind(
        "it is an add-on for Node.js: build a program of its own, without Node-API",
        modules="napi|emnapi", imports="napi_.*|node_api_.*|_?emnapi_.*", exports="napi_register_.*|node_api_module_.*",
    ),
    _Kind(
        "it is an adapter that makes components of modules, not an app",
        modules="__main_module__", exports="cabi_import_realloc",
    ),
    _Kind(
        "it is an Extism plugin, for programs with Extism to call: build a program of its own, with a main function",
        modules="extism:.*", env="extism_.*",
    ),
    _Kind(
        "it is Ruby for hosts with JavaScript: take a build of ruby.wasm without the gem 'js'",
        modules="rb-js-abi-host|rb-abi-guest|ruby:js/.*", exports="rb-abi-guest:.*|ruby:js/.*",
    ),
    _Kind(
        "it was built by Javy to be linked to a plugin: build it without '-C dynamic'",
        modules="javy[-_].*",
    ),
    _Kind(
        "it is a plugin for Javy, not an app: 'javy build' makes an app of a JavaScript file",
        exports="compile[-_]src|eval_bytecode|initialize[-_]runtime", sections="import_namespace",
    ),
    _Kind(
        "it was built for WASIX, which Wasmer offers: build it for WASI preview 1, such as the target wasm32-wasip1",
        modules="wasix_.*",
    ),
    _Kind(
        "it was built for WASI snapshot 0 (wasi_unstable): rebuild it with a current toolchain",
        modules="wasi_unstable",
    ),
    _Kind(
        "it was built by TinyGo for a browser: build it with -target=wasip1",
        imports=r"runtime\.(ticks|sleepTicks)",
    ),
    _Kind(
        "it was built by Go for a browser (GOOS=js): build it with GOOS=wasip1",
        modules="go|gojs", imports=r"(go\.)?syscall/js\..*",
    ),
    _Kind(
        "it has functions without a body in Go, which TinyGo imports from a host: define them",
        env=r"(main|.*/.*)\.\w+",
    ),
    _Kind(
        "it was built by wasm-bindgen for a browser: build it for the target wasm32-wasip1",
        modules=r"wbg|__wbindgen_.*|.*_bg\.(m?js|wasm)|\./snippets/.*", imports="__wbindgen_.*|__wbg_.*",
        exports="__wbindgen_.*|__wbg_.*", sections="__wasm_bindgen_unstable",
    ),
    _Kind(
        "it is a filter for a proxy (proxy-wasm), such as Envoy, which calls it",
        env="proxy_.*", exports="proxy_abi_version_.*|proxy_on_.*",
    ),
    _Kind(f"it was built for Fastly Compute: {_WASI_ALONE}", modules="fastly(_.*)?|env_fastly"),
    _Kind(
        f"it was built for Spin: {_WASI_ALONE}",
        modules="spin-.*|spin:.*|fermyon:.*", exports="spin-http.*|spin-redis.*|spin_http_.*|handle-http-request",
    ),
    _Kind(
        f"it was built for a host of waPC, such as wasmCloud: {_WASI_ALONE}",
        modules="wapc|wasmbus:.*|wasmcloud:.*", exports="__guest_call|wapc_init",
    ),
    _Kind(f"it is a canister of the Internet Computer: {_CONTRACT}", modules="ic0", exports="canister_.*"),
    _Kind(
        f"it is a contract for a blockchain (CosmWasm): {_CONTRACT}",
        env="db_(read|write|remove|scan|next)|addr_(validate|canonicalize|humanize)",
        exports="interface_version_[0-9]+|requires_(iterator|stargate|staking)",
    ),
    _Kind(
        f"it is a contract for a blockchain (NEAR): {_CONTRACT}",
        modules="near",
        env="promise_(create|then|and|return|batch_.*|result.*)|read_register|register_len|value_return|panic_utf8|log_utf8",
    ),
    _Kind(
        f"it is a contract for a blockchain: {_CONTRACT}",
        modules="seal[0-9]+|ethereum|eth2|vm_hooks|casper|soroban.*|stellar.*",
        env="ext_.*_version_[0-9]+|seal_.*|mBuffer.*|casper_.*|eosio_.*", sections="contract(spec|envmeta|meta)v0",
    ),
    _Kind("it is a policy of Open Policy Agent, for programs that evaluate it", env="opa_.*", exports="opa_.*"),
    _Kind(f"it was built for Shopify Functions: {_WASI_ALONE}", modules="shopify_function.*"),
    _Kind(f"it was built for Redpanda: {_WASI_ALONE}", modules="redpanda_.*"),
    _Kind(f"it was built for lunatic: {_WASI_ALONE}", modules="lunatic::.*"),
    _Kind(f"it is a plugin of Zellij: {_CONTRACT}", modules="zellij"),
    _Kind("it was built by Kotlin for JavaScript: build it for wasmWasi", modules="js_code", imports=r"kotlin\..*"),
    _Kind("it was built by Dart, which compiles for browsers alone", modules="dart2wasm|dart:.*"),
    _Kind("it was built by Swift for JavaScript: build it without JavaScriptKit", modules="javascript_kit|bjs"),
    _Kind("it was built by Haskell for JavaScript: build it without foreign imports of it", modules="ghc_wasm_jsffi"),
    _Kind("it was built by TeaVM for a browser: build it for its target WASI", modules="teavm.*"),
    _Kind(
        "it uses neural networks of its host (wasi-nn), which weft-runtime does not offer",
        modules="wasi_ephemeral_nn|wasi_nn|wasi:nn/.*",
    ),
    _Kind(
        f"it uses a proposal of WASI that weft-runtime does not offer: {_WASI_ALONE}",
        modules="wasi_ephemeral_.*|wasi_experimental_.*|wasi_http|wasi_snapshot_preview2",
    ),
    _Kind(
        "it was built by Emscripten for JavaScript: build it with -sSTANDALONE_WASM",
        env=r"_?emscripten_.*|__syscall_.*|invoke_.*|__cxa_.*|_embind_.*|_emval_.*|_\w+_js|_?_asyncjs__.*|[gs]etTempRet0",
        modules="asm2wasm", exports="_?emscripten_.*|dynCall_.*|stackAlloc",
    ),
    _Kind(_LIBRARY, modules=r"GOT\.(mem|func)", env="__memory_base|__table_base"),
    _Kind(
        "it was built for JavaScript: build it for WASI instead of a browser",
        modules=r"wasm:js-.*|\.{1,2}/.*|.*\.m?js",
    ),
)  # fmt: skip

# What says less than what is imported besides.
_WEAK_KINDS = (
    _Kind("it imports an interface of the component model, but is no component itself", modules=r"[\w-]+:[\w-]+(/.*)?"),
    _Kind(
        "it was made to become a component, of which weft-runtime runs none: build a WASI preview 1 command",
        exports=".*:.*/.*#.*|cabi_realloc", sections="component-type(:.*)?",
    ),
    _Kind(
        "it looks like AssemblyScript without WASI: build it with @assemblyscript/wasi-shim",
        env="abort|seed|trace", imports="~lib/.*",
    ),
)  # fmt: skip

_OBJECT = "it is an object file: link it, with wasm-ld or by the compiler without -c"
_MINIFIED = "it looks like a minified Emscripten program: build it with -sSTANDALONE_WASM"
_WASI_THREADS = "it uses WASI threads, which the engine does not offer: build it without threads"
_SHARED_MEMORY = "it shares its memory, as programs with threads do: build it without threads"
_OWN_MEMORY = "it expects its memory from its host: link it without --import-memory"
_WASM64 = "it was built for memory of 64 bits: build it for wasm32, since WASI preview 1 is made for that"
_SOCKETS = "it uses sockets as WasmEdge offers them: WASI preview 1 opens no connections"
_REACTOR = "it is a reactor, which a host calls: build a command, with a main function"

# What the engine says of proposals that it has not, or that are switched off.
_PROPOSALS = (
    (
        "legacy_exceptions",
        "it has exceptions of the older form: build it without, or with -mllvm -wasm-use-legacy-eh=false",
    ),
    (
        r"feature required|must be enabled|is disabled|is not enabled|support is not enabled|require the .* proposal",
        "it uses a proposal of WebAssembly that the engine does not offer: build it without",
    ),
)


def diagnose(contents: Module) -> str | None:
    """What kind of module this is that cannot be started, and what to do; None if unknown."""
    unknown = unknown_imports(contents)
    names = _names(contents, unknown[:NAMES_MAX])
    if "__linear_memory" in names["env"] or ("linking" in names["sections"] and not contents.exports):
        return _OBJECT
    return (
        _first(_KINDS, names)
        or _by_what_is_imported(contents, unknown)
        or _first(_WEAK_KINDS, names)
        or (_REACTOR if "_initialize" in names["exports"] and "_start" not in names["exports"] else None)
    )


def proposal(complaint: str) -> str | None:
    """What to do about a module of which the engine says this."""
    return next((hint for words, hint in _PROPOSALS if re.search(words, complaint)), None)


def unknown_imports(contents: Module) -> list[Import]:
    """What is not WASI's, in the order of the file."""
    return [import_ for import_ in contents.imports if not wasi.offers(import_.module, import_.name)]


def wrong_imports(contents: Module) -> list[Import]:
    """What has a name of WASI's and another type, as far as types are known."""
    return [
        import_
        for import_ in contents.imports
        if wasi.offers(import_.module, import_.name)
        and (import_.kind != FUNCTION or import_.type not in (None, wasi.FUNCTIONS[import_.name]))
    ]


def _names(contents: Module, unknown: Sequence[Import]) -> dict[str, set[str]]:
    """The names to look at, by the field of `_Kind`."""
    foreign = [import_ for import_ in unknown if import_.module != wasi.MODULE]
    found = {
        "modules": {import_.module for import_ in foreign},
        "env": {import_.name for import_ in foreign if import_.module == "env"},
        "imports": {import_.name for import_ in foreign},
        "exports": {export.name for export in contents.exports[:NAMES_MAX]},
        "sections": {*contents.sections},
    }
    return {field: {name[:_NAME_MAX] for name in names} for field, names in found.items()}


def _first(kinds: Iterable[_Kind], names: dict[str, set[str]]) -> str | None:
    return next((kind.hint for kind in kinds if any(_matches(kind, names))), None)


def _matches(kind: _Kind, names: dict[str, set[str]]) -> Iterator[bool]:
    for field, found in names.items():
        if pattern := getattr(kind, field):
            fits = re.compile(pattern, re.DOTALL).fullmatch
            yield any(fits(name) for name in found)


def _by_what_is_imported(contents: Module, unknown: Sequence[Import]) -> str | None:
    if any((import_.module, import_.name) == ("wasi", "thread-spawn") for import_ in unknown):
        return _WASI_THREADS
    if any(memory.is_shared for memory in contents.memories):
        return _SHARED_MEMORY
    if unknown and all(import_.module == "a" for import_ in unknown):
        return _MINIFIED
    if any(import_.module == wasi.MODULE and import_.name.startswith("sock_") for import_ in unknown):
        return _SOCKETS
    if any(memory.is_64 for memory in contents.memories) and wrong_imports(contents):
        return _WASM64
    if any(import_.kind == MEMORY for import_ in unknown):
        return _OWN_MEMORY
    return None
