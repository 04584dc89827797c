"""The command as a whole process, from its start to its end, beside Python itself and beside loading click."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from typing import TYPE_CHECKING, Final

import mailq
from bench.results import Plan, Result

if TYPE_CHECKING:
    from collections.abc import Iterator

BODY: Final = '{"resize": "cat.jpg"}'
TIMES: Final = 10
"""So often each command is run in a round; the fastest counts: what is slower was disturbed."""

PYTHON: Final = {"python": "pass", "import click": "import click"}


def measure(plan: Plan) -> Iterator[Result]:
    """Milliseconds of push, pop and ack, as the installed script and as ``python -m mailq``."""
    ways = {"python -m mailq": [sys.executable, "-m", "mailq"]}
    if (script := _script(plan)) is not None:
        ways = {"mailq": [script], **ways}
    seen: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory(dir=plan.directory) as directory:
        mailq.open(f"{directory}/jobs").close()
        _once(ways, f"{directory}/jobs")  # the first time Python writes down what it has compiled
        for _ in range(plan.rounds):
            runs = [_once(ways, f"{directory}/jobs") for _ in range(2 if plan.quick else TIMES)]
            for key in runs[0]:
                seen.setdefault(key, []).append(min(run[key] for run in runs))
    for (case, side), times in seen.items():
        yield Result("command", case, side, "", "ms", times)


def _once(ways: dict[str, list[str]], queue: str) -> dict[tuple[str, str], float]:
    """Each command once, one after the other: what disturbs one of them disturbs its neighbours."""
    found: dict[tuple[str, str], float] = {}
    for side, code in PYTHON.items():
        took, _ = _run([sys.executable, "-c", code])
        found |= {(case, side): took for case in ("push", "pop", "ack")}
    for side, command in ways.items():
        found["push", side], _ = _run([*command, "push", queue, BODY])
        found["pop", side], leased = _run([*command, "pop", queue])
        found["ack", side], _ = _run([*command, "ack", queue, json.loads(leased)["receipt"]])
    return found


def _run(command: list[str]) -> tuple[float, bytes]:
    """Milliseconds, and what it printed. Python may keep what it compiles, as a user's does."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    begun = time.perf_counter()
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment)
    return 1000 * (time.perf_counter() - begun), done.stdout


def _script(plan: Plan) -> str | None:
    """The command as it was installed beside this interpreter."""
    script = shutil.which("mailq", path=sysconfig.get_path("scripts"))
    if script is None:
        plan.leave_out("mailq as a script is left out: it is not installed beside this Python")
    return script
