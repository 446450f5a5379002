"""Results of items, ready to be recorded: outputs with sizes and digests, or why an item failed."""

from __future__ import annotations

import errno
import re
import time
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from msgspec import structs

from ...data.artifact import digest_of, size_of
from ...data.errors import (
    BundleError,
    DeviceError,
    InputError,
    StoreError,
    SurroundingsError,
    WsipipeError,
    is_out_of_memory,
)
from ...data.manifest import ErrorRecord, OutputRecord
from ...data.surroundings import reading_fault, surroundings
from ...stages.stage import Item, Outcome, Progress, Stage
from ..results import Result

Executor = Callable[[Stage[Any], Sequence[Item], Progress, list[str]], Generator[Result, None, None]]
"""A function that runs a stage over items and yields each item's result as soon as it is finished, in any order.

Its arguments are the stage, the items, where to report progress, and a list to which it adds notes for the end of the
summary. Closing the generator ends the work: nothing is written after that. An error that it raises ends the run.
"""


def result_of(stage: Stage[Any], item: Item, outcome: Outcome | Exception, start: datetime, clock: float) -> Result:
    """The result of an item: sizes and digests of its outputs, or why it failed.

    :param start: when the work on it began.
    :param clock: the same moment as :func:`time.monotonic` gives it.
    """
    seconds = round(time.monotonic() - clock, 3)
    if isinstance(outcome, Exception):
        trace = "".join(traceback.format_exception(outcome))
        error = explain(outcome, stage.workspace)
        if stage.staging is not None and (slide := stage.slide_of(item)) is not None:
            message = stage.staging.with_own_path(error.message, slide)
            error = structs.replace(error, message=message)
        return Result(item, None, {}, error, start, seconds, trace)
    try:
        outputs = {
            name: OutputRecord(
                path=path.relative_to(stage.workspace).as_posix(), bytes=size_of(path), digest=digest_of(path)
            )
            for name, path in outcome.outputs.items()
        }
    except (OSError, ValueError) as error:  # an output that cannot be read back, or is not in the workspace
        return result_of(stage, item, error, start, clock)
    return Result(item, outcome, outputs, None, start, seconds)


def failed(errors: Iterable[tuple[Item, Exception]], workspace: Path | None = None) -> Iterator[Result]:
    """Results of items that failed before any work on them."""
    for item, error in errors:
        yield Result(item, None, {}, explain(error, workspace), datetime.now(UTC), 0.0)


def explain(error: BaseException, workspace: Path | None = None) -> ErrorRecord:
    """Describe an error: what went wrong, the way out, and whether trying again may help.

    :param workspace: where files of wsipipe lie, which may be damaged and made again.
    """
    if isinstance(error, OSError) and error.errno != errno.ENOENT:  # readers say it of what vanished
        error = surroundings(error, Path(error.filename or ".")) or error
    error = device_error(error) or error
    if _lacked_memory(error):
        path = error.path if isinstance(error, WsipipeError) else None
        hint = "free some memory, or take a smaller --batch-size or fewer --workers"
        error = SurroundingsError("not enough memory", path=path, hint=hint)
    if isinstance(error, WsipipeError):
        of_the_machine = reading_fault(error) is not None
        retry = of_the_machine or not isinstance(error, InputError) or _may_be_whole_again(error, workspace)
        return ErrorRecord(type=type(error).__name__, message=str(error), hint=error.hint, retry=retry)
    return ErrorRecord(
        type=type(error).__name__,
        message=str(error) or repr(error),
        hint="an unexpected error: run again with --debug for the traceback, and report it",
        retry=True,
    )


def _lacked_memory(error: BaseException) -> bool:
    """Whether memory did not suffice: it says so, or what it was raised from does."""
    link: BaseException | None = error
    while link is not None and not is_out_of_memory(link):
        link = link.__cause__
    return link is not None


def _may_be_whole_again(error: InputError, workspace: Path | None) -> bool:
    """Whether the error is about a file of wsipipe in the workspace, which a later run may make again.

    Made again with equal bytes, the file has its old digest, so the digest does not show that trying again may help.
    """
    if workspace is None or error.path is None or not isinstance(error, StoreError | BundleError):
        return False
    # A file that does not exist could not be written (features that are not finite): made again, it fails again.
    return Path(error.path).is_relative_to(workspace) and Path(error.path).exists()


_OF_A_DEVICE: Final = re.compile(
    r"\b(CUDA|HIP)( driver| unknown)? error|\bcuDNN error|\bCU(DNN|BLAS|SOLVER|FFT|SPARSE)_STATUS_|Triton Error \[",
    re.IGNORECASE,
)
"""How torch's messages begin when a GPU has failed. After most of these nothing runs on it in that process any more."""


def device_error(error: BaseException) -> DeviceError | None:
    """The error as a :class:`DeviceError`, if the device caused it; the process cannot use the device any more."""
    if isinstance(error, DeviceError):
        return error
    if is_out_of_memory(error):  # there a smaller batch helps, and the GPU goes on
        return None
    if type(error).__name__ == "AcceleratorError" or (
        isinstance(error, RuntimeError) and _OF_A_DEVICE.search(str(error))
    ):
        first_line = str(error).partition("\n")[0]
        return DeviceError(
            f"the GPU failed: {first_line}",
            hint="check it with nvidia-smi, then run the same command again: finished items are kept",
        )
    return None


def no_device_left(error: Exception) -> SurroundingsError:
    """The error of items that are not tried because the last device has failed."""
    return SurroundingsError(f"not tried, because no device is left: {error}", hint=getattr(error, "hint", ""))
