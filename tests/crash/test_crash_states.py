"""What a power cut may leave, as far as it can be counted: every promise holds in every state.

crash_states.py says what is imagined. A recovery takes about a millisecond, so it is tens of
thousands of states; and controls that leave out a sync show that the harness would have seen it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pytest
import scenarios as runs
import scenarios_of_directories as directories
from explorer import Findings, explore
from recorder import RecordingDisk, WithoutDirectorySync, WithoutFileSync
from scenarios import Scenario
from together import fast_directory

# How many states are looked at for one moment and one way of ordering; how many different ones there are then at least.
TRIED: Final[dict[Scenario, tuple[int, int]]] = {
    runs.push: (1000, 20),
    runs.push_with_headers: (1000, 20),
    runs.push_some: (1000, 150),
    runs.push_many: (45, 8000),
    runs.pop: (1000, 200),
    runs.ack: (1000, 500),
    runs.nack: (120, 3500),
    runs.nack_to_dead: (150, 2500),
    runs.release: (1000, 150),
    runs.reject: (150, 2500),
    runs.extend: (150, 1000),
    runs.extend_of_another: (300, 800),
    runs.share: (100, 800),
    runs.reap: (300, 500),
    runs.expire_many: (15, 300),
    runs.redrive: (300, 100),
    runs.purge: (300, 150),
    runs.edit: (300, 300),
    runs.dead_letters: (90, 2000),
    runs.configure: (300, 15),
    runs.configure_dead_letters: (100, 1000),
    runs.pause: (300, 10),
    runs.reply: (300, 500),
    runs.come_due: (300, 250),
    directories.mend: (300, 400),
    directories.remake: (60, 1200),
    directories.remade_meanwhile: (80, 1200),
    directories.remade_by_halves: (40, 2500),
    runs.tell: (300, 100),
    runs.import_: (150, 400),
}
BARE: Final[dict[Scenario, tuple[int, int]]] = {
    directories.init: (150, 200),
    directories.init_in_directories_to_be_made: (400, 200),
    directories.init_with_dead_letters: (150, 500),
}

# What pushes in the run, so that leaving out a sync must show; a few states of each moment are enough.
CONTROLS: Final = [
    runs.push,
    runs.push_with_headers,
    runs.push_some,
    runs.push_many,
    runs.ack,
    runs.nack,
    runs.reject,
    runs.import_,
]
EDITS: Final = [runs.edit, runs.configure, runs.reply, runs.dead_letters]


def _explored(tmp_path: Path, scenario: Scenario, limit: int, **options: Any) -> Findings:
    with fast_directory(tmp_path) as place:
        findings = explore(scenario, place, limit=limit, **options)
    print(f"{scenario.__name__}: {findings.states} different states, {dict(findings.kinds)}")  # noqa: T201 - how many is half of the result
    return findings


def _told(findings: Findings) -> str:
    return "\n\n".join([str(dict(findings.kinds)), *findings.examples])


@pytest.mark.parametrize("scenario", [*TRIED, *BARE], ids=lambda scenario: scenario.__name__)
def test_no_power_cut_breaks_a_promise(tmp_path: Path, scenario: Scenario) -> None:
    limit, least = (TRIED | BARE)[scenario]
    findings = _explored(tmp_path, scenario, limit, bare=scenario in BARE, enough=3)
    assert not findings.kinds, _told(findings)
    assert findings.states >= least


def test_more_than_twenty_thousand_states_are_tried() -> None:
    assert sum(least for _, least in (TRIED | BARE).values()) > 20_000


@pytest.mark.parametrize("scenario", CONTROLS, ids=lambda scenario: scenario.__name__)
def test_without_the_promise_of_the_settings_messages_are_lost_and_torn(tmp_path: Path, scenario: Scenario) -> None:
    findings = _explored(tmp_path, scenario, 3, durability="process-crash")
    assert findings.kinds["lost"] > 0
    assert findings.kinds["torn"] > 0
    assert findings.kinds["changed"] == 0  # torn is found out, and not delivered


@pytest.mark.parametrize("scenario", CONTROLS, ids=lambda scenario: scenario.__name__)
def test_without_the_sync_of_directories_messages_are_lost(tmp_path: Path, scenario: Scenario) -> None:
    findings = _explored(tmp_path, scenario, 3, kind=WithoutDirectorySync)
    assert findings.kinds["lost"] > 0
    assert findings.kinds["torn"] == 0


@pytest.mark.parametrize("scenario", CONTROLS, ids=lambda scenario: scenario.__name__)
def test_without_the_sync_of_files_messages_are_torn(tmp_path: Path, scenario: Scenario) -> None:
    findings = _explored(tmp_path, scenario, 3, kind=WithoutFileSync)
    assert findings.kinds["torn"] > 0
    assert findings.kinds["lost"] == findings.kinds["changed"] == 0


@pytest.mark.parametrize("kind", [WithoutDirectorySync, WithoutFileSync])
@pytest.mark.parametrize("scenario", EDITS, ids=lambda scenario: scenario.__name__)
def test_without_a_sync_edits_settings_and_replies_are_lost(
    tmp_path: Path, scenario: Scenario, kind: type[RecordingDisk]
) -> None:
    assert _explored(tmp_path, scenario, 3, kind=kind).kinds.total() > 0


@pytest.mark.parametrize("kind", [WithoutDirectorySync, WithoutFileSync])
@pytest.mark.parametrize("scenario", BARE, ids=lambda scenario: scenario.__name__)
def test_without_a_sync_new_queues_are_lost(tmp_path: Path, scenario: Scenario, kind: type[RecordingDisk]) -> None:
    assert _explored(tmp_path, scenario, 10, kind=kind, bare=True).kinds.total() > 0


@pytest.mark.parametrize("root", ["jobs", "srv/queues/jobs"])
def test_a_queue_whose_first_creator_was_killed_is_as_durable_as_any(tmp_path: Path, root: str) -> None:
    for calls in range(1, 24):
        (tmp_path / str(calls)).mkdir()
        findings = _explored(tmp_path / str(calls), directories.killed_init(calls, root), 40, bare=True)
        assert not findings.kinds, _told(findings)


@pytest.mark.parametrize("calls", range(1, 4))
def test_directories_whose_mender_was_killed_are_as_durable_as_any(tmp_path: Path, calls: int) -> None:
    findings = _explored(tmp_path, directories.killed_mend(calls), 40)
    assert not findings.kinds, _told(findings)


def test_a_pause_after_one_that_was_killed_is_durable(tmp_path: Path) -> None:
    findings = _explored(tmp_path, directories.killed_pause, 40)
    assert not findings.kinds, _told(findings)
