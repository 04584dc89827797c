"""The contract in one class."""

from __future__ import annotations

from mailq.testing.contract_close import CloseContract
from mailq.testing.contract_dead import DeadContract
from mailq.testing.contract_lease import LeaseContract
from mailq.testing.contract_life import LifeContract
from mailq.testing.contract_look import LookContract
from mailq.testing.contract_pop import PopContract
from mailq.testing.contract_push import PushContract
from mailq.testing.contract_receipts import ReceiptsContract
from mailq.testing.contract_retry import RetryContract
from mailq.testing.contract_scope import ScopeContract
from mailq.testing.contract_work import WorkContract


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
