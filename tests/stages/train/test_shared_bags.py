"""Training with little memory for bags: the same models to the last byte, and nothing left of the scratch file."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from command import told, wsipipe
from own_process import SignalWhen, ran
from planted_workspace import WIDTH, Planted
from safetensors.torch import save_file
from task_workspace import RECEPTORS, Asked, of_classes, of_receptors, plant_task
from trained_workspace import bundle_files, trained_workspace
from wsipipe.data.errors import SurroundingsError, UsageError
from wsipipe.pipeline.console import Console
from wsipipe.pipeline.run.runner import Runner
from wsipipe.stages.stage import Item, Outcome, Progress, Silence
from wsipipe.stages.train.shared_bags import Budget
from wsipipe.stages.train.stage import TrainStage

SCRATCH = ".partial-bags-*"
FEW = 9000
"""Bytes: three or four of the planted slides."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    return trained_workspace(tmp_path_factory.getbasetemp())


@pytest.fixture
def mine(trained: Planted, tmp_path: Path) -> Planted:
    return trained.copied(tmp_path / "planted")


def models_of(planted: Planted, folder: Path, **train: Any) -> dict[str, dict[str, bytes]]:
    """The bundles of all folds and what cross-validation says of them, to the last byte."""
    stage = planted.trainer(folder, **train)
    ran = planted.runner().run(stage)
    assert not ran.failures, ran.failures
    as_needed = "read as needed, from a scratch file" in " ".join(ran.notes)
    assert as_needed == (train["bag_memory"] == FEW)
    planted.evaluation(folder)
    assert not list(folder.glob(".partial*"))
    bundles = {path.name: bundle_files(path) for path in sorted(folder.glob("fold-*"))}
    names = ("metrics.json", "oof_predictions.csv", "applicability.json")
    return bundles | {"": {path.name: path.read_bytes() for path in folder.rglob("*") if path.name in names}}


def same_either_way(planted: Planted, **train: Any) -> None:
    kept = models_of(planted, planted.workspace / "models/kept", bag_memory=10**9, **train)
    read = models_of(planted, planted.workspace / "models/read", bag_memory=FEW, **train)
    assert len(kept) == 3
    assert kept.keys() == read.keys()
    for name, files in kept.items():
        assert files.keys() == read[name].keys()
        assert [file for file in files if files[file] != read[name][file]] == [], name


@pytest.mark.parametrize(
    "train",
    [
        {"method": "momkd", "soft_targets": True, "bags_per_step": 3, "memory": "momentum"},
        {"method": "abmil", "nested": ["learning_rate=1e-3,3e-3"], "epochs": 1},
    ],
    ids=["several slides a step", "settings chosen inside the fold"],
)
def test_a_training_is_the_same_either_way(mine: Planted, train: dict[str, Any]) -> None:
    same_either_way(mine, **{"epochs": 2, **train})


def test_a_start_from_other_weights_is_the_same_either_way(mine: Planted, tmp_path: Path) -> None:
    draw = torch.Generator().manual_seed(0)
    sizes = {"patch_embed.0": (16, WIDTH), "global_attn.attention_a.0": (8, 16), "global_attn.attention_b.0": (8, 16)}
    sizes |= {"global_attn.attention_c": (1, 8), "classifier": (2, 16)}
    tensors = {f"model.{name}.weight": 0.3 * torch.randn(size, generator=draw) for name, size in sizes.items()}
    file = tmp_path / "start.safetensors"
    save_file(tensors | {f"model.{name}.bias": torch.zeros(size[0]) for name, size in sizes.items()}, file)
    start = {"init": file, "init_backbone": "efficientnet-lite0", "freeze": True}
    same_either_way(mine, method="abmil", epochs=2, **start)


def follow_ups() -> list[Asked]:
    return [Asked({"months": f"{1 + n * 7 % 23}", "died": str(int(n % 3 > 0))}, 3 - n * 7 % 23 / 8) for n in range(24)]


TASKS: dict[str, tuple[Callable[[], list[Asked]], str, dict[str, Any]]] = {
    "multiclass": (
        lambda: of_classes(["a", "b", "c"], 8),
        'label_column = "grade"\ntask = "multiclass"\nclasses = ["a", "b", "c"]',
        {"method": "momkd"},
    ),
    "cox": (
        follow_ups,
        'task = "survival"\ntime_column = "months"\nevent_column = "died"\nloss = "cox"\nhorizons = [9]',
        {"method": "abmil", "bags_per_step": 4},
    ),
    "multitask": (of_receptors, RECEPTORS.replace("        ", ""), {"method": "abmil"}),
}


