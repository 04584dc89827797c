from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import opaque
import pytest

from mailq.engines.maildir.disk import Disk
from mailq.engines.maildir.engine import MaildirEngine
from mailq.engines.maildir.layout import Layout, create
from mailq.engines.memory import MemoryEngine
from mailq.settings import Settings
from mailq.testing import EngineContract, EngineFactory, Forge


def on_disk(root: Path, durability: str) -> EngineFactory:
    def make(settings: Settings, clock: Callable[[], int]) -> MaildirEngine:
        create(Layout(str(root)), replace(settings, durability=durability), Disk())
        return MaildirEngine(str(root), clock=clock)

    return make


def without_its_id(receipt: str) -> str:
    """Both engines begin a receipt with what names the message."""
    return re.sub("[0-9a-f]{32}", "0" * 32, receipt, count=1)


class TestMemory(EngineContract):
    capabilities = MemoryEngine.capabilities

    @pytest.fixture
    def make_engine(self) -> EngineFactory:
        return lambda settings, clock: MemoryEngine(settings, clock=clock)

    @pytest.fixture
    def forge(self) -> Forge:
        return without_its_id


class TestOpaque(EngineContract):
    capabilities = opaque.OpaqueEngine.capabilities

    @pytest.fixture
    def make_engine(self) -> EngineFactory:
        return lambda settings, clock: opaque.OpaqueEngine(settings, clock=clock)

    @pytest.fixture
    def forge(self) -> Forge:
        return opaque.forge


class TestLeast(TestOpaque):
    capabilities = opaque.LeastEngine.capabilities

    @pytest.fixture
    def make_engine(self) -> EngineFactory:
        return lambda settings, clock: opaque.LeastEngine(settings, clock=clock)


class TestMaildir(EngineContract):
    @pytest.fixture
    def make_engine(self, path: Path) -> EngineFactory:
        return on_disk(path, "power-loss")

    @pytest.fixture
    def forge(self) -> Forge:
        return without_its_id


class TestMaildirWithoutSync(TestMaildir):
    @pytest.fixture
    def make_engine(self, path: Path) -> EngineFactory:
        return on_disk(path, "process-crash")
