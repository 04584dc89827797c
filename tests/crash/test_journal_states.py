"""What a power cut may leave of pushes that went through a journal, on a file system that keeps names in order."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pytest
import scenarios as runs
import scenarios_of_directories as directories
import scenarios_of_journals as journals
from explorer import Findings, explore
from recorder import OrderedDisk, WithoutDataSync
from scenarios import Scenario
from together import fast_directory

from mailq.engines.maildir import journal

# As in test_crash_states.py: how many states of a moment, how many different ones at least.
TRIED: Final[dict[Scenario, tuple[int, int]]] = {
    runs.push: (40, 600),
    runs.push_with_headers: (15, 500),
    runs.push_some: (10, 700),
    runs.push_many: (1, 400),
    runs.ack: (60, 280),
    runs.nack: (8, 500),
    runs.nack_to_dead: (20, 450),
    runs.reject: (20, 450),
    runs.release: (60, 80),
    runs.extend: (60, 80),
    runs.edit: (60, 200),
    runs.come_due: (60, 120),
    runs.dead_letters: (12, 500),
    runs.import_: (15, 500),
    directories.remade_meanwhile: (4, 500),
    directories.remake: (10, 600),
    journals.fill: (2, 800),
    journals.alternate: (12, 200),
    journals.inherit: (60, 400),
    journals.restore: (100, 40),
}
CONTROLS: Final = [runs.push, runs.push_some, runs.ack, runs.nack]


@pytest.fixture(autouse=True)
def _small_journals_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "PUSHES_BEFORE_JOURNAL", 0)
    monkeypatch.setattr(journal, "SIZE", 1 << 15)


def _explored(
    tmp_path: Path,
    scenario: Scenario,
    limit: int,
    *,
    kind: type[OrderedDisk] = OrderedDisk,
    ordered: bool = True,
    **options: Any,
) -> Findings:
    with fast_directory(tmp_path) as place:
        findings = explore(scenario, place, limit=limit, kind=kind, ordered=ordered, **options)
    print(f"{scenario.__name__}: {findings.states} different states, {dict(findings.kinds)}")  # noqa: T201 - how many is half of the result
    return findings


@pytest.mark.parametrize("scenario", TRIED, ids=lambda scenario: scenario.__name__)
def test_no_power_cut_breaks_a_promise(tmp_path: Path, scenario: Scenario) -> None:
    limit, least = TRIED[scenario]
    findings = _explored(tmp_path, scenario, limit, enough=3)
    assert not findings.kinds, "\n\n".join([str(dict(findings.kinds)), *findings.examples])
    assert findings.states >= least


@pytest.mark.parametrize("scenario", CONTROLS, ids=lambda scenario: scenario.__name__)
def test_without_the_sync_of_the_journal_messages_are_lost_and_torn(tmp_path: Path, scenario: Scenario) -> None:
    findings = _explored(tmp_path, scenario, 5, kind=WithoutDataSync)
    assert findings.kinds["lost"] > 0
    assert findings.kinds["torn"] > 0
    assert findings.kinds["changed"] == 0


@pytest.mark.parametrize("scenario", CONTROLS, ids=lambda scenario: scenario.__name__)
def test_where_names_come_to_disk_in_any_order_a_journal_is_not_enough(tmp_path: Path, scenario: Scenario) -> None:
    """Why there is none on such a file system: its mark may be there before the names that it vouches for."""
    assert _explored(tmp_path, scenario, 20, ordered=False, enough=3).kinds["lost"] > 0
