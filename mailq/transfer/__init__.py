"""A queue's messages in one file: exported from a live queue, imported into another.

::

    from mailq import transfer

    with open("jobs.tar", "wb") as file:
        transfer.export_to("jobs", file)
    with open("jobs.tar", "rb") as file:
        transfer.import_from("others", file, create=True)

docs/backup.md says what is promised, and what the formats are.
"""

from mailq.transfer.export import Exported, export_to
from mailq.transfer.files import format_of, writing
from mailq.transfer.import_ import Imported, ImportStopped, import_from
from mailq.transfer.items import ArchiveDamaged

__all__ = [
    "ArchiveDamaged",
    "Exported",
    "ImportStopped",
    "Imported",
    "export_to",
    "format_of",
    "import_from",
    "writing",
]
