"""The contract in one class."""

from __future__ import annotations

from mailq.testing.contract.close import CloseContract
from mailq.testing.contract.dead import DeadContract
from mailq.testing.contract.lease import LeaseContract
from mailq.testing.contract.life import LifeContract
from mailq.testing.contract.look import LookContract
from mailq.testing.contract.pop import PopContract
from mailq.testing.contract.push import PushContract
from mailq.testing.contract.receipts import ReceiptsContract
from mailq.testing.contract.retry import RetryContract
from mailq.testing.contract.scope import ScopeContract
from mailq.testing.contract.work import WorkContract


class EngineContract(
    PushContract,
    PopContract,
    LeaseContract,
    ReceiptsContract,
    RetryContract,
    ScopeContract,
    DeadContract,
    LookContract,
    LifeContract,
    WorkContract,
    CloseContract,
):
    """What a queue promises, whatever disk is below it.

    Subclass it in a test module and override the fixture ``make_engine``. Each
    call of what it returns must give an engine on an empty queue.
    """
