# SPDX-License-Identifier: Apache-2.0
"""The benchmark works: how it measures, and that all of it runs. No test asserts a figure."""

import json
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wasmtime

from bench import app, modules, page
from bench.__main__ import PARTS
from bench.appd import Appd, Launched
from bench.measure import BenchError, Case, Launcher, Spread, open_launcher, percentile, ratio
from bench.openloop import Burst, Spawned, burst
from bench.report import plain, table
from bench.targets import Row
from tests.figures import check_shown, check_table
from tests.unit.needs import ROOT, tool

SPREAD = {"median", "minimum", "maximum"}


@pytest.fixture
def launcher() -> Iterator[Launcher]:
    opened, _ = open_launcher()
    with opened:
        yield opened


def shell(name: str, script: str) -> Case:
    return Case(name, "", ("/bin/sh", "-c", script), {"PATH": "/usr/bin:/bin"})


def python(code: str) -> Case:
    return Case("python", "", (sys.executable, "-I", "-S", "-c", code), {})


def test_quick_run_prints_every_part_and_writes_them_as_json(tmp_path: Path) -> None:
    tool("weft-runtime-wasmtime", "weft-runtime[wasmtime-runtime]")
    parts = [part for part in PARTS if part != "packaged"]  # that one is in tests/system
    command = [sys.executable, "-m", "bench", "--quick", "--results", str(tmp_path), *parts]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    figures = {file.stem: json.loads(file.read_text()) for file in tmp_path.glob("*.json")}
    notes = " ".join(figures["bare"]["notes"])
    has_journal = "for the daemon" not in notes
    if not has_journal:
        parts.remove("log")
    assert set(figures) == set(parts)
    for part, values in figures.items():
        assert set(values) == {"machine", "notes", "quick", "load", part}
        assert all(isinstance(value, str) and value for value in values["machine"].values())
    check_table(figures["bare"]["bare"], without=() if has_journal else ("cpu-journal",))
    check_shown(tmp_path, "bare")
    check_timeline(figures["timeline"]["timeline"])
    check_launch(figures["launch"]["launch"], journal="no journal here" not in notes)
    check_rates(figures["rates"]["rates"])
    if "log" in parts:
        check_log(figures["log"]["log"])
    headings = (
        "Machine", "Targets, bare:", "A launch of hello,", "What a launch is made of,", "Launch to READY,", "Launch:",
    )  # fmt: skip
    for heading in headings:
        assert heading in done.stdout


def check_timeline(timeline: dict[str, Any]) -> None:
    """Every mark is where the program still has its function: one that is gone fails to be wrapped."""
    found = [(step["who"], step["what"]) for step in timeline["steps"]]
    order = [
        ("weft-appd", "read the request and do all of it"),
        ("weft-appd", "ask whether the plan still holds"),
        ("weft-appd", "hand the plan over"),
        ("session", "all before the first instruction"),
        ("session", "map the compiled code"),
        ("session", "link"),
        ("session", "instantiate and run"),
        ("session", "instantiate"),
        ("session", "write READY"),
        ("weft-appd", "send AppReady"),
        ("client", "read APP_READY"),
        ("weft-appd", "collect the session and tell of its end"),
    ]
    assert [step for step in found if step in order] == order
    assert {("weft-appd", "send LaunchAck"), ("fork server", "make a process that waits")} <= set(found)
    assert 0 < timeline["steps"][0]["at_us"] < timeline["marked_us"]
    assert timeline["unmarked_us"] > 0


def check_launch(launch: dict[str, Any], *, journal: bool) -> None:
    names = {case["name"] for case in launch["cases"]}
    assert {"weft-stderr", "baseline", "python-import", "python-engine", "python"} <= names
    assert ("weft-journal" in names) == journal
    for case in launch["cases"]:
        assert set(case["wall_s"]) == set(case["cpu_s"]) == set(case["peak_kib"]) == SPREAD
        assert len(case["wall_samples_s"]) == launch["rounds"]
    for proportion in launch["proportions"]:
        assert {proportion["of"], proportion["to"]} <= names
        assert set(proportion["wall"]) == set(proportion["cpu"]) == SPREAD


