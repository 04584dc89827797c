"""The contract of what an engine does not do: the queue refuses it, and nothing is done."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from mailq.errors import Unsupported
from mailq.testing.contract.base import ContractBase

if TYPE_CHECKING:
    from collections.abc import Callable

    from mailq.queue import Queue

_VERBS: Final[dict[str, tuple[str, Callable[[Queue, str], object]]]] = {
    "edit": ("edit", lambda queue, id: queue.edit(queue.get(id), b"y")),
    "workers": ("presence", lambda queue, id: queue.workers()),  # noqa: ARG005 - one signature for all
    "request": ("replies", lambda queue, id: queue.request("y")),  # noqa: ARG005
    "reply_to": ("replies", lambda queue, id: queue.reply_to(id).result(timeout=0)),
}


class CapabilitiesContract(ContractBase):
    """What is declared is true, and what is not declared is refused."""

    def test_the_contract_is_that_of_the_engine(self, queue: Queue) -> None:
        assert queue.engine.capabilities == self.capabilities

    @pytest.mark.parametrize("verb", _VERBS)
    def test_what_an_engine_does_not_do_is_refused_and_changes_nothing(self, queue: Queue, verb: str) -> None:
        capability, call = _VERBS[verb]
        if getattr(self.capabilities, capability):
            pytest.skip(f"the engine has the capability {capability}")
        id = queue.push("x")
        before = queue.stats()
        with pytest.raises(Unsupported) as refused:
            call(queue, id)
        assert refused.value.location == queue.location
        assert queue.stats()[:5] == before[:5]

    def test_a_status_is_published_where_that_can_be_and_does_no_harm_elsewhere(self, queue: Queue) -> None:
        queue.publish({"n": 1})
        assert len(queue) == 0
