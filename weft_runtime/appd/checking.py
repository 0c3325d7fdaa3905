# SPDX-License-Identifier: Apache-2.0
"""`weft-appd --check`: whether the daemon would start, judged as the user and with the variables that it would have."""

import os
from collections.abc import Mapping
from pathlib import Path

from weft_runtime import policy, programs
from weft_runtime.account import Account
from weft_runtime.appd import handover
from weft_runtime.appd.settings import find_runtime, load, unfit
from weft_runtime.appd.websocket import read_token
from weft_runtime.errors import Problem, WeftError, from_os_error
from weft_runtime.escape import quote

_PROPERTIES = "LoadState,User,Group,Environment,EnvironmentFiles"


def check(config: Path | None, environ: Mapping[str, str]) -> None:
    """Raises WeftError that names all that is wrong with the settings, or ENGINE_MISSING where that alone is.

    Where systemd has the daemon's unit, root and the unit's user mean that daemon: the unit's variables count, except for
    those that the caller sets, and root becomes that user. Anybody else means a daemon of their own, and so does a
    daemon that asks for itself before a reload.
    """
    handover.check_version(environ)
    # One that the caller names may be made by the first installation into it.
    may_be_made = "WEFT_APP_STORE" in environ
    if handover.VERSION_VARIABLE not in environ:
        environ = _as_the_unit(environ)
    settings = load(config, environ)
    problems = unfit(settings, store_may_be_made=may_be_made)
    try:
        read_token(settings)
    except WeftError as error:
        problems.append(error.message)
    # A reload launches nothing.
    refusal = policy_complaint() if handover.VERSION_VARIABLE not in environ else []
    missing = None
    try:
        find_runtime(settings)
    except WeftError as error:
        missing = error
    if missing is not None and not problems:
        raise WeftError(missing.problem, "; ".join([missing.message, *refusal]), missing.hint)
    if missing is not None:
        problems.append(str(missing))
    if problems or refusal:
        raise WeftError(Problem.CONFIG_INVALID, "; ".join([*problems, *refusal]))


def policy_complaint() -> list[str]:
    """What `check` says at its end of a policy that cannot be known, if that is so."""
    try:
        policy.read()
    except WeftError as error:
        return [f"{error.message}: no app would start"]
    return []


def _as_the_unit(environ: Mapping[str, str]) -> Mapping[str, str]:
    """The variables to judge by; this process is then the user that the unit's would be. Raises WeftError."""
    unit = programs.show([programs.UNIT], _PROPERTIES, environ).get(programs.UNIT, {})
    if unit.get("LoadState") != "loaded" or not unit.get("User"):
        return environ
    account = Account.find(unit["User"], unit.get("Group", ""))
    if os.geteuid() == 0:
        if account is None:
            message = f"the user {quote(unit['User'])} of {programs.UNIT}, or the group, does not exist"
            raise WeftError(Problem.CONFIG_INVALID, message, "'systemd-sysusers' makes those of the package")
        try:
            account.become()
        except OSError as error:
            raise from_os_error(f"become the user {quote(account.name)}", error) from None
    elif account is None or not account.is_caller:
        return environ
    return {**programs.environment(unit), **environ}