@pytest.mark.parametrize("task", TASKS)
def test_tasks_are_the_same_either_way(tmp_path: Path, task: str) -> None:
    asked, question, train = TASKS[task]
    name = "receptors" if task == "multitask" else "er"
    planted = plant_task(tmp_path / "planted", asked(), question, rna=train["method"] == "momkd")
    words = ["train", "-c", planted.settings, "--name", name, "--epochs", 1]
    words += [word for key, value in train.items() for word in (f"--{key.replace('_', '-')}", value)]
    results = []
    for memory in ("1GB", f"{FEW}B"):
        told(*words, "--bag-memory", memory)
        folder = planted.workspace / "models" / name
        files = [path for path in sorted(folder.rglob("*")) if path.suffix in (".safetensors", ".csv")]
        files = [path for path in files if path.name != "methods.csv"]  # which says when
        files += [
            *folder.glob("fold-*/bundle.json"),
            *folder.rglob("metrics.json"),
            *folder.rglob("applicability.json"),
        ]
        results.append({path: path.read_bytes() for path in files})
        shutil.rmtree(folder)
    kept, read = results
    assert len(kept) >= 6
    assert kept == read


def test_folds_side_by_side_share_a_file_and_are_the_same(trained: Planted, mine: Planted) -> None:
    shutil.rmtree(mine.model / "fold-0")
    shutil.rmtree(mine.model / "fold-1")
    result = wsipipe("train", "-c", mine.settings, "--device", "cpu,cpu", "--bag-memory", f"{4 * FEW}B")
    assert result.exit_code == 0, result.output
    assert result.output.count("read as needed, from a scratch file") == 1
    for fold in ("fold-0", "fold-1"):
        assert bundle_files(mine.model / fold) == bundle_files(trained.model / fold)
    assert not list(mine.model.glob(".partial*"))


def test_a_setting_of_the_machine_trains_nothing_again(mine: Planted) -> None:
    assert told("train", "-c", mine.settings, "--bag-memory", "9kB")["train"]["before"] == 2
    assert "bag_memory" not in (mine.model / "manifest.jsonl").read_text()


def test_killed_in_training_it_leaves_nothing_to_the_next_run(trained: Planted, mine: Planted) -> None:
    shutil.rmtree(mine.model)
    words = ["train", "-c", mine.settings, "--bag-memory", f"{FEW}B"]
    killed = SignalWhen(mine.model, "partial/*/state.pt")
    assert ran(*words, disturbed=(killed,)).code == -signal.SIGKILL
    assert len(list(mine.model.glob(SCRATCH))) == 1
    assert wsipipe(*words).exit_code == 0
    assert not list(mine.model.glob(SCRATCH))
    for fold in ("fold-0", "fold-1"):
        assert bundle_files(mine.model / fold) == bundle_files(trained.model / fold)


class Loses(TrainStage):
    """Its scratch file is gone when a fold begins."""

    def process(self, item: Item, progress: Progress) -> Outcome:
        for file in self.folder.glob(SCRATCH):
            file.unlink()
        return super().process(item, progress)


class Changes(TrainStage):
    """Its scratch file is another when a fold begins."""

    def process(self, item: Item, progress: Progress) -> Outcome:
        for file in self.folder.glob(SCRATCH):
            file.write_bytes(bytes(file.stat().st_size))
        return super().process(item, progress)


@pytest.mark.parametrize(("kind", "what"), [(Loses, "could not be read"), (Changes, "was changed or damaged")])
def test_a_bag_that_is_lost_in_training_fails_the_fold_and_is_named(
    mine: Planted, kind: type[TrainStage], what: str
) -> None:
    folder = mine.workspace / "models/lost"
    done = mine.runner().run(mine.trainer(folder, kind=kind, method="abmil", bag_memory=FEW))
    assert len(done.failures) == 2
    for failure in done.failures:
        assert f"the bag of slide S{failure.message.partition('slide S')[2][:2]}" in failure.message
        assert what in failure.message
        assert failure.retry
    assert not list(folder.glob(".partial-bags*"))
    assert not mine.runner().run(mine.trainer(folder, method="abmil", bag_memory=FEW)).failures


def test_a_damaged_store_fails_only_the_folds_that_need_it(mine: Planted) -> None:
    folder, patient = mine.workspace / "models/damaged", mine.patients[0]
    stage = mine.trainer(folder, method="abmil", bag_memory=FEW)
    needing = [item.id for item in stage.plan().items if next(iter(patient.slides)) in item.payload.slides]
    assert len(needing) == 1
    for part in mine.store(next(iter(patient.slides))).glob("features/c/0/0"):
        content = bytearray(part.read_bytes())
        content[5] ^= 1
        part.write_bytes(content)
    done = mine.runner().run(stage)
    assert [failure.item for failure in done.failures] == needing
    assert "is damaged or not a feature store" in done.failures[0].message
    assert done.done == 1


