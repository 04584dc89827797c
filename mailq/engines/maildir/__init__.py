"""The queue as a directory: format 1, as docs/disk-format.md has it."""
