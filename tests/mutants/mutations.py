"""Ways to break mailq that matter, each with the tests that must notice.

A test that never fails proves nothing. Each mutant is one small change of the
source that breaks one promise; ``breaking.py`` makes it in a copy, and runs its tests.
"""

from __future__ import annotations

import os
from typing import Final

from mutations_of_backlogs import BACKLOGS, LONG_LINES
from mutations_of_deliveries import AS_ROOT, DELIVERIES, FENCES
from mutations_of_durability import DURABILITY
from mutations_of_hearing import HEARING
from mutations_of_interrupts import INTERRUPTS
from mutations_of_journals import JOURNALS
from mutations_of_tools import ARCHIVES, COMMAND, DOCTOR
from mutations_of_workers import JOBS, PROCESSES

MUTANTS: Final = (
    *DURABILITY,
    *JOURNALS,
    *FENCES,
    *DELIVERIES,
    *(AS_ROOT if hasattr(os, "geteuid") and os.geteuid() == 0 else ()),
    *HEARING,
    *INTERRUPTS,
    *BACKLOGS,
    *LONG_LINES,
    *ARCHIVES,
    *DOCTOR,
    *COMMAND,
    *PROCESSES,
    *JOBS,
)
