"""The contract of an engine: one file for each family of verbs, and all of it in one class."""

from __future__ import annotations

from mailq.testing.contract.capabilities import CapabilitiesContract
from mailq.testing.contract.close import CloseContract
from mailq.testing.contract.dead import DeadContract
from mailq.testing.contract.edit import EditContract
from mailq.testing.contract.lease import LeaseContract
from mailq.testing.contract.life import LifeContract
from mailq.testing.contract.look import LookContract
from mailq.testing.contract.pause import PauseContract
from mailq.testing.contract.pop import PopContract
from mailq.testing.contract.presence import PresenceContract
from mailq.testing.contract.push import PushContract
from mailq.testing.contract.receipts import ReceiptsContract
from mailq.testing.contract.replies import RepliesContract
from mailq.testing.contract.retry import RetryContract
from mailq.testing.contract.scope import ScopeContract


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
    PauseContract,
    EditContract,
    PresenceContract,
    RepliesContract,
    CapabilitiesContract,
    CloseContract,
):
    """What a queue promises, whatever engine is below it.

    Subclass it in a test module and override the fixtures ``make_engine`` and ``forge``. Each
    call of what ``make_engine`` returns must give an engine on an empty queue.
    """
