"""What the tests of the shell call."""

from __future__ import annotations

import subprocess
import sysconfig
from collections.abc import Callable

Shell = Callable[..., subprocess.CompletedProcess[bytes]]
MAILQ = f"{sysconfig.get_path('scripts')}/mailq"
