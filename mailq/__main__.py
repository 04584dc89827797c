"""``python -m mailq`` is ``mailq``."""

from mailq.cli.main import main

if __name__ == "__main__":
    main()
