"""The bench: that its arithmetic is right, and that it runs. How fast anything is, is not asked here."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from together import PATIENCE

from bench import charts, marks, places, ratios, report, syncs, together, workers
from bench.__main__ import main
from bench.floor import Floor
from bench.results import Plan, Result
from bench.sides import POWER_LOSS, PROCESS_CRASH, Budget, Mailq
from mailq.engines.maildir.doctor.machine import Machine
from mailq.engines.maildir.filesystems import Mount

ROOT = Path(__file__).parent.parent
WHERE: dict[str, Any] = {
    "date": "2026-11-21",
    "machine": {"system": "Linux", "cpu": "a <fast> one", "cores": 2, "python": "CPython 3", "mailq": "1"},
    "file_system": {"type": "ext4", "device": "/dev/x", "fdatasync_ms": 1.0, "warning": None},
    "rounds": 3,
    "quick": False,
    "sides": {"huey": {"version": "3", "acks": False, "note": ""}},
}


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=PATIENCE)


def result(side: str, *values: float, section: str = "push", case: str = "1 KiB", unit: str = "messages/s") -> Result:
    return Result(section, case, side, POWER_LOSS, unit, list(values))


# Its arithmetic


def test_a_ratio_is_the_middle_of_the_rounds_own_ratios() -> None:
    # A disk that becomes ten times slower half way: each round has met the same disk.
    mine, floor = result("mailq", 300, 30, 33), result("floor", 100, 10, 10)
    assert ratios.ratio(mine, floor) == 3.0
    assert ratios.median(mine) / ratios.median(floor) != 3.0


def test_the_best_stands_first_whatever_good_means() -> None:
    rates = [result("a", 1, 2, 3), result("b", 9, 9, 1)]
    times = [result("a", 1, 2, 3, unit="ms"), result("b", 9, 9, 1, unit="ms")]
    fast, soon = ratios.groups(rates + times)
    assert [one.side for one in fast.results] == ["b", "a"]
    assert [one.side for one in soon.results] == ["a", "b"]


def test_what_differs_in_anything_but_the_side_is_not_compared() -> None:
    other = result("floor", 5)._replace(durability=PROCESS_CRASH)
    (mine, _) = ratios.groups([result("mailq", 1), other])
    assert ratios.of_the_floor(mine, mine.results[0]) is None


def test_what_makes_no_difference_stands_beside_each_class() -> None:
    classes = [result("mailq", 3), result("mailq", 4)._replace(durability=PROCESS_CRASH)]
    plain, other = result("redis", 5)._replace(durability=""), result("redis", 6, case="alone")._replace(durability="")
    spread = ratios.in_classes([*classes, plain, other])
    assert [(one.side, one.durability) for one in spread[2:]] == [
        ("redis", POWER_LOSS),
        ("redis", PROCESS_CRASH),
        ("redis", ""),
    ]


def test_a_time_is_ahead_when_it_is_shorter() -> None:
    times = {"mailq": 0.5, "redis": 0.6, "beanstalkd": 1.0}
    measured = [result(side, ms, section="wake-up", case="p50 with 3 others", unit="ms") for side, ms in times.items()]
    found = [verdict for verdict in marks.verdicts(measured) if verdict.measured is not None]
    assert [(one.measured, one.met, one.nearest) for one in found] == [(0.5, True, ""), (1.2, True, "redis")]


@pytest.mark.parametrize(("rate", "ahead_of", "met"), [(300, 200, (True, True)), (290, 291, (False, False))])
def test_a_mark_is_met_or_not(rate: float, ahead_of: float, met: tuple[bool, bool]) -> None:
    found = marks.verdicts([result("floor", 100), result("mailq", rate), result("redis", ahead_of), result("dirq", 1)])
    measured = [verdict for verdict in found if verdict.measured is not None]
    assert [(verdict.durability, verdict.met) for verdict in measured] == [(POWER_LOSS, one) for one in met]
    assert measured[0].measured == rate / 100
    assert measured[1].nearest == "redis"
    assert measured[1].measured == rate / ahead_of


def test_a_mark_without_a_measurement_is_neither_met_nor_missed() -> None:
    assert {(verdict.measured, verdict.met) for verdict in marks.verdicts([])} == {(None, None)}
    alone = marks.verdicts([result("mailq", 5)])
    assert all(verdict.met is None for verdict in alone)


@pytest.mark.parametrize(("redis_ms", "met"), [(0.6, None), (0.4, False)])
def test_who_was_not_measured_was_not_overtaken(redis_ms: float, met: Any) -> None:
    times = {"mailq": 0.5, "redis": redis_ms}  # and not beanstalkd
    measured = [result(side, ms, section="wake-up", case="p50 with 3 others", unit="ms") for side, ms in times.items()]
    (ahead,) = [verdict for verdict in marks.verdicts(measured) if verdict.nearest]
    assert ahead.met is met
    assert ("not all measured" in report.markdown(WHERE, measured)) is (met is None)


def test_every_mark_has_a_number_when_its_results_are_there() -> None:
    rules = [(mark.durability, mark.rule) for mark in marks.MARKS]
    keys = [(durability, rule.key) for durability, rule in rules]
    keys += [(durability, rule.base) for durability, rule in rules if isinstance(rule, marks.Limit) and rule.base]
    keys += [
        (durability, rule.key._replace(side="redis")) for durability, rule in rules if isinstance(rule, marks.Ahead)
    ]
    measured = [Result(*key, durability, "messages/s", [1.0]) for durability, key in dict.fromkeys(keys)]
    assert [verdict.what for verdict in marks.verdicts(measured) if verdict.measured is None] == []


def test_one_batch_is_held_against_one_message_at_a_time() -> None:
    batch = result("mailq", 80, section="batch", case="64 at a time")
    single = result("floor", 10, section="batch", case="one at a time")
    (met,) = [verdict for verdict in marks.verdicts([batch, single]) if verdict.measured is not None]
    assert (met.measured, met.met, met.required) == (8.0, True, "at least 8 times the floor, one at a time")


# What it shows


def test_a_chart_has_a_bar_for_each_side_as_long_as_it_is_fast() -> None:
    results = [result("mailq", 50), result("floor", 100), result("huey", 25), result("lmdb", 10_000)]
    ((name, svg),) = charts.charts(WHERE, results)
    assert name == "push-power-loss"
    tree = ET.fromstring(svg)
    texts = [text.text for text in tree.iter("{http://www.w3.org/2000/svg}text")]
    assert texts[texts.index("lmdb") :][:3] == ["lmdb", "10,000", "100.00"]
    assert [text for text in texts if text in {"lmdb", "floor", "mailq", "huey (no ack)"}] == [
        "lmdb",
        "floor",
        "mailq",
        "huey (no ack)",
    ]
    _, *bars = tree.iter("{http://www.w3.org/2000/svg}rect")  # the first is the paper
    longest, *others = [float(bar.attrib["width"]) for bar in bars]
    assert longest == charts.BARS
    assert others == [longest / 2.5, longest / 5, longest / 10]
    assert len(list(tree.iter("{http://www.w3.org/2000/svg}polygon"))) == 2  # it is cut, and looks it


def test_the_depths_of_a_backlog_stand_in_one_panel_in_their_order() -> None:
    found = [
        result("mailq", ms, section="backlog", case=f"{depth} push", unit="ms") for depth, ms in (("1k", 9), ("1M", 8))
    ]
    (panel,) = charts.panels(list(ratios.groups(found)), {})
    assert (panel.heading, [bar.name for bar in panel.bars]) == ("push", ["1k, mailq", "1M, mailq"])


def test_the_tables_say_what_was_measured_and_what_was_not_checked() -> None:
    text = report.markdown(WHERE, [result("mailq", 1000, 2000, 4000), result("floor", 1000, 1000, 1000)])
    assert "| mailq |      2,000 |         2.00 | 1,000 - 4,000 |" in text
    assert "**Not checked:**" in text
    told = json.loads(json.dumps(report.document(WHERE, [result("mailq", 3)])))
    assert told["results"][0]["values"] == [3]
    assert {mark["met"] for mark in told["marks"]} == {None}


@pytest.mark.parametrize(
    ("kind", "journal", "warning"),
    [
        ("xfs", None, None),
        ("ext4", True, None),
        ("ext4", False, "no journal"),
        ("ext4", None, "not known"),
        ("ext2", None, "no journal"),
        ("tmpfs", None, "memory"),
        ("something", None, "not known"),
        (None, None, "not known"),
    ],
)
def test_it_warns_of_what_is_no_ordinary_disk(
    tmp_path: Path, kind: str | None, journal: Any, warning: str | None
) -> None:
    class Told(Machine):
        def mount_of(self, path: str) -> Mount | None:
            return None if kind is None else Mount("/", kind, "/dev/none", "0:0", frozenset())

        def has_journal(self, mount: Mount) -> Any:
            return journal

    told = places.file_system(str(tmp_path), Told())["warning"]
    assert told is None if warning is None else warning in told


# What it counts

TRACE = r"""
10 openat(AT_FDCWD</d>, "/d/early", O_WRONLY|O_DSYNC) = 3</d/early>
10 fsync(4</d/before>) = 0
10 openat(AT_FDCWD</d>, "/mark-of-the-bench/x/power-loss/push", O_RDONLY) = -1 ENOENT (No such file or directory)
10 write(4</d/plain>, "O_DSYNC MS_SYNC fsync(", 22) = 22
10 fsync(4</d/plain> <unfinished ...>
11 fdatasync(5</d/other>) = 0
10 <... fsync resumed>) = 0
10 msync(0x7f, 4096, MS_ASYNC) = 0
10 msync(0x7f, 4096, MS_SYNC) = 0
10 pwrite64(3</d/early>, "abc", 3, 0) = 3
11 openat(AT_FDCWD</d>, "/d/late", O_RDWR|O_SYNC <unfinished ...>
10 sync_file_range(4</d/plain>, 0, 0, SYNC_FILE_RANGE_WRITE) = 0
11 <... openat resumed>) = 6</d/late>
11 write(6</d/late>, "abc", 3) = 3
11 --- SIGCHLD {si_signo=SIGCHLD} ---
10 openat(AT_FDCWD</d>, "/mark-of-the-bench/x/power-loss/pop+ack", O_RDONLY) = -1 ENOENT (No such file or directory)
10 unlink("/d/plain") = 0
10 openat(AT_FDCWD</d>, "/mark-of-the-bench", O_RDONLY) = -1 ENOENT (No such file or directory)
10 fsync(4</d/after>) = 0
"""


def test_what_waits_for_the_disk_is_told_from_what_does_not() -> None:
    assert syncs.counts(TRACE.strip().splitlines()) == {
        ("x", "power-loss", "push"): syncs.Counts(calls=9, syncs=5),
        ("x", "power-loss", "pop+ack"): syncs.Counts(calls=1, syncs=0),
    }


def test_who_claims_to_be_safe_and_does_not_sync_is_not_in_that_class() -> None:
    counted = [result("mailq", 0.5, section="syncs", case="push", unit=syncs.SYNCS)]
    assert syncs.proved([Mailq, Floor], counted, POWER_LOSS) == [Floor]
    assert syncs.proved([Mailq, Floor], counted, PROCESS_CRASH) == [Mailq, Floor]


@pytest.mark.skipif(shutil.which("strace") is None, reason="there is no strace here")
def test_the_syncs_of_a_program_are_counted(tmp_path: Path) -> None:
    try:
        found = syncs.count(str(tmp_path), [Floor])
    except OSError as error:  # some containers forbid it
        pytest.skip(f"strace may not trace here: {error}")
    counted = {(one.durability, one.case): one.values for one in found if one.unit == syncs.SYNCS}
    assert counted == {
        (POWER_LOSS, "push"): [2.0],
        (POWER_LOSS, "pop+ack"): [0.0],
        (PROCESS_CRASH, "push"): [0.0],
        (PROCESS_CRASH, "pop+ack"): [0.0],
    }


# That it runs


def test_jobs_are_counted_from_the_first_that_is_done_to_the_last(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    for body in (workers.noting(notes), workers.BODY, workers.noting(notes)):
        workers.nothing(body)
    assert len(notes.read_text().splitlines()) == 2
    notes.write_text("100.0\n102.0\n")
    assert workers.rate(notes, 11) == 5


def test_four_producers_and_consumers_are_measured(tmp_path: Path) -> None:
    together.prepare([Mailq])
    assert together.rate(Mailq, str(tmp_path), PROCESS_CRASH, Budget(10, 16)) > 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("popped", "word"),
    [([[1, 2], [3]], "1 did not come, 0 came twice"), ([[1, 2], [2, 3, 4]], "0 did not come, 1 came twice")],
)
def test_a_queue_that_loses_or_repeats_a_message_is_found_out(popped: list[list[int]], word: str) -> None:
    produced = [together.Report(0, 1, [1, 3]), together.Report(0, 1, [2, 4])]
    together.compare(Mailq, produced, [together.Report(0, 1, ids) for ids in ([4], [3, 2], [1])])
    with pytest.raises(RuntimeError, match=word):
        together.compare(Mailq, produced, [together.Report(0, 1, ids) for ids in popped])


def test_a_quick_bench_says_everything_and_leaves_what_was_asked_for(tmp_path: Path) -> None:
    disk, out = tmp_path / "disk", tmp_path / "out"
    disk.mkdir()
    done = run("--quick", "--only", "push", "--sides", "mailq,floor", "--json", "--dir", disk, "--out", out)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["file_system"]["directory"] == str(disk)
    assert {one["section"] for one in told["results"]} <= {"push", "syncs"}
    pushed = [one for one in told["results"] if one["section"] == "push"]
    assert {(one["side"], one["durability"]) for one in pushed} == {
        (side, durability) for side in ("mailq", "floor") for durability in (POWER_LOSS, PROCESS_CRASH)
    }
    assert all(len(one["values"]) == 1 and one["of_floor"] > 0 for one in pushed)
    assert list(disk.iterdir()) == []
    kind = told["file_system"]["type"]
    assert json.loads((out / f"{kind}.json").read_text()) == told
    names = {f"{kind}{end}" for end in (".json", ".md", "-push-power-loss.svg", "-push-process-crash.svg")}
    assert {path.name for path in out.iterdir()} == names


def test_what_was_measured_can_be_shown_again_and_put_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = [result("mailq", 1, 2), result("mailq", 7, 8, section="4+4")]
    later = [result("mailq", 3, 4), result("rq", 5, section="worker")]
    for name, results in (("first", first), ("later", later)):
        (tmp_path / name).write_text(json.dumps(report.document(WHERE, results)))
    assert main(["--json", "--show", str(tmp_path / "first"), str(tmp_path / "later")]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [one["values"] for one in told["results"]] == [[3, 4], [7, 8], [5]]
    assert main(["--show", str(tmp_path / "first")]) == 0
    assert capsys.readouterr().out == report.markdown(WHERE, first) + "\n"


def test_runs_of_different_places_are_not_put_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    there = {**WHERE, "file_system": {**WHERE["file_system"], "type": "xfs"}}
    for name, where in (("here", WHERE), ("there", there)):
        (tmp_path / name).write_text(json.dumps(report.document(where, [result("mailq", 1)])))
    assert main(["--show", str(tmp_path / "here"), str(tmp_path / "there")]) == 2
    assert "not made in one place" in capsys.readouterr().err


def test_who_is_left_out_is_named_in_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = Plan(str(tmp_path), 1, quick=False, left_out=[])
    for _ in range(2):
        plan.leave_out("redis is left out:\nit lost a message")
    assert "it lost a message" in capsys.readouterr().err
    text = report.markdown({**WHERE, "left_out": plan.left_out}, [result("mailq", 1)])
    assert text.endswith("\n## Not measured\n\n- redis is left out: it lost a message\n")


def test_each_table_says_how_many_rounds_it_is_made_of() -> None:
    text = report.markdown(WHERE, [result("mailq", 1, 2, 3, 4), result("mailq", 1, section="backlog", unit="ms")])
    assert "## push, one process, power-loss, 1 KiB, 4 rounds\n" in text
    assert "## backlog, power-loss, 1 KiB, once\n" in text


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--show", "a-file"], "a-file has no results of the bench"),
        (["--show", "no-results"], "no-results has no results of the bench"),
        (["--only", "push,shove"], "there is no shove; there are syncs, calls, push"),
        (["--rounds", "0"], "--rounds must be at least 1"),
        (["--rounds", "many"], "invalid int value: 'many'"),
        (["--fast"], "unrecognized arguments: --fast"),
        (["--dir", "missing"], "'missing'"),
        (["--out", "a-file"], "a-file"),
    ],
)
def test_what_cannot_begin_is_refused_with_the_reason(
    arguments: list[str], word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a-file").touch()
    Path("no-results").write_text("[]")
    try:
        code: Any = main(["--quick", *arguments])
    except SystemExit as stopped:  # how argparse ends
        code = stopped.code
    printed, complaints = capsys.readouterr()
    assert (code, printed) == (2, "")
    assert word in complaints


def test_a_disk_without_room_is_refused_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1 << 40, 1 << 40, 5 << 20))
    assert main(["--quick", "--only", "push", "--dir", str(tmp_path)]) == 2
    assert f"{tmp_path} has 5 MiB free, 256 are needed; choose another disk with --dir" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_side_that_is_not_there_is_no_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--quick", "--only", "push", "--sides", "missing", "--dir", str(tmp_path)]) == 1
    assert "nothing was measured" in capsys.readouterr().err
