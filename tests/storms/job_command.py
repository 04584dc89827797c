"""The job of a worker whose handler is a command: it can but succeed or fail, and its limits are signals."""

from __future__ import annotations

import json
import os
import signal
import sys
import time

from history import Log
from job_kinds import KEPT, LEASE, kind_in
from stage import Stage, claimed_at, digest_of, key_of


def main() -> int:
    stage, receipt, body = Stage(os.environ["STORM"]), os.environ["MAILQ_RECEIPT"], json.load(sys.stdin)
    log, key = stage.log(f"command.{os.getpid()}"), key_of(body)
    log.write(
        "got",
        id=os.environ["MAILQ_ID"],
        key=key,
        digest=digest_of(body),
        receipt=receipt,
        attempt=int(os.environ["MAILQ_ATTEMPT"]),
        deadline=KEPT,
        since=claimed_at(receipt, LEASE),
        detached=False,
        group=int(os.environ["STORM_WORKER"]),
    )
    match kind_in(key).partition("-")[0]:
        case "crash":
            return crash(log, receipt)
        case "hard":
            return wait(log, receipt, signal.SIG_DFL)
        case "deaf":
            return wait(log, receipt, signal.SIG_IGN)
        case "ok" | "chain" | "brief" | "coroutine":
            stage.effect(key)
            log.write("ack?", receipt=receipt)
            return 0
    log.write("back?", receipt=receipt, words=["error"])
    return 1


def crash(log: Log, receipt: str) -> int:
    log.write("back?", receipt=receipt, words=["killed"])
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


def wait(log: Log, receipt: str, answer: signal.Handlers) -> int:
    signal.signal(signal.SIGTERM, answer)
    log.write("back?", receipt=receipt, words=["timeout"])
    time.sleep(3600)
    return 0


if __name__ == "__main__":
    sys.exit(main())
