"""A queue's messages in one file: exported from a live queue, imported into another.

::

    from mailq import archive

    with open("jobs.tar", "wb") as file:
        archive.export_to("jobs", file)
    with open("jobs.tar", "rb") as file:
        archive.import_from("others", file, create=True)

docs/backup.md says what is promised, and what the formats are.
"""

from mailq.archive.exporting import Exported, export_to
from mailq.archive.files import format_of, writing
from mailq.archive.importing import Imported, ImportStopped, import_from
from mailq.archive.items import ArchiveDamaged

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
