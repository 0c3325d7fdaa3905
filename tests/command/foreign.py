# SPDX-License-Identifier: Apache-2.0
"""Modules that are no apps, and files that are no modules, each as its toolchain or host has it, and the hint for it."""

import gzip
import io
import lzma
import tarfile
import zipfile

import wasmtime

from tests.command.guests import binary, guest, leb, sized
from tests.packages import wat

START = '(func (export "_start"))'
PREVIEW1 = "wasi_snapshot_preview1"


def importing(*names: str, more: str = START) -> bytes:
    """A module that imports functions, each "MODULE NAME"."""
    fields = [f'(import "{name.split()[0]}" "{name.split()[1]}" (func))' for name in names]
    return wat(" ".join(fields) + more)


def exporting(*names: str, more: str = "") -> bytes:
    return wat(more + " ".join(f'(func (export "{name}"))' for name in names))


def with_section(module: bytes, name: str, content: bytes = b"") -> bytes:
    """With a custom section, as the last one."""
    return module + b"\0" + sized(sized(name.encode()) + content)


def component() -> bytes:
    return bytes(wasmtime.wat2wasm("(component)"))


# What is imported or exported, and a piece of the hint.
KINDS = {
    "extism": (importing("extism:host/env input_length", "extism:host/env alloc", more=""), "Extism plugin"),
    "node add-on": (
        importing(
            "env napi_create_function", "env napi_throw", "wasi thread-spawn",
            more='(import "env" "memory" (memory 1 2 shared)) (func (export "napi_register_wasm_v1"))',
        ),
        "add-on for Node.js",
    ),
    "node add-on of another module": (importing("napi napi_get_undefined"), "add-on for Node.js"),
    "adapter": (
        importing(
            "__main_module__ _start", "wasi:cli/environment@0.2.6 get-environment",
            more='(import "env" "memory" (memory 0)) (func (export "fd_write"))',
        ),
        "an adapter that makes components",
    ),
    "wasm-bindgen for bundlers": (importing("./app_bg.js __wbindgen_throw", more=""), "wasm-bindgen"),
    "wasm-bindgen's snippets": (importing("./snippets/app-1234/inline0.js name"), "wasm-bindgen"),
    "wasm-bindgen for pages": (importing("wbg __wbg_log_1d3ae0273d8f4f8a"), "wasm-bindgen"),
    "wasm-bindgen before its tool": (
        importing("__wbindgen_placeholder__ __wbindgen_describe", "__wbindgen_externref_xform__ __wbindgen_externref_table_grow"),
        "wasm-bindgen",
    ),
    "wasm-bindgen without imports": (exporting("__wbindgen_malloc", "run"), "wasm-bindgen"),
    "javy, dynamic": (
        importing("javy_quickjs_provider_v3 eval_bytecode", "javy_quickjs_provider_v3 canonical_abi_realloc"),
        "built by Javy to be linked",
    ),
    "javy, dynamic, of later": (importing("javy-default-plugin-v1 invoke"), "built by Javy to be linked"),
    "javy's plugin": (exporting("compile-src", "invoke", "initialize-runtime", "cabi_realloc"), "plugin for Javy"),
    "javy's plugin of before": (exporting("eval_bytecode", "canonical_abi_realloc"), "plugin for Javy"),
    "ruby": (
        importing("rb-js-abi-host eval-js", "canonical_abi resource_drop_js-abi-value"), "Ruby for hosts with JavaScript",
    ),
    "ruby's component": (importing("ruby:js/js-runtime eval-js"), "Ruby for hosts with JavaScript"),
    "wasix": (importing("wasix_32v1 thread_spawn_v2", f"{PREVIEW1} fd_dup"), "WASIX"),
    "emscripten": (importing("env emscripten_resize_heap", "env _tzset_js"), "Emscripten for JavaScript"),
    "emscripten without start": (importing("env __syscall_openat", more=""), "Emscripten for JavaScript"),
    "emscripten's program for libraries": (
        importing("GOT.func main", "env __memory_base", "env emscripten_resize_heap"), "Emscripten for JavaScript",
    ),
    "emscripten without imports": (exporting("stackAlloc", "_emscripten_stack_restore"), "Emscripten for JavaScript"),
    "emscripten, minified": (importing("a a", "a b", more=""), "minified Emscripten"),
    "emscripten's library": (
        with_section(importing("env puts", more='(import "env" "__memory_base" (global i32))'), "dylink.0"),
        "shared library",
    ),
    "library of clang": (wat('(import "GOT.mem" "x" (global (mut i32)))'), "shared library"),
    "assemblyscript": (importing("env abort"), "AssemblyScript without WASI"),
    "object": (
        with_section(wat('(import "env" "__linear_memory" (memory 0)) (import "env" "printf" (func))'), "linking", b"\2"),
        "object file",
    ),
    "object without imports": (with_section(wat("(func)"), "linking", b"\2"), "object file"),
    "go": (importing("gojs runtime.wasmExit", "gojs syscall/js.valueGet"), "GOOS=wasip1"),
    "go of before 1.21": (importing("go runtime.wasmExit"), "GOOS=wasip1"),
    "tinygo": (importing("gojs runtime.ticks", "gojs syscall/js.valueGet"), "-target=wasip1"),
    "tinygo of before": (importing("env runtime.sleepTicks"), "-target=wasip1"),
    "tinygo's functions of the host": (importing("env main.multiply"), "functions without a body in Go"),
    "threads": (
        importing("wasi thread-spawn", more='(import "env" "memory" (memory 1 2 shared))' + START), "WASI threads",
    ),
    "shared memory": (wat(f"(memory 1 2 shared) {START}"), "build it without threads"),
    "shared memory of the host": (wat(f'(import "env" "memory" (memory 1 2 shared)) {START}'), "build it without threads"),
    "memory of the host": (wat(f'(import "env" "memory" (memory 1)) {START}'), "without --import-memory"),
    "memory64": (
        wat(f'(import "{PREVIEW1}" "fd_write" (func (param i32 i64 i64 i64) (result i32))) (memory i64 1) {START}'),
        "build it for wasm32",
    ),
    "kotlin, with garbage collection": (
        wat('(type (struct (field (mut i32)))) (import "js_code" "kotlin.captureStackTrace" (func (result externref)))'),
        "wasmWasi",
    ),
    "dart, with garbage collection": (
        wat('(rec (type $a (sub (struct))) (type $b (sub $a (struct (field (ref null $a))))))'
            '(import "dart2wasm" "_12" (func (param (ref null $b) (ref extern))))'),
        "Dart",
    ),
    "interface of the component model": (
        importing("wasi:cli/stdout@0.2.0 get-stdout"), "an interface of the component model, but is no component",
    ),
    "to become a component": (
        with_section(exporting("wasi:cli/run@0.2.0#run", "cabi_realloc"), "component-type:hello"), "to become a component",
    ),
    "reactor": (exporting("_initialize", "add"), "it is a reactor"),
    "snapshot 0": (importing("wasi_unstable fd_write"), "snapshot 0"),
    "wasi-nn": (importing("wasi_ephemeral_nn load"), "wasi-nn"),
    "another proposal of wasi": (importing("wasi_ephemeral_crypto_common options_open"), "a proposal of WASI"),
    "wasmedge's sockets": (importing(f"{PREVIEW1} sock_open", f"{PREVIEW1} sock_connect"), "WasmEdge"),
    "fastly": (importing("fastly_http_req body_downstream_get", "fastly_abi init"), "Fastly"),
    "spin": (exporting("spin_http_handle_http_request", "canonical_abi_free"), "Spin"),
    "proxy-wasm": (importing("env proxy_log", more='(func (export "proxy_abi_version_0_2_1"))'), "proxy-wasm"),
    "waPC": (importing("wapc __guest_request", more='(func (export "__guest_call"))'), "waPC"),
    "internet computer": (importing("ic0 msg_reply", more='(func (export "canister_query hello"))'), "Internet Computer"),
    "near": (importing("env read_register", "env value_return", more=""), "NEAR"),
    "cosmwasm": (importing("env db_read", more='(func (export "interface_version_8"))'), "CosmWasm"),
    "substrate": (importing("seal0 value_transferred", more=""), "blockchain"),
    "lunatic": (importing("lunatic::process spawn"), "lunatic"),
    "policy": (importing("env opa_abort", "env opa_builtin0", more=""), "Open Policy Agent"),
    "javascript's strings": (importing("wasm:js-string length"), "for JavaScript"),
    "legacy exceptions": (
        binary(
            (1, b"\1\x60\0\0"), (3, b"\1\0"), (7, b"\1" + sized(b"_start") + b"\0\0"), (10, b"\1" + sized(b"\0\x06\x40\x19\x0b\x0b")),
        ),
        "exceptions of the older form",
    ),
    "another proposal of wasm": (wat(f"(memory 1 (pagesize 1)) {START}"), "a proposal of WebAssembly"),
}  # fmt: skip


