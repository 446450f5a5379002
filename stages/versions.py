"""The version of each stage: raised when the same settings and inputs would give other results than before.

What an older version made is then stale, and is made again. Names that stages had before are in
:data:`~wsipipe.data.manifest.FORMER_STAGES`.
"""

from typing import Final

VERSIONS: Final = {
    "tile": 2,
    "index": 1,
    "export": 1,
    "import-checkpoint": 1,
    "extract": 2,
    "genomics": 3,
    "split": 1,
    "train": 3,
    "cross_validate": 3,
    "report": 5,
    "predict": 2,
    "omics": 2,
    "compare": 4,
    "prediction_report": 3,
    "read_slides": 2,
    "external_evaluate": 4,
}
