"""Learning curves for TensorBoard (the extra ``tensorboard``)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ...data.artifact import remove
from ...data.errors import UsageError
from ...data.workspace import refuse_to_leave
from ...models.training.fit import Epoch


@contextmanager
def tensorboard_curves(folder: Path) -> Iterator[Callable[[Epoch], None]]:
    """Provide a function that writes each epoch at once; curves of an earlier attempt are replaced.

    :raises UsageError: the package tensorboard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        hint = "pip install 'wsipipe-momkd[tensorboard]', or leave --tensorboard out"
        raise UsageError("--tensorboard needs the package tensorboard", hint=hint) from error
    remove(folder)
    refuse_to_leave(folder / "curves")
    with SummaryWriter(str(folder)) as writer:

        def write(epoch: Epoch) -> None:
            curves = {f"loss/{name}": value for name, value in epoch.losses.items()}
            curves |= {**epoch.figures, "validation/loss": epoch.validation_loss, "learning_rate": epoch.learning_rate}
            for name, value in (("auc", epoch.validation_auc), ("rank correlation", epoch.validation_rank)):
                if value is not None:
                    curves[f"validation/{name}"] = value
            for name, value in curves.items():
                writer.add_scalar(name, value, epoch.epoch)
            writer.flush()

        yield write
