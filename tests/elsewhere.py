"""Other systems, as far as they can be had here: without what they have not."""

from __future__ import annotations

import subprocess
import sys
from typing import Final

from together import PATIENCE

_PYTHON: Final = """
import functools, importlib, os, pkgutil, select, signal, socket, sys
import asyncio, filelock, mailq, watchdog.observers  # also what mailq loads only when it needs it
modules = [found.name for found in pkgutil.walk_packages(mailq.__path__, "mailq.") if found.name != "mailq.__main__"]
for name in modules:  # so that all is loaded, from elsewhere, that they need
    importlib.import_module(name)
for name in [name for name in sys.modules if name.partition(".")[0] == "mailq"]:
    del sys.modules[name]
# Pairs there are everywhere, but here they are made of what is taken away.
socket.socketpair = functools.partial(socket.socketpair, socket.AF_UNIX)
for name in {blocked!r}.split():
    sys.modules[name] = None
for module, names in ((os, {os!r}), (signal, {signal!r}), (socket, {socket!r}), (select, {select!r})):
    for name in names.split():
        vars(module).pop(name, None)
sys.platform = {platform!r}
"""

_WINDOWS: Final = {
    "platform": "win32",
    "blocked": "fcntl resource pwd grp termios tty pty syslog readline",
    "os": (
        "fork forkpty register_at_fork waitid waitpid wait WNOHANG WNOWAIT WEXITED P_ALL P_PID killpg setpgid getpgid "
        "setsid getuid geteuid getgid getegid uname chown fchown mkfifo statvfs sysconf fpathconf pread pwrite nice "
        "O_NOFOLLOW O_DIRECTORY O_NONBLOCK O_CLOEXEC openpty posix_spawn"
    ),
    "signal": (
        "SIGKILL SIGUSR1 SIGUSR2 SIGHUP SIGCHLD SIGALRM SIGQUIT SIGPIPE SIGTSTP SIGCONT SIGSTOP setitimer alarm "
        "ITIMER_REAL pthread_sigmask pthread_kill sigwait sigpending"
    ),
    "socket": "AF_UNIX send_fds recv_fds",
    "select": "poll epoll",
}
_MACOS: Final = {  # before Python 3.13
    "platform": "darwin",
    "blocked": "",
    "os": "waitid P_ALL P_PID WEXITED WNOWAIT",
    "signal": "sigtimedwait sigwaitinfo",
    "socket": "",
    "select": "epoll",
}
SYSTEMS: Final = {"windows": _WINDOWS, "macos": _MACOS}


def run(system: str, code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run code in an interpreter that has no more than another system; ``modules`` are the names of mailq's."""
    line = [sys.executable, "-c", _PYTHON.format(**SYSTEMS[system]) + code, *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, check=False, timeout=PATIENCE)
