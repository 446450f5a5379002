"""A fit that is killed goes on to the same numbers, and a damaged state is dropped."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_fits import cohort, config, model_of, same
from wsipipe.models.mil.momkd import MoMKD
from wsipipe.models.training.fit import Epoch, Fit, FitSettings, fit


class KilledError(Exception):
    """Stands for the power cut; by then the epoch's state is on the disk."""


@dataclass
class Power:
    """Tells epochs, and fails after one of them."""

    until: int
    told: list[Epoch] = field(default_factory=list)

    def __call__(self, epoch: Epoch) -> None:
        self.told.append(epoch)
        if epoch.epoch == self.until:
            raise KilledError


LONG = FitSettings(epochs=9, patience=9, learning_rate=2e-3, seed=4)
"""Long enough for the learning rate to have fallen by the end."""


@pytest.mark.parametrize(
    ("memory", "kills", "together"),
    [("gradient", range(9), 1), ("momentum", [0, 7], 1), ("gradient", [3], 3)],
    ids=["gradient", "momentum", "three bags a step"],
)
def test_a_killed_fit_goes_on_to_the_same_numbers(
    tmp_path: Path, memory: str, kills: Iterable[int], together: int
) -> None:
    train, validation = cohort(0, 5), cohort(100, 4)
    settings = replace(LONG, bags_per_step=together)

    def keep(epoch: Epoch) -> None:
        """What a kill after this epoch would leave."""
        shutil.copy(tmp_path / "state.pt", tmp_path / f"{epoch.epoch}.pt")

    undisturbed = fit(model_of(memory=memory), train, validation, settings, resume=tmp_path / "state.pt", tell=keep)
    rates = {epoch.learning_rate for epoch in undisturbed.history}
    assert len(rates) > 1 or together > 1
    for until in kills:
        file = tmp_path / f"{until}.pt"
        torch.manual_seed(99)  # another process starts with other random numbers, and another start
        model = MoMKD(config(memory=memory))
        told: list[Epoch] = []
        resumed = fit(model, train, validation, settings, resume=file, tell=told.append)
        assert not model.training
        assert same(resumed, undisturbed), f"killed after epoch {until}"
        assert told == undisturbed.history
        assert all(torch.equal(tensor, undisturbed.state[name]) for name, tensor in model.state_dict().items())


def test_a_fit_killed_after_every_epoch(tmp_path: Path) -> None:
    train, validation = cohort(0, 6), cohort(100, 4)
    short = FitSettings(epochs=4)
    for until in range(short.epochs):
        with pytest.raises(KilledError):
            fit(model_of(), train, validation, short, resume=tmp_path / "state.pt", tell=Power(until))
    resumed = fit(model_of(), train, validation, short, resume=tmp_path / "state.pt")
    assert same(resumed, fit(model_of(), train, validation, short))
    assert [file.name for file in tmp_path.iterdir()] == ["state.pt"]


class Runs:
    """What pickle would run."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch ran",)


def content_of(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(file, weights_only=True)
    return content


def changed(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = content_of(file)
    change(content)
    torch.save(content, file)


def with_a_bit_flipped(file: Path) -> None:
    """In the middle of the largest tensor, where PyTorch itself does not notice it."""
    whole = bytearray(file.read_bytes())
    slots = content_of(file)["model"]["memory.slots"].numpy().tobytes()
    whole[whole.index(slots) + len(slots) // 2] ^= 1
    file.write_bytes(whole)
    assert content_of(file)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "torn": lambda file: file.write_bytes(file.read_bytes()[:-1000]),
    "empty": lambda file: file.write_bytes(b""),
    "text": lambda file: file.write_text("hello"),
    "a folder": lambda file: (file.unlink(), file.mkdir()),
    "a bit flipped": with_a_bit_flipped,
    "a stranger's": lambda file: torch.save({"model": Runs()}, file),
    "a list": lambda file: torch.save([1, 2], file),
    "no schedule": lambda file: changed(file, lambda c: c.pop("schedule")),
    "another network": lambda file: changed(file, lambda c: c["model"].update(x=torch.ones(1))),
    "other shapes": lambda file: changed(file, lambda c: c["model"].update({"memory.slots": torch.ones(2, 3, 4)})),
    "another best network": lambda file: changed(file, lambda c: c["best"].pop("log_tau")),
    "a sparse tensor": lambda file: changed(
        file, lambda c: c["best"].update({"head.4.bias": c["best"]["head.4.bias"].to_sparse()})
    ),
    "moments of other shapes": lambda file: changed(
        file, lambda c: c["optimiser"]["state"][0].update(exp_avg=torch.ones(7))
    ),
    "a text for a rate": lambda file: changed(file, lambda c: c["optimiser"]["param_groups"][0].update(lr="fast")),
    "a schedule that steps no more": lambda file: changed(file, lambda c: c["schedule"].update(step=3)),
    "a schedule of losses": lambda file: changed(file, lambda c: c["schedule"].update(mode="min")),
    "a best epoch that is none": lambda file: changed(file, lambda c: c.update(best_epoch=17)),
    "a history of numbers": lambda file: changed(file, lambda c: c.update(history=[1, 2])),
    "an epoch lost": lambda file: changed(file, lambda c: c["history"].pop(0)),
}


TWO_EPOCHS = FitSettings(epochs=2, learning_rate=2e-3)


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, Fit]:
    """The state that a fit leaves which is killed after its first epoch, and the same fit undisturbed."""
    train, validation, file = cohort(0, 3), cohort(100, 2), tmp_path_factory.mktemp("partial") / "state.pt"
    with pytest.raises(KilledError):
        fit(model_of(), train, validation, TWO_EPOCHS, resume=file, tell=Power(0))
    return file.read_bytes(), fit(model_of(), train, validation, TWO_EPOCHS)


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_state_is_dropped_and_the_fit_begins_anew(
    tmp_path: Path, interrupted: tuple[bytes, Fit], damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    train, validation, file, settings = cohort(0, 3), cohort(100, 2), tmp_path / "state.pt", TWO_EPOCHS
    file.write_bytes(interrupted[0])
    DAMAGE[damage](file)
    told: list[Epoch] = []
    with pytest.warns(UserWarning, match=r"state.pt: dropped the state of an interrupted training"):
        resumed = fit(model_of(), train, validation, settings, resume=file, tell=told.append)
    assert not (tmp_path / "ran").exists()
    assert same(resumed, interrupted[1])
    assert [epoch.epoch for epoch in told] == [0, 1]
    assert same(fit(model_of(), train, validation, settings, resume=file), resumed)  # the new state is whole
