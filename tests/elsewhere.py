"""Other systems, as far as they can be had here: without what they have not."""

from __future__ import annotations

import subprocess
import sys
from typing import Final

_PYTHON: Final = """
import importlib, os, select, signal, socket, sys
import mailq
modules = {modules!r}
for name in modules:  # so that all is loaded, from elsewhere, that they need
    importlib.import_module(name)
for name in [name for name in sys.modules if name.partition(".")[0] == "mailq"]:
    del sys.modules[name]
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


def run(system: str, modules: list[str], code: str) -> subprocess.CompletedProcess[str]:
    """Run code in an interpreter that has, from when ``modules`` were loaded, no more than another system."""
    prelude = _PYTHON.format(modules=modules, **SYSTEMS[system])
    return subprocess.run([sys.executable, "-c", prelude + code], capture_output=True, text=True, check=False)