def tar() -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("app.wasm"))
    return content.getvalue()


def zipped() -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("app.wasm", b"x")
    return content.getvalue()


_UNPACK = "[unpack it before packaging]"
_PROCESSOR = "[it is for a processor: build it for the target wasm32-wasip1]"
_ASSEMBLE = "[assemble WAT with wat2wasm(1) or wasm-tools(1) before packaging]"
_NOT = "not a WebAssembly module"

FILES = {
    "empty": (b"", "is empty"),
    "gzip": (gzip.compress(guest("")), f"is a gzip file, {_NOT} {_UNPACK}"),
    "zip": (zipped(), f"is a zip file, {_NOT} {_UNPACK}"),
    "tar": (tar(), f"is a tar archive, {_NOT} {_UNPACK}"),
    "xz": (lzma.compress(guest("")), f"is an xz file, {_NOT} {_UNPACK}"),
    "zstd": (b"\x28\xb5\x2f\xfd\x04\x00", f"is a zstd file, {_NOT} {_UNPACK}"),
    "bzip2": (b"BZh91AY&SY", f"is a bzip2 file, {_NOT} {_UNPACK}"),
    "elf": (
        b"\x7fELF\2\1\1\0" + bytes(56), f"is a program, library or object file of Linux (ELF), {_NOT} {_PROCESSOR}"
    ),
    "pe": (b"MZ\x90\0\3\0\0\0", f"is a program or library of Windows (PE), {_NOT} {_PROCESSOR}"),
    "mach-o": (b"\xcf\xfa\xed\xfe\7\0\0\1", f"is a program or library of macOS (Mach-O), {_NOT} {_PROCESSOR}"),
    "mach-o, fat": (b"\xca\xfe\xba\xbe\0\0\0\2", f"is a program or library of macOS (Mach-O), {_NOT} {_PROCESSOR}"),
    "java": (b"\xca\xfe\xba\xbe\0\0\0\x41", f"is a class of Java, {_NOT}"),
    "script": (b"#!/bin/sh -e\nexec wasm\n", f"is a script (#!/bin/sh -e), {_NOT}"),
    "script without interpreter": (b"#!", f"is a script (#!), {_NOT}"),
    "bitcode": (b"BC\xc0\xde5\x14\0\0", f"is LLVM bitcode, {_NOT} [compile and link it, without -flto or -emit-llvm]"),
    "ar": (
        b"!<arch>\n/               0", f"is an archive of object files (ar), {_NOT} [link it, with wasm-ld or by the compiler]"
    ),
    "html": (b"\n<!DOCTYPE html>\n<html>", f"is a page of HTML, {_NOT} [a download has failed, as it seems]"),
    "git lfs": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:1234\n",
        f"is a pointer of Git LFS, {_NOT} [fetch the file itself: git lfs pull]",
    ),
    "base64": (b"AGFzbQEAAAA=\n", f"is a WebAssembly module in base64, {_NOT} [decode it before packaging: base64 -d]"),
    "wat": (b";; caf\xc3\xa9\r\n\t(module)", f"is text, {_NOT} {_ASSEMBLE}"),
    "text": (b"Not found\n", f"is text, {_NOT}"),
    "text that is cut within a character": (b"x" * 511 + b"\xc3\xa9", f"is text, {_NOT}"),
    "component": (
        component(),
        (
            "is a WebAssembly component: components are not supported by this release"
            " [build a WASI preview 1 command, such as with the target wasm32-wasip1]"
        ),
    ),
    "precompiled": (
        bytes(wasmtime.Module(wasmtime.Engine(), guest("")).serialize()),
        "is a precompiled module (an ELF file): not accepted in a package [ship the .wasm file; it is compiled on the device]",
    ),
    "version 2": (b"\0asm\2\0\0\0", "is WebAssembly of an unknown version"),
    "noise": (b"\xff" * 100, "is something other than a WebAssembly module"),
}  # fmt: skip


def many_imports(count: int) -> bytes:
    """A module that imports so many functions of a host that nobody knows."""
    imports = leb(count) + b"".join(
        sized(b"host") + sized(b"function%d" % index) + b"\0\0" for index in range(count)
    )
    return binary(
        (1, b"\1\x60\0\0"), (2, imports), (3, b"\1\0"), (7, b"\1" + sized(b"_start") + b"\0" + leb(count)),
        (10, b"\1" + sized(b"\0\x0b")),
    )  # fmt: skip
