"""The processes of a storm. Each works until it is killed, and writes down what it does before and after.

Each decision is a throw of its own dice, which are seeded. What a slow consumer does is sleep: it is not waiting for
anything, it is what makes leases run out.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import time
from collections.abc import Callable
from typing import Any

from command import MAILQ
from engines import open_queue
from history import Log
from stage import Stage, body_of, claimed_at, digest_of, key_of

import mailq

LEASE = 0.4
POISON = 40
"""Every so many messages are never done: they end in the dead."""

NAP = 0.03
"""How long a job of the worker takes, in seconds: whether its acks came about is not told, so it gets the smaller part."""


def is_poison(key: str) -> bool:
    number = key.rpartition(".")[2]
    return number.isdecimal() and int(number) % POISON == 0


# Producers


def produce(stage: Stage, name: str) -> None:
    """Push and push_many, some delayed, some urgent."""
    dice, log = random.Random(name), stage.log(name)
    queue = open_queue(stage.jobs, stage.engine)
    number = 0
    while True:
        keys = [f"{name}.{number + n}" for n in range(dice.choice((1, 1, 1, 1, 5, 20)))]
        number += len(keys)
        bodies = [body_of(key, dice.choice((10, 100, 3000, 30_000))) for key in keys]
        options = dice.choice(({}, {}, {}, {}, {"delay": 0.05}, {"delay": 0.3}, {"priority": 5}, {"max_retries": 1}))
        plain = not options
        log.write("push?", keys=dict(zip(keys, map(digest_of, bodies), strict=True)), plain=plain)
        try:
            ids = queue.push_many(bodies, **options)
        except mailq.QueueFull:
            log.write("push-", keys=keys)
            time.sleep(0.05)
            continue
        log.write("push!", ids=dict(zip(keys, ids, strict=True)))
        stage.acknowledge(keys)
        time.sleep(dice.uniform(0, 0.01))


def produce_in_shell(stage: Stage, name: str) -> None:
    """``mailq push``: each a process of its own, that may be killed by itself."""
    dice, log = random.Random(name), stage.log(name)
    number = 0
    while True:
        number += 1
        key = f"{name}.{number}"
        body = body_of(key, dice.choice((10, 3000)))
        options = dice.choice(([], [], ["--delay", "100ms"], ["--priority", "3"]))
        log.write("push?", keys={key: digest_of(body)}, plain=not options)
        # Not on its standard input: were we killed, it would push the half of it that it got.
        done = _run("push", stage.jobs, json.dumps(body), *options)
        if done.returncode == 0:
            id = done.stdout.decode().strip()
            log.write("push!", ids={key: id})
            stage.acknowledge([key])
        elif done.returncode > 0 and b"full" in done.stderr:
            log.write("push-", keys=[key])
        else:
            assert done.returncode < 0, done.stderr.decode()


# Consumers


def consume(stage: Stage, name: str) -> None:
    """Pop and pop_many; then ack, or one of all the other ends, now and then too late."""
    dice, log = random.Random(name), stage.log(name)
    queue = open_queue(stage.jobs, stage.engine)
    while True:
        lease, detached = dice.choice((LEASE, LEASE, LEASE * 3)), dice.random() < 0.1
        since = time.time_ns()
        deliveries = queue.pop_many(
            dice.choice((1, 1, 1, 4)), lease=lease, wait=dice.choice((0, 0.2)), detached=detached
        )
        for delivery in deliveries:
            write_down(log, delivery, since=since, detached=detached, group=os.getpid())
        for delivery in deliveries:
            with contextlib.suppress(mailq.LeaseLost):
                settle(stage, dice, log, delivery)


def write_down(log: Log, delivery: mailq.Delivery, **facts: Any) -> None:
    """Write down a delivery, with these facts beside its own or instead of them."""
    try:
        body = delivery.body
    except mailq.CodecError:
        body = None
    told = {
        "id": delivery.id,
        "key": key_of(body),
        "digest": digest_of(body),
        "receipt": delivery.receipt,
        "attempt": delivery.attempt,
        "deadline": round((delivery.deadline_at or 0) * 1e9),
    }
    log.write("got", **{**told, **facts})


def settle(stage: Stage, dice: random.Random, log: Log, delivery: mailq.Delivery) -> None:
    """Decide, do it, and tell; LeaseLost is told too, and raised."""
    ends = {"ack": 20, "late": stage.late, "nack": 2, "release": 2, "reject": 1, "extend": 2, "forget": 1}
    choice = dice.choices(list(ends), list(ends.values()))[0]
    receipt, key = delivery.receipt, key_of(delivery.body)
    try:
        if choice == "forget":
            return
        if choice == "extend":
            delivery.extend(LEASE * 4)
            log.write("extend!", receipt=receipt, deadline=round((delivery.deadline_at or 0) * 1e9))
            time.sleep(dice.uniform(0, LEASE * 2))
        if choice == "late":
            time.sleep(dice.uniform(LEASE / 2, LEASE * 2))
        if is_poison(key):
            log.write("back?", receipt=receipt)
            delivery.reject("poison") if dice.random() < 0.5 else delivery.nack(delay=0.01)
        elif choice in ("nack", "release", "reject"):
            log.write("back?", receipt=receipt)
            getattr(delivery, choice)()
        else:
            stage.effect(key)
            log.write("ack?", receipt=receipt)
            delivery.ack()
            log.write("ack!", receipt=receipt)
    except mailq.LeaseLost:
        log.write("gone", receipt=receipt)
        raise


def consume_in_shell(stage: Stage, name: str) -> None:
    """``mailq pop`` and ``mailq ack``: a lease that outlives the process that took it."""
    log = stage.log(name)
    while True:
        since = time.time_ns()
        popped = _run("pop", stage.jobs, "--lease", "1s", "--wait", "200ms")
        if not popped.stdout.endswith(b"\n"):
            continue  # nothing there, or killed before it could say
        told = json.loads(popped.stdout)
        body, receipt = told["body"], told["receipt"]
        log.write(
            "got",
            id=told["id"],
            key=key_of(body),
            digest=digest_of(body),
            receipt=receipt,
            attempt=told["attempt"],
            deadline=round(told["deadline_at"] * 1e9),
            since=since,
            detached=True,
            group=os.getpid(),
        )
        if is_poison(key_of(body)):
            log.write("back?", receipt=receipt)
            _run("nack", stage.jobs, receipt, "--delay", "10ms")
            continue
        stage.effect(key_of(body))
        log.write("ack?", receipt=receipt)
        code = _run("ack", stage.jobs, receipt).returncode
        if code in (0, 4):
            log.write("ack!" if code == 0 else "gone", receipt=receipt)


def _run(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([MAILQ, *arguments], stdin=subprocess.DEVNULL, capture_output=True, check=False)


# Those who keep house


def reap(stage: Stage, name: str) -> None:
    """q.reap(), as fast as it goes."""
    queue, dice = open_queue(stage.jobs, stage.engine), random.Random(name)
    while True:
        queue.reap()
        time.sleep(dice.uniform(0, 0.05))


def reap_in_shell(stage: Stage, name: str) -> None:
    """``mailq reap``"""
    while True:
        _run("reap", stage.jobs)


def redrive(stage: Stage, name: str) -> None:
    """Take from the dead, all or a few."""
    queue, dice = open_queue(stage.jobs, stage.engine), random.Random(name)
    while True:
        queue.redrive(limit=dice.choice((1, 5, None)))
        time.sleep(dice.uniform(0, 0.3))


# The job of the worker


def handle(delivery: mailq.Delivery) -> None:
    """In a slot of a worker, whose process the environment names: all of its processes hold its leases together."""
    stage, worker = Stage(os.environ["STORM"]), int(os.environ["STORM_WORKER"])
    log, key = stage.log(f"slot.{os.getpid()}"), key_of(delivery.body)
    since = claimed_at(delivery.receipt, delivery.queue.settings.lease)
    write_down(log, delivery, since=since, detached=False, group=worker)
    if is_poison(key) or delivery.attempt % 3 == 2:
        log.write("back?", receipt=delivery.receipt)
        raise ValueError("this attempt fails")
    time.sleep(NAP)
    stage.effect(key)
    log.write("ack?", receipt=delivery.receipt)


# The end


def finish(stage: Stage, name: str) -> None:
    """Do all that is left, with the real engine; then write down the dead."""
    log, queue = stage.log(name), mailq.open(stage.jobs, create=False)
    while len(queue) or _redriven(queue):
        since = time.time_ns()
        delivery = queue.pop(wait=0.2, lease=30)
        if delivery is None:
            continue
        write_down(log, delivery, since=since, detached=False, group=os.getpid())
        key, receipt = key_of(delivery.body), delivery.receipt
        if is_poison(key):
            log.write("back?", receipt=receipt)
            delivery.reject()
        else:
            stage.effect(key)
            log.write("ack?", receipt=receipt)
            delivery.ack()
            log.write("ack!", receipt=receipt)
    for letter in queue.peek("dead", None):
        log.write("dead", id=letter.id, key=key_of(letter.body))
    queue.close()


def _redriven(queue: mailq.Queue) -> int:
    """Give those who died by bad luck another chance."""
    unlucky = [letter.id for letter in queue.peek("dead", None) if not is_poison(key_of(letter.body))]
    return queue.redrive(unlucky) if unlucky else 0


Actor = Callable[[Stage, str], None]
