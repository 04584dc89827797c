"""Fixtures only."""

from __future__ import annotations

from pathlib import Path

import pytest

import mailq


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the long versions too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--slow"):
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="long: run with --slow"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a queue may be made."""
    return tmp_path / "jobs"


@pytest.fixture
def queue(path: Path) -> mailq.Queue:
    """A fresh queue on disk, with the default settings."""
    return mailq.open(path)
