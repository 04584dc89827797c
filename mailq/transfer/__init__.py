"""A queue's messages in one file: exported from a live queue, imported into another.

::

    from mailq import transfer

    with open("jobs.tar", "wb") as file:
        transfer.export("jobs", file)
    with open("jobs.tar", "rb") as file:
        transfer.import_("others", file, create=True)

docs/backup.md says what is promised, and what the formats are.
"""

from mailq.transfer.export import Exported, export, writing
from mailq.transfer.import_ import Imported, ImportStopped, import_
from mailq.transfer.items import ArchiveDamaged, format_of

__all__ = ["ArchiveDamaged", "Exported", "ImportStopped", "Imported", "export", "format_of", "import_", "writing"]
