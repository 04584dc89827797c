from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mailq.engines.maildir.disk import Disk
from mailq.engines.maildir.engine import MaildirEngine
from mailq.engines.maildir.layout import Layout, create
from mailq.engines.memory import MemoryEngine
from mailq.settings import Settings
from mailq.testing import EngineContract, EngineFactory


def on_disk(root: Path, durability: str) -> EngineFactory:
    def make(settings: Settings, clock: Callable[[], int]) -> MaildirEngine:
        create(Layout(str(root)), replace(settings, durability=durability), Disk())
        return MaildirEngine(str(root), clock=clock)

    return make


class TestMemory(EngineContract):
    @pytest.fixture
    def make_engine(self) -> EngineFactory:
        return lambda settings, clock: MemoryEngine(settings, clock=clock)


class TestMaildir(EngineContract):
    @pytest.fixture
    def make_engine(self, path: Path) -> EngineFactory:
        return on_disk(path, "power-loss")


class TestMaildirWithoutSync(EngineContract):
    @pytest.fixture
    def make_engine(self, path: Path) -> EngineFactory:
        return on_disk(path, "process-crash")
