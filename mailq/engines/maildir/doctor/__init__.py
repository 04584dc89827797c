"""What is wrong with a queue on disk, what it means, what to do; and doing it.

It works on what cannot be opened any more, and beside what is running. It never
deletes a message.
"""

from mailq.engines.maildir.doctor.examine import examine
from mailq.engines.maildir.doctor.report import Finding

__all__ = ["Finding", "examine"]