def test_a_disk_without_room_is_said_before_anything_is_written(mine: Planted, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = mine.workspace / "models/full"
    used = shutil.disk_usage(mine.folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: used._replace(free=20_000))
    with pytest.raises(
        SurroundingsError, match=r"needs \d\d(\.\d)? kB here for a scratch file.*20 kB are free"
    ) as caught:
        mine.runner().run(mine.trainer(folder, bag_memory=FEW))
    assert "--bag-memory 1GB" in caught.value.hint
    assert not list(folder.glob(".partial*"))
    assert not mine.runner().run(mine.trainer(folder, bag_memory=10**9, epochs=1)).failures  # the way out


def test_a_fold_on_another_machine_has_a_file_of_its_own(mine: Planted, trained: Planted) -> None:
    folder = mine.workspace / "models/elsewhere"
    stage = mine.trainer(folder, bag_memory=FEW).for_worker("cpu", 1)
    for item in stage.plan().items:
        stage.process(item, Silence())
        assert bundle_files(folder / item.id) == bundle_files(trained.model / item.id)
        assert not list(folder.glob(SCRATCH))


def test_the_scratch_file_may_lie_on_a_local_disk(
    mine: Planted, trained: Planted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, place = mine.workspace / "models/local-disk", tmp_path / "scratch"
    stage = mine.trainer(folder, bag_memory=FEW)
    process, seen = stage.process, list[str]()

    def watched(item: Item, progress: Progress) -> Outcome:
        seen.extend(path.name for path in place.glob("wsipipe-*/bags"))
        assert not list(folder.glob(SCRATCH))
        return process(item, progress)

    monkeypatch.setattr(stage, "process", watched)
    assert not Runner(mine.workspace, Console(json_only=True), stage_to=place).run(stage).failures
    assert seen == ["bags"] * 2
    assert not list(place.iterdir())
    for fold in ("fold-0", "fold-1"):
        assert bundle_files(folder / fold) == bundle_files(trained.model / fold)
    elsewhere = mine.trainer(folder, bag_memory=FEW).for_worker("cpu", 1)
    elsewhere.scratch_place = tmp_path / "a file"
    elsewhere.scratch_place.write_text("")
    with pytest.raises((SurroundingsError, OSError), match="a file"):
        elsewhere.process(stage.plan().items[0], Silence())


def budget(asked: int | None, processes: int = 1, step: int = 1, share: float = 1.0) -> Budget:
    return Budget(asked, processes, share, step)


SIZES = {"A": 40, "B": 100, "C": 60}


def test_what_fits_stays_in_memory() -> None:
    assert budget(200).holds(SIZES)
    assert not budget(199).holds(SIZES)
    assert not budget(10**6, processes=2).holds(SIZES)  # they share a copy
    assert budget(None).holds(SIZES)
    assert budget(1).holds({})


def test_the_default_is_half_of_what_may_be_used() -> None:
    whole, half = budget(None).bytes, budget(None, share=0.5).bytes
    assert whole is not None
    assert half is not None
    assert half < 0.7 * whole  # what is available changes in between
    assert budget(7, share=0.5).bytes == 7


@pytest.mark.parametrize(
    ("asked", "processes", "step", "words"),
    [
        (99, 1, 1, ["slide B needs 100 bytes", "--bag-memory 1MB or more"]),
        (199, 2, 1, ["in each of 2 processes", "fewer devices"]),
        (399, 1, 4, ["for each of 4 slides of a step", "fewer --bags-per-step"]),
    ],
)
def test_a_budget_that_does_not_hold_the_largest_bag_is_refused(
    asked: int, processes: int, step: int, words: list[str]
) -> None:
    sizes = {**SIZES, **{f"D{n}": 30 for n in range(20)}}
    assert not budget(asked + 1, processes, step).holds(sizes)
    with pytest.raises(UsageError, match="cannot hold the largest bag") as caught:
        budget(asked, processes, step).holds(sizes)
    for word in words:
        assert word in f"{caught.value} {caught.value.hint}"


@pytest.mark.parametrize(
    ("memory", "message"), [("100B", "cannot hold the largest bag"), ("much", "bag_memory"), ("0", "bag_memory")]
)
def test_the_command_refuses_too_little(mine: Planted, memory: str, message: str) -> None:
    result = wsipipe("train", "-c", mine.settings, "--replace", "--seed", 1, "--bag-memory", memory)
    assert result.exit_code == 2
    assert message in " ".join(result.output.replace("│", " ").split())
