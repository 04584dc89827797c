"""For tests: a clock that is moved by hand, and the contract that every engine must pass.

An engine exists when a subclass of :class:`EngineContract` passes::

    class TestMyEngine(EngineContract):
        @pytest.fixture
        def make_engine(self, tmp_path):
            return lambda settings, clock: MyEngine(tmp_path, settings, clock=clock)

        @pytest.fixture
        def forge(self):
            return lambda receipt: ...  # of the same form, and of no claim

This package imports pytest, which mailq itself does not need.
"""

import pytest

# Before the imports below: a failed assertion of the contract then shows its values.
pytest.register_assert_rewrite(f"{__name__}.contract")

from mailq.testing.clock import ManualClock  # noqa: E402
from mailq.testing.contract import EngineContract  # noqa: E402
from mailq.testing.contract.base import EngineFactory, Forge, OpenQueue, take  # noqa: E402 - after the registration above

__all__ = ["EngineContract", "EngineFactory", "Forge", "ManualClock", "OpenQueue", "take"]
