"""Handlers that the tests' workers run, in their processes."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import mailq


def noop(body: Any) -> None:
    pass


def echo(body: Any) -> Any:
    return body


def nap(body: float) -> None:
    time.sleep(body)


def attempt(delivery: mailq.Delivery) -> int:
    return delivery.attempt


def tell_pid(body: Any) -> int:
    return os.getpid()


async def coroutine(body: Any) -> Any:
    await asyncio.sleep(0)
    return {"loop": id(asyncio.get_running_loop()), "body": body}


async def endless_coroutine(body: str) -> None:
    try:
        await asyncio.Event().wait()
    finally:
        Path(body).touch()  # noqa: ASYNC240 - nothing else runs here


def outcome(body: Any) -> Any:  # noqa: C901 - a case a line
    """Do what the body says."""
    match body:
        case "none":
            return None
        case "retry":
            return mailq.Retry(delay=3600, error="again later")
        case "reject":
            return mailq.Reject("not for me")
        case "raise":
            raise ValueError("no good")
        case "exit":
            os._exit(3)
        case "sys.exit":
            sys.exit("goodbye")
        case "interrupt":
            raise KeyboardInterrupt
        case "segfault":
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            ctypes.string_at(0)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "memory":
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + 200_000_000, resource.RLIM_INFINITY))
            return len(bytes(10_000_000_000))
        case "not json":
            return object()
        case "hang":
            time.sleep(3600)
        case "hang deaf":
            for number in (signal.SIGTERM, signal.SIGUSR2):
                signal.signal(number, signal.SIG_IGN)
            time.sleep(3600)
        case "hang in children":
            os.system("sleep 3601 & sleep 3601")
    return body


def one_long_call(body: int) -> int:
    """One call in C that holds the GIL all the time."""
    return sum(range(body))


def hold_until(delivery: mailq.Delivery) -> None:
    """Say that it runs, and go on until a file is there."""
    said, wanted = delivery.body
    Path(f"{said}.{delivery.attempt}").touch()
    while not os.path.exists(wanted):
        time.sleep(0.002)


def clean_up(body: list[str]) -> None:
    """Run until it is interrupted, then say how."""
    try:
        Path(body[0]).touch()
        for _ in range(360_000):  # a thread is interrupted between two steps only
            time.sleep(0.01)
    except mailq.TimeLimit as limit:
        Path(body[1]).write_text(f"limit {limit.seconds:g}")
    finally:
        with open(body[1], "a") as file:
            file.write(" cleaned up")


def notice_loss(delivery: mailq.Delivery) -> None:
    """Lose the lease, and say what is seen of it."""
    before = delivery.lost
    mailq.open(delivery.queue.location, create=False).release(delivery.receipt, delay=3600)
    Path(delivery.body).write_text(f"{before} {delivery.lost}")


def settle_itself(delivery: mailq.Delivery) -> None:
    delivery.reject("settled in the handler")


def append(delivery: mailq.Delivery) -> None:
    """Leave a line in a log for this run of the job."""
    path = delivery.body if isinstance(delivery.body, str) else delivery.body["log"]
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, f"{delivery.id}\n".encode())
    os.close(fd)


def storm(delivery: mailq.Delivery) -> None:
    """A short job; some fail, some die."""
    time.sleep(delivery.body["nap"])
    match delivery.body["n"] % 50:
        case 7:
            raise ValueError("this one always fails")
        case 13:
            os._exit(1)
    append(delivery)


def leave_and_exit(body: list[str]) -> None:
    """Take the process with it, but not what was started."""
    subprocess.Popen(body)
    os._exit(3)


def talk_or_hold(delivery: mailq.Delivery) -> None:
    """Leave a child behind that, once told to, says in its parent's name that this message is settled; or hold on."""
    if len(delivery.body) == 2:
        hold_until(delivery)
    elif os.fork() == 0:
        _, said, wanted = delivery.body
        while not os.path.exists(wanted):
            time.sleep(0.002)
        assert delivery.on_settled is not None
        delivery.on_settled()
        Path(said).touch()
        os._exit(0)


def fork_and_return(body: Any) -> Any:
    """Leave a child behind that returns as well, a little later."""
    if body == "fork" and os.fork() == 0:
        time.sleep(0.3)
        return "of the child"
    if body == "slow":
        time.sleep(0.8)
    return "of the parent"


def use_everything(delivery: mailq.Delivery) -> Coroutine[Any, Any, None]:
    """Call what a job may call, and say in a file which modules that has loaded."""
    before, queue = set(sys.modules), delivery.queue
    queue.push_many("abcd")
    for settle in (mailq.Delivery.ack, mailq.Delivery.nack, mailq.Delivery.reject):
        settle(next(queue.drain()))
    with contextlib.suppress(ValueError), next(queue.drain()):
        raise ValueError("the traceback is kept")
    queue.reap()
    queue.configure(ttl=None)
    delivery.history, queue.peek("dead"), queue.stats()
    return _say_what_is_new(before, delivery.body)


async def _say_what_is_new(before: set[str], path: str) -> None:
    text = "\n".join(sorted(set(sys.modules) - before))
    Path(f"{path}.new").write_text(text)  # noqa: ASYNC240 - nothing else runs here
    Path(f"{path}.new").rename(path)  # noqa: ASYNC240


def long_error(body: int) -> None:
    raise ValueError("x" * body)


def fail_to_clean_up(body: str) -> None:
    try:
        Path(body).touch()
        time.sleep(3600)
    finally:
        raise RuntimeError("the cleaning up failed")


def push_the_next_when_two_are_at_work(delivery: mailq.Delivery) -> None:
    here = Path(f"{delivery.queue.location}.at-work")
    here.mkdir(exist_ok=True)
    (here / str(os.getpid())).touch()
    while len(list(here.iterdir())) < 2:
        time.sleep(0.001)
    if delivery.body:
        delivery.queue.push(delivery.body - 1)


def ack_early(delivery: mailq.Delivery) -> None:
    delivery.ack()
    time.sleep(1)
    Path(delivery.body).touch()


def ack_and_tell_late(delivery: mailq.Delivery) -> None:
    """Settle the message, and let nobody know until a file is there."""
    done, go = delivery.body
    tell = delivery.on_settled
    assert tell is not None

    def tell_late() -> None:
        while not os.path.exists(go):
            time.sleep(0.002)
        tell()

    delivery.on_settled = tell_late
    delivery.ack()
    Path(done).touch()


def end_itself(body: Any) -> None:
    os.kill(os.getpid(), signal.SIGUSR2)
    time.sleep(10)


def almost_at_the_limit(body: float) -> None:
    until = time.perf_counter() + body
    while time.perf_counter() < until:
        pass


class Nested:
    @staticmethod
    def handler(body: Any) -> Any:
        return ["nested", body]


not_callable = 7


def no_argument() -> None:
    pass