def check_rates(rates: dict[str, Any]) -> None:
    daemons = {"appd", "appd-sh"}
    assert daemons | {"sh"} <= set(rates["targets"])
    found = {(cost["per_second"], cost["name"]) for cost in rates["costs"]}
    assert found == {(rate, name) for rate in (1, 10, 100) for name in rates["targets"]}
    for cost in rates["costs"]:
        assert 0 < cost["p50_s"] <= cost["p99_s"]
        assert [len(samples) for samples in cost["samples_s"]] == [cost["launches"]]
        assert (cost["daemon_cpu_s"] is not None) == (cost["name"] in daemons)
    assert {(ratio["of"], ratio["to"]) for ratio in rates["ratios"]} >= {("appd-sh", "sh")}


def check_log(log: dict[str, Any]) -> None:
    assert [cost["name"] for cost in log["costs"]] == ["appd", "appd-limit", "systemd-cat"]
    for cost in log["costs"]:
        assert cost["lines_per_s"]["minimum"] > 0
        assert cost["cpu_us"]["median"] > 0
    assert {ratio["to"] for ratio in log["ratios"]} == {"systemd-cat"}


def test_pages_have_the_figures_of_the_results() -> None:
    for document in page.PAGES:
        text = document.read_text()
        assert page.PLACE.search(text), document
        assert page.filled(text, page.RESULTS) == text, f"{document}: run 'python -m bench.page'"


