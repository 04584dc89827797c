"""init and config: make a queue, show and change its settings."""

from __future__ import annotations

import contextlib
import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

import click

from mailq.cli.main import complain
from mailq.cli.options import DURATION, open_queue, queue_argument
from mailq.errors import SettingsError
from mailq.settings import parse_duration

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mailq.settings import Settings

_DURATIONS: Final = ("lease", "ttl", "soft_timeout", "timeout", "reply_ttl", "reap_interval")
_NUMBERS: Final = ("max_retries", "max_message_bytes", "max_length")


def _backoff(text: str) -> list[float]:
    return [parse_duration(part) for part in text.replace(":", " ").split()]


def _parse(key: str, text: str) -> object:
    """Read a setting as the shell writes it."""
    if key in _DURATIONS:
        return parse_duration(text)
    if key == "backoff":
        return _backoff(text)
    if key in _NUMBERS:
        try:
            return int(text.replace("_", ""))
        except ValueError:
            raise SettingsError(f"{key} is {text!r}; it must be a whole number", key=key) from None
    if key == "paused":
        return {"true": True, "false": False}.get(text.lower(), text)
    return text


def _print(settings: Settings) -> None:
    for key, value in asdict(settings).items():
        click.echo(f"{key} = {_spell(value)}")


def _spell(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, list | tuple):
        return ":".join(f"{part:g}" for part in value)
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


@contextlib.contextmanager
def _telling_of_letters(path: object) -> Iterator[None]:
    """Say when a queue for the dead letters was made: a slip in its path would make one, too."""
    marker = f"{os.path.expanduser(path)}/mailq.toml" if isinstance(path, str) else ""
    missing = not os.path.exists(marker)
    yield
    if missing and os.path.exists(marker):
        complain(f"made the queue {path!a} for the dead letters: there was none")


@click.command()
@queue_argument
@click.option("--lease", type=DURATION, help="How long a consumer holds a message [default: 60s].")
@click.option("--max-retries", type=int, help="Retries before a message is dead [default: 5].")
@click.option("--backoff", metavar="FIRST:LONGEST", help="The delays before retries [default: 1s:10m].")
@click.option(
    "--retry-order", type=click.Choice(["front", "back"]), help="Where retries stand in line [default: front]."
)
@click.option("--ttl", type=DURATION, help="Give up on messages this long after the push [default: never].")
@click.option("--max-message-bytes", type=int, help="The largest message [default: 1048576].")
@click.option("--max-length", type=int, help="The most messages that may wait [default: no limit].")
@click.option("--durability", type=click.Choice(["power-loss", "process-crash"]), help="[default: power-loss]")
@click.option("--soft-timeout", type=DURATION, help="Workers raise TimeLimit in a job after this [default: never].")
@click.option("--timeout", type=DURATION, help="Workers end a job after this long [default: never].")
@click.option("--reply-ttl", type=DURATION, help="How long replies are kept [default: 1h].")
@click.option("--reap-interval", type=DURATION, help="How often consumers look for lost leases [default: 2s].")
@click.option("--dead-letters", type=click.Path(), help="Another queue that gets the dead letters.")
@click.option("--file-mode", metavar="MODE", help="Permissions of message files, in octal [default: 0600].")
def init(queue: str, *, backoff: str | None, **settings: Any) -> None:  # noqa: ANN401 - checked by the settings
    """Create a queue; print its settings.

    For a queue that exists it only checks that the settings are the same.

    \b
        mailq init jobs --lease 5m --max-retries 3 --backoff 2s:1h
    """
    from mailq.connect import open as create_queue  # noqa: PLC0415 - help needs no engine

    with (
        _telling_of_letters(settings["dead_letters"]),
        create_queue(queue, backoff=_backoff(backoff) if backoff else None, **settings) as made,
    ):
        _print(made.settings)


@click.command()
@queue_argument
@click.argument("key", required=False)
@click.argument("value", required=False)
def config(queue: str, key: str | None, value: str | None) -> None:
    """Show or change the settings.

    All of them, or the one named KEY; with VALUE it is changed, and "none" resets it.
    Running producers and consumers notice within seconds. A queue that dead_letters
    names is created if there is none. Editing QUEUE/mailq.toml does the same.

    \b
        mailq config jobs
        mailq config jobs lease 5m
    """
    with open_queue(queue) as target:
        if key is None:
            _print(target.settings)
            return
        key = key.replace("-", "_")
        if value is not None:
            parsed = None if value.lower() == "none" else _parse(key, value)
            with _telling_of_letters(parsed if key == "dead_letters" else None):
                target.configure(**{key: parsed})
        known = asdict(target.settings)
        if key not in known:
            raise SettingsError(f"there is no setting {key!r}; there are {', '.join(known)}", key=key)
        click.echo(_spell(known[key]))
