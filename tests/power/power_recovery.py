"""A program: what comes out of a queue after a cut, as JSON, to a process that never saw it before."""

from __future__ import annotations

import json
import os
import sys

from power_workload import number_of
from recovery import recover


def main() -> None:
    base, root = os.path.split(sys.argv[1])
    seen = recover(base, [root], create=False)
    found = [(one.place, one.id, number_of(one.content[0], dict(one.content[1]))) for one in seen.found]
    print(json.dumps({"found": found, "troubles": seen.troubles}))  # noqa: T201 - that is what it is for


if __name__ == "__main__":
    main()
