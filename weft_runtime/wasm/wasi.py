# SPDX-License-Identifier: Apache-2.0
"""The functions of WASI preview 1, which are all that a module may import."""

from collections.abc import Mapping

from weft_runtime.wasm.reader import FunctionType

MODULE = "wasi_snapshot_preview1"

# Parameters, `i` for i32 and `I` for i64; all but one return an errno, an i32.
_PARAMETERS = {
    "args_get": "ii", "args_sizes_get": "ii", "clock_res_get": "ii", "clock_time_get": "iIi",
    "environ_get": "ii", "environ_sizes_get": "ii", "fd_advise": "iIIi", "fd_allocate": "iII",
    "fd_close": "i", "fd_datasync": "i", "fd_fdstat_get": "ii", "fd_fdstat_set_flags": "ii",
    "fd_fdstat_set_rights": "iII", "fd_filestat_get": "ii", "fd_filestat_set_size": "iI",
    "fd_filestat_set_times": "iIIi", "fd_pread": "iiiIi", "fd_prestat_dir_name": "iii",
    "fd_prestat_get": "ii", "fd_pwrite": "iiiIi", "fd_read": "iiii", "fd_readdir": "iiiIi",
    "fd_renumber": "ii", "fd_seek": "iIii", "fd_sync": "i", "fd_tell": "ii", "fd_write": "iiii",
    "path_create_directory": "iii", "path_filestat_get": "iiiii", "path_filestat_set_times": "iiiiIIi",
    "path_link": "iiiiiii", "path_open": "iiiiiIIii", "path_readlink": "iiiiii",
    "path_remove_directory": "iii", "path_rename": "iiiiii", "path_symlink": "iiiii",
    "path_unlink_file": "iii", "poll_oneoff": "iiii", "proc_exit": "i", "proc_raise": "i",
    "random_get": "ii", "sched_yield": "", "sock_accept": "iii", "sock_recv": "iiiiii",
    "sock_send": "iiiii", "sock_shutdown": "ii",
}  # fmt: skip
_TYPES = {"i": "i32", "I": "i64"}

FUNCTIONS: Mapping[str, FunctionType] = {
    name: FunctionType(tuple(_TYPES[letter] for letter in letters), () if name == "proc_exit" else ("i32",))
    for name, letters in _PARAMETERS.items()
}


def offers(module: str, name: str) -> bool:
    """Whether weft-runtime has something by this name for a module."""
    return module == MODULE and name in FUNCTIONS
