# SPDX-License-Identifier: Apache-2.0
"""What waits to be started again, as weftctl shows it and acts on it, on a real weft-appd."""

import json
import os
import shutil

from tests.command.device import OTHER_ID, STAYS, Device
from tests.command.guests import guest
from tests.command.harness import eventually
from tests.packages import APP_ID, install

THIRD_ID = "org.example.third"


def start_with(device: Device, *app_ids: str) -> None:
    """A daemon that has these to start again."""
    device.saved.parent.mkdir(exist_ok=True)
    device.saved.write_text(json.dumps(app_ids))
    device.start()


def states(device: Device) -> dict[object, object]:
    return {item["app_id"]: item["state"] for item in device.ctl("list", "--json").json}


def until_states(device: Device, expected: dict[str, str]) -> None:
    eventually(lambda: states(device) == expected, f"{expected}, not {states(device)}")


def test_list_shows_what_waits_and_why(device: Device) -> None:
    install(device.store, guest(STAYS), app_id=OTHER_ID)
    start_with(device, APP_ID, OTHER_ID)
    until_states(device, {OTHER_ID: "running", APP_ID: "waiting"})
    eventually(lambda: "not found" in device.ctl("list").stderr, "it has been tried")
    (told, help_) = device.ctl("list").stderr.splitlines()
    assert told.startswith(f"weftctl: {APP_ID} waits to be started again: package '{APP_ID}' not found")
    assert "; it is tried " in told
    assert help_ == "weftctl: 'weftctl restore' starts them now, 'weftctl restore --forget' forgets them"
    running, waits = device.ctl("list", "--json").json
    assert waits.keys() == running.keys()
    assert waits["session_id"] is None
    assert "not found" in str(waits["reason"])


def test_restore_tries_it_now_and_says_what_becomes_of_it(device: Device) -> None:
    # What is no module is not tried by itself again and again.
    for app_id in (APP_ID, OTHER_ID):
        install(device.store, b"no module", app_id=app_id)
    start_with(device, APP_ID, OTHER_ID)
    eventually(lambda: device.ctl("list").stderr.count("not tried again by itself") == 2, "both wait")
    shutil.rmtree(device.store / APP_ID)
    install(device.store, guest(STAYS))
    done = device.ctl("restore")
    assert done.status == 171
    assert done.stdout == f"{APP_ID} is started again\n"
    still, end = done.stderr.splitlines()
    assert still.startswith(f"weftctl: {OTHER_ID} still waits: ")
    assert still.endswith("; it is not tried again by itself")
    assert end == "weftctl: not all apps could be started again [see 'weftctl list']"
    shutil.rmtree(device.store / OTHER_ID)
    install(device.store, guest(STAYS), app_id=OTHER_ID)
    done = device.ctl("restore", OTHER_ID, "--json")
    assert done.status == 0
    assert done.json == [{"apps": [OTHER_ID], "waiting": [], "refused": [], "problem": None}]
    until_states(device, {APP_ID: "running", OTHER_ID: "running"})
    done = device.ctl("restore")
    assert (done.status, done.stderr) == (0, "weftctl: nothing waits to be started again\n")
    done = device.ctl("restore", THIRD_ID)
    assert (done.status, done.stdout) == (166, "")
    assert (
        done.stderr == f"weftctl: no session of {THIRD_ID} waits to be started again [see 'weftctl list']\n"
    )


def test_restore_forgets(device: Device) -> None:
    start_with(device, APP_ID, OTHER_ID, THIRD_ID)
    until_states(device, {APP_ID: "waiting", OTHER_ID: "waiting", THIRD_ID: "waiting"})
    done = device.ctl("restore", "--forget", APP_ID)
    assert (done.status, done.stdout) == (0, f"{APP_ID} is not started again\n")
    # The end of an app is the end of what waits as well.
    done = device.ctl("stop", OTHER_ID)
    assert (done.status, done.stdout) == (
        0, f"{OTHER_ID} waited to be started again, and does so no more\n"
    )  # fmt: skip
    assert json.loads(device.saved.read_text()) == [THIRD_ID]
    done = device.ctl("restore", "--forget", "--json")
    assert done.json == [{"apps": [THIRD_ID], "lists": [], "refused": [], "problem": None}]
    assert device.saved.read_text() == "[]"
    assert device.ctl("list").stderr == "weftctl: no session is running\n"
    done = device.ctl("restore", "--forget")
    assert (done.status, done.stderr) == (0, "weftctl: nothing waits to be started again\n")


def test_a_list_that_was_refused(device: Device) -> None:
    install(device.store, guest(STAYS))
    device.saved.parent.mkdir()
    device.saved.write_text(f'["{APP_ID}",]')
    device.start()
    refused = device.saved.with_name("last-session.refused.json")
    told = f"weftctl: the apps in {refused} were not started again: it is not JSON"
    eventually(lambda: told in device.ctl("list").stderr.splitlines(), "the list was read")
    done = device.ctl("restore")
    assert done.status == 165
    assert f"weftctl: {refused} cannot be used: it is not JSON" in done.stderr
    # An operator corrects it.
    refused.write_text(f'["{APP_ID}"]')
    done = device.ctl("restore")
    assert (done.status, done.stdout) == (0, f"{APP_ID} is started again\n")
    assert not refused.exists()
    until_states(device, {APP_ID: "running"})
    refused.mkdir()
    (refused / "in").touch()
    done = device.ctl("restore", "--forget")
    assert done.status == 171
    assert f"cannot remove {refused}: " in done.stderr
    shutil.rmtree(refused)


def test_a_stop_that_is_not_saved_is_told(device: Device) -> None:
    install(device.store, guest(STAYS))
    device.start()
    number = device.launch()
    eventually(lambda: device.saved.exists(), "it is saved")
    device.saved.unlink()
    (device.saved / "in").mkdir(parents=True)
    done = device.ctl("stop", str(number))
    assert done.status == 0
    assert done.stderr == (
        f"weftctl: the list of the apps to start again is not saved: {os.strerror(21)}; until it is, the next"
        " start of weft-appd starts those of an older list\n"
    )
    shutil.rmtree(device.saved)


def test_numbers_go_on_after_a_restart(device: Device) -> None:
    install(device.store, guest(STAYS))
    device.start()
    assert device.launch() == 1
    device.stop()
    device.start()
    until_states(device, {APP_ID: "running"})
    assert [item["session_id"] for item in device.ctl("list", "--json").json] == [2]
    done = device.ctl("stop", "1")
    assert done.status == 166
    assert [item["session_id"] for item in device.ctl("list", "--json").json] == [2]
