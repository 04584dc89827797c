"""The bench: how fast mailq is on a disk, beside the bare system calls and beside others. See README.md."""
