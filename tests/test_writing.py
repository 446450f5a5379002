"""Nothing is written, replaced or removed but in the artifact module's way: whole or not at all, and in the workspace.

Each exception is listed here with the reason why it is none.
"""

from __future__ import annotations

import ast
from pathlib import Path

import wsipipe

ROOT = Path(wsipipe.__file__).parent
ROOMS = ("data", "models", "stages", "pipeline")
WRITES = frozenset({
    "write_text", "write_bytes", "unlink", "rmdir", "rmtree", "rename", "renames", "removedirs", "symlink_to",
    "symlink",
    "hardlink_to", "touch", "mkdir", "makedirs", "truncate", "ftruncate", "move", "copy2", "copyfile", "copytree",
    "mkfifo", "chmod", "savefig", "to_csv", "to_parquet", "save_file", "imwrite", "tofile", "SummaryWriter", "FileIO",
    "export_chrome_trace", "NamedTemporaryFile", "mkdtemp", "mkstemp",
})  # fmt: skip
ON = frozenset({"scratch", "stream", "buffer"})
"""What the block of a :func:`~wsipipe.data.artifact.whole` calls the place that it writes to, and buffers in memory."""

EXCEPTIONS = {
    # the mechanism itself
    "data/artifact.py": {"rename", "move", "rmtree", "unlink", "open", "ftruncate"},
    # makes the folders of the others
    "data/workspace.py": {"mkdir"},
    # removes its own signature, and the claim of a dead holder
    "data/writing_lock.py": {"rename", "unlink"},
    # copies of slides in a folder of its own, outside of the workspace or in its partial folder; a killed run's are
    # removed by the next one
    "data/scratch_folder.py": {"mkdir", "rmtree"},
    "data/slides/staging.py": {"mkdir", "rmtree", "unlink", "open", "touch"},
    # appends a line to a log that nothing reads, and that is no link
    "data/event_log.py": {"replace"},
    # writes in the scratch folder of the store that is being made
    "data/features/rows.py": {"mkdir", "open"},
    # appends to the scratch file of a training, which the artifact module removes
    "data/features/bag_file.py": {"open"},
    # the picture is given as a path by the block of its `whole`
    "stages/predict/tile_sheet.py": {"write_bytes"},
    "stages/tile/qc_picture.py": {"save"},
    "stages/compare/figure.py": {"savefig"},
    # removes its own folder of unfinished work, if it is empty
    "stages/train/stage.py": {"rmdir"},
    # curves that grow while training goes on; of no result, and only within the workspace
    "stages/train/tensorboard.py": {"SummaryWriter"},
    # the trace of a profile: a file of the user's own choice, written by torch
    "stages/extract/embed_threads.py": {"mkdir", "open", "unlink", "export_chrome_trace"},
    # memory without a file
    "stages/extract/batch_memory.py": {"ftruncate"},
    # removes what it has shown, behind no link, and looked at again under the lock
    "pipeline/checks/clean.py": {"unlink", "rmdir"},
    # opens /dev/null in place of a closed stream
    "pipeline/process.py": {"open"},
    # tries the machine in folders of its own that it makes, and removes in the end
    "pipeline/doctor/scratch.py": {"mkdir", "rmtree"},
    "pipeline/doctor/codecs.py": {"File"},
    "pipeline/doctor/every_stage.py": {"save_file", "open"},
    "pipeline/doctor/machine.py": {"write_bytes", "unlink"},
    "pipeline/doctor/storage.py": {"write_bytes", "open", "replace"},
    # damages the slide that it has just made
    "pipeline/demo/slides.py": {"truncate"},
}


def _is_scratch(node: ast.AST) -> bool:
    return any(isinstance(part, ast.Name) and part.id in ON for part in ast.walk(node))


def _doors(tree: ast.AST) -> set[tuple[str, int]]:
    """Calls that write or remove at another place than that of a ``whole``, with their lines."""
    found = set()
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call):
            continue
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        words = [
            word.value for word in [*call.args, *(k.value for k in call.keywords)] if isinstance(word, ast.Constant)
        ]
        modes = {word for word in words if isinstance(word, str)} & {
            "w",
            "a",
            "x",
            "wb",
            "ab",
            "xb",
            "ab+",
            "r+",
            "w-",
            "r+b",
        }
        of_a_frame = name == "rename" and {"index", "columns"} & {word.arg for word in call.keywords}
        on = getattr(call.func.value, "id", "") if isinstance(call.func, ast.Attribute) else "structs"
        path_method = name == "replace" and on != "structs" and len(call.args) == 1 and not words
        writes = name in WRITES or (name in ("open", "File", "open_group", "TiffWriter") and modes) or path_method
        writes = writes or (name == "save" and len(call.args) > 1)
        if writes and not of_a_frame and not _is_scratch(call):
            found.add((name, call.lineno))
    return found


def test_every_output_is_written_whole_or_is_listed_here() -> None:
    listed = {file: set(names) for file, names in EXCEPTIONS.items()}
    for room in ROOMS:
        for file in sorted((ROOT / room).rglob("*.py")):
            name = file.relative_to(ROOT).as_posix()
            for call, line in _doors(ast.parse(file.read_text(encoding="utf-8"))):
                assert call in EXCEPTIONS.get(name, set()), f"{name}:{line} writes by {call}(…) outside of a `whole`"
                listed[name].discard(call)
    assert not {file: names for file, names in listed.items() if names}, "listed, and not there any more"
