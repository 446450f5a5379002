"""The version of each stage: raised when the same settings and inputs would give other results than before.

What an older version made is then stale, and is made again.
"""

from typing import Final

VERSIONS: Final = {
    "tile": 3,
    "index": 1,
    "export": 1,
    "import-checkpoint": 1,
    "extract": 2,
    "genomics": 3,
    "split": 1,
    "train": 3,
    "evaluate": 2,
    "report": 4,
    "predict": 1,
    "omics": 1,
    "compare": 3,
    "summary": 2,
    "read": 1,
    "external": 3,
}
