"""There is a quick subset of the tests, which loads no other."""

from __future__ import annotations

import subprocess
import sys

import pytest
from conftest import PARTLY_QUICK, QUICK


def test_all_that_is_meant_to_be_quick_is_run_by_that_name(pytestconfig: pytest.Config) -> None:
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", "-m", "quick"]
    done = subprocess.run(command, cwd=pytestconfig.rootpath, capture_output=True, text=True, check=True)
    files = {pytestconfig.rootpath / line.partition("::")[0] for line in done.stdout.splitlines() if "::" in line}
    for place in QUICK | PARTLY_QUICK:
        assert [file for file in files if file.is_relative_to(place)], f"there is nothing quick in {place}"
    assert not [file for file in files if not any(file.is_relative_to(place) for place in QUICK | PARTLY_QUICK)]