def test_figures_go_where_their_place_is(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("1\n2\n")
    (tmp_path / "b.md").write_text("| 3 |\n")
    text = "before\n<!-- figures: {} -->\n{}<!-- end of figures -->\nafter"
    old = text.format("a.txt", "") + text.format("b.md", "old\n")
    new = text.format("a.txt", "```\n1\n2\n```\n") + text.format("b.md", "| 3 |\n")
    assert page.filled(old, tmp_path) == new
    assert page.filled(new, tmp_path) == new


@pytest.mark.parametrize(
    ("key", "ratio", "is_met"),
    [("large-p50", 0.4, True), ("large-p50", 0.41, False), ("cpu", 0.98, True), ("cpu", 0.97, False), ("exec", 9, None)],
)  # fmt: skip
def test_target_is_met_or_missed(key: str, ratio: float, is_met: bool | None) -> None:
    assert Row.of("bare", key, "", ratio, 1).is_met is is_met


def test_target_may_be_of_our_figure_alone_or_depend_on_the_place() -> None:
    assert Row.of("bare", "rest", "MiB", 31, None).is_met is False
    assert Row.of("packaged", "sustained-4", "", 1, 1).is_met is True
    assert Row.of("packaged-trixie", "sustained-4", "", 1, 1).is_met is True
    assert Row.of("bare", "sustained-4", "", 1, 1).is_met is False


def test_module_that_is_marked_is_another_one_that_does_the_same() -> None:
    module = modules.sleeping()
    marked = {modules.marked(module, number) for number in (1, 2)}
    assert len(marked | {module}) == 3
    for it in marked:
        assert len(wasmtime.Module(wasmtime.Engine(), it).exports) == 2


def test_unknown_part_is_a_usage_error() -> None:
    command = [sys.executable, "-m", "bench", "lunch"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2
    assert "no such part: lunch" in done.stderr


def test_cases_take_turns_and_the_first_one_changes(launcher: Launcher, tmp_path: Path) -> None:
    order = tmp_path / "order"
    cases = [shell(name, f"printf {name} >>{order}") for name in "abc"]
    samples = launcher.repeat_in_turns(cases, rounds=3, warm_ups=1)
    assert order.read_text() == "cab" + "abc" + "bca" + "cab"
    assert {name: len(runs) for name, runs in samples.items()} == {"a": 3, "b": 3, "c": 3}


def test_peak_memory_is_the_programs_own(launcher: Launcher) -> None:
    ballast = bytes(100 * 1024 * 1024)  # in this process, which is not the one that starts programs
    small = launcher.run(python("pass")).peak_kib
    large = launcher.run(python(f"x = b'x' * {len(ballast) // 2}")).peak_kib
    assert launcher.least_peak_kib <= small < large < len(ballast) // 1024
    assert large - small > len(ballast) // 2 // 1024 * 0.9


def test_cpu_time_covers_the_children(launcher: Launcher) -> None:
    burn = f"exec {sys.executable} -I -S -c 'while __import__(\"time\").process_time() < 0.1: pass'"
    assert launcher.run(shell("burn", f"({burn}); :")).cpu >= 0.1


def test_programs_run_together_each_have_their_own_figures(launcher: Launcher) -> None:
    burn = 'while __import__("time").process_time() < 0.1: pass'
    idle, busy = launcher.run_together([python("pass"), python(burn)])
    assert idle.cpu < 0.1 <= busy.cpu
    assert busy.begun < idle.ended < busy.ended


def test_failure_of_a_program_is_an_error_that_names_it(launcher: Launcher) -> None:
    with pytest.raises(BenchError) as error:
        launcher.run(shell("bad", "exit 3"))
    assert str(error.value) == "'bad' ended with status 3: /bin/sh -c exit 3"


def test_environment_is_the_given_one(launcher: Launcher, tmp_path: Path) -> None:
    output = tmp_path / "output"
    launcher.run(Case("env", "", ("/usr/bin/env",), {"ONLY": "this"}), output)
    assert output.read_text() == "ONLY=this\n"


def test_ratio_is_taken_round_by_round() -> None:
    # The second round saw a machine ten times slower. The ratio of the medians would be 4.
    assert ratio([2.0, 30.0, 4.0], [1.0, 10.0, 1.0]) == Spread(3.0, 2.0, 4.0)


def test_table_aligns_its_columns() -> None:
    assert (
        table(("", "ms"), [("one", "1.0"), ("eleven", "11.0")]) == "          ms\none      1.0\neleven  11.0"
    )


def test_plain_turns_named_tuples_into_objects() -> None:
    assert plain({"a": [Spread(1, 1, 2.00000049)]}) == {"a": [{"median": 1, "minimum": 1, "maximum": 2.0}]}


def test_percentile_is_one_of_the_values() -> None:
    hundred = [float(number) for number in range(100, 0, -1)]
    assert [percentile(hundred, percent) for percent in (0, 1, 50, 99, 99.5, 100)] == [
        1,
        1,
        50,
        99,
        100,
        100,
    ]
    assert [percentile([7.0, 8.0], percent) for percent in (50, 51, 99)] == [7, 8, 8]


def test_burst_ends_when_all_have_spoken_and_ended(tmp_path: Path) -> None:
    target = Spawned(shell("speaks", f"echo READY; echo and more; sleep 0.1; echo >>{tmp_path}/ended"))
    done = burst(target, rate=1000, count=5)
    assert len(done.latencies_s) == len(done.signs) == 5
    assert min(done.latencies_s) > 0
    assert (tmp_path / "ended").read_text() == "\n" * 5


def test_launch_that_comes_late_is_a_slow_one() -> None:
    class Late(Spawned):
        """It holds the first launch back until the others are due."""

        def begin(self) -> int:
            if time.monotonic() < all_due:
                select.select([], [], [], all_due - time.monotonic())
            return super().begin()

    all_due = time.monotonic() + 1
    done = burst(Late(shell("speaks", "echo READY")), rate=2, count=3)
    assert done.latencies_s[0] > done.latencies_s[2]


def test_rate_that_was_held_is_that_of_the_signs() -> None:
    assert Burst([1.0, 1.0, 1.0], [10.0, 10.5, 11.0]).held == 2
    assert Burst([1.0], [10.0]).held is None


def test_launch_without_a_sign_is_an_error() -> None:
    with pytest.raises(BenchError) as error:
        burst(Spawned(shell("silent", "exit 0")), rate=1, count=1)
    assert str(error.value) == "'silent' ended with status 0: /bin/sh -c exit 0"


def test_launch_by_the_daemon_that_fails_is_an_error_with_its_reason(tmp_path: Path) -> None:
    tool("weft-appd", "weft-runtime[appd]")
    failing = app.install_module(tmp_path, "bench.false.app", b"\0asm\1\0\0\0")
    store = failing.module.parents[1]
    with (
        Appd(tmp_path / "appd", store, Path("/bin/false"), None) as appd,
        pytest.raises(BenchError) as error,
    ):
        burst(Launched("false", "", appd, failing.id), rate=1, count=1)
    assert str(error.value).startswith("bench.false.app ended before it was ready: ")


def test_daemon_that_does_not_start_is_an_error_with_its_reason(tmp_path: Path) -> None:
    tool("weft-appd", "weft-runtime[appd]")
    with pytest.raises(BenchError) as error:
        Appd(tmp_path / "appd", tmp_path, Path("/bin/false"), None, {"WEFT_MAX_SESSIONS": "many"})
    assert "weft-appd does not start: " in str(error.value)
    assert "WEFT_MAX_SESSIONS" in str(error.value)
