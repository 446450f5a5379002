"""Training that starts from the weights of another training, as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from command import told, wsipipe
from planted_workspace import WIDTH, Planted
from safetensors.torch import load_file, save_file
from trained_workspace import bundle_facts, trained_workspace

HIDDEN, ATTENTION = 16, 24


@pytest.fixture
def mine(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Planted:
    return trained_workspace(tmp_path_factory.getbasetemp()).copied(tmp_path / "planted")


def feather(path: Path, width: int, seed: int = 0) -> Path:
    """Random weights in the names of FEATHER."""
    draw = torch.Generator().manual_seed(seed)
    shapes = {
        "patch_embed.0": (HIDDEN, width),
        "global_attn.attention_a.0": (ATTENTION, HIDDEN),
        "global_attn.attention_b.0": (ATTENTION, HIDDEN),
        "global_attn.attention_c": (1, ATTENTION),
        "classifier": (108, HIDDEN),
    }
    tensors = {f"model.{name}.weight": 0.3 * torch.randn(shape, generator=draw) for name, shape in shapes.items()}
    save_file(tensors | {f"model.{name}.bias": torch.zeros(shape[0]) for name, shape in shapes.items()}, path)
    return path


def trained(mine: Planted, name: str, *words: object) -> dict[str, torch.Tensor]:
    flags = ["--name", name, "--label-column", "er", "--method", "abmil", "--epochs", 2]
    told("train", "-c", mine.settings, *flags, *words)
    return load_file(mine.workspace / f"models/{name}/fold-0/model.safetensors")


def test_frozen_weights_stay_and_others_move(mine: Planted, tmp_path: Path) -> None:
    file = feather(tmp_path / "feather.safetensors", WIDTH)
    given = load_file(file)["model.patch_embed.0.weight"]
    start = ["--init", file, "--init-backbone", "efficientnet-lite0"]
    frozen, moved = trained(mine, "frozen", *start, "--freeze"), trained(mine, "moved", *start)
    assert torch.equal(frozen["embedding.0.weight"], given)
    assert not torch.equal(moved["embedding.0.weight"], given)
    likeness = torch.cosine_similarity(moved["embedding.0.weight"].flatten(), given.flatten(), dim=0)
    assert likeness > 0.95  # of two random ones it is 0 ± 0.06
    assert frozen["attention.V.weight"].shape == (ATTENTION, HIDDEN)
    assert not torch.equal(
        frozen["head.weight"], trained(mine, "again", *start, "--freeze", "--seed", 1)["head.weight"]
    )
    facts = bundle_facts(mine.workspace / "models/frozen")
    assert facts["training"]["settings"]["init_backbone"] == "efficientnet-lite0"
    assert "feather.safetensors" not in json.dumps(facts)  # no file of this machine

    feather(file, WIDTH, seed=1)  # other weights under the same name
    result = wsipipe("train", "-c", mine.settings, "--name", "moved", "--label-column", "er", "--method", "abmil",
                     "--epochs", 2, *start)  # fmt: skip
    assert result.exit_code == 2
    assert "init" in result.output
    assert "--replace" in result.output


REFUSED = {
    "the backbone of its features is not said": ([], "init needs init_backbone"),
    "features of another backbone": (["--init-backbone", "uni2-h"], "features of uni2-h"),
    "another width": (["--init-backbone", "efficientnet-lite0", "--hidden", "32"], "leave --hidden out"),
    "a method without it": (["--init-backbone", "efficientnet-lite0", "--method", "momkd"], "momkd cannot start"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_start_that_does_not_fit_is_refused(mine: Planted, tmp_path: Path, case: str) -> None:
    words, message = REFUSED[case]
    file = feather(tmp_path / "feather.safetensors", WIDTH)
    flags = ["--name", "x", "--label-column", "er", "--method", "abmil", "--init", file]
    result = wsipipe("train", "-c", mine.settings, *flags, *words)
    assert result.exit_code in (1, 2)
    assert message in " ".join(result.output.replace("│", " ").split())


def test_features_of_another_width_are_refused(mine: Planted, tmp_path: Path) -> None:
    file = feather(tmp_path / "feather.safetensors", WIDTH + 1)
    flags = ["--name", "x", "--label-column", "er", "--method", "abmil", "--init", file]
    result = wsipipe("train", "-c", mine.settings, *flags, "--init-backbone", "efficientnet-lite0")
    assert result.exit_code == 1
    assert "features of init_backbone are needed" in " ".join(result.output.replace("│", " ").split())


def test_a_comparison_has_both_beginnings(mine: Planted, tmp_path: Path) -> None:
    file = feather(tmp_path / "feather.safetensors", WIDTH)
    start = ["--init", file, "--init-backbone", "efficientnet-lite0"]
    flags = ["--name", "er", "--epochs", 2, "--methods", "abmil,abmil+init"]
    told("compare", "-c", mine.settings, *flags, *start, "--replace")
    [table] = (mine.workspace / "comparisons/er").glob("comparison.csv")
    assert "ABMIL from feather.safetensors" in table.read_text()
    page = (mine.workspace / "comparisons/er/comparison.html").read_text()
    assert page.index("ABMIL from feather.safetensors") < (page + "Controls").index("Controls")
