"""How well our networks read real bags of other people's: Musk1 and UCSB breast cancer, against published figures.

    python tests/benchmarks/mil_bags.py --repeats 5 --methods mean abmil clam evidence
    python tests/benchmarks/mil_bags.py --repeats 5 --sets musk1 --methods abmil published --plain

Musk1: 92 molecules, each a bag of 2 to 40 shapes × 166 (Dietterich, Lathrop, Lozano-Pérez 1997). UCSB: 58 H&E images,
benign or malignant, each a bag of 21 to 40 patches × 708 (Kandemir, Zhang, Hamprecht 2014). Nothing but bags and
labels: no RNA, and no places. Where a network wants a graph, a tile's neighbours are its nearest in feature space
(Euclidean, of standardised features), min(8, P − 1) of them; TransMIL takes the order of the file.

Ten folds by bag, stratified, drawn anew in each repeat and the same for all methods. A share of each training part
validates, stratified, for early stopping and the choice of the epoch; features are standardised by the rest of it. The
networks have the sizes that ``wsipipe train`` gives them; nothing is tuned here. A row gives the mean over the repeats
and the standard deviation between them, over all bags, each read by the fold that did not train on it: accuracy at
probability 0.5, accuracy at the threshold that the validating bags chose as ``wsipipe train`` does, and AUC, of one
ranking by the logits of ten models.

``--plain`` trains as Ilse et al. did, as far as we know it: Adam, every bag of the nine folds once an epoch in random
order, 100 epochs at a learning rate of 5e-4 with an L2 penalty of 5e-3. Nothing is withheld, so nothing chooses an
epoch or a threshold, and the last epoch's network reads; how they used validation bags to stop we do not know.
``published`` is their network: with the same folds and training it tells a fault of our ABMIL from one of the recipe.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from scipy.special import expit
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, train_test_split
from torch import nn
from wsipipe.models.evaluation.metrics import youden_threshold
from wsipipe.models.mil.abmil import ABMIL, ABMILConfig
from wsipipe.models.mil.bag_tensors import BagBatch, BagTensors, Patient
from wsipipe.models.mil.clam import CLAM, CLAMConfig
from wsipipe.models.mil.evidence_memory import EvidenceMemory, EvidenceMemoryConfig
from wsipipe.models.mil.feature_matching import FeatureMatching, FeatureMatchingConfig
from wsipipe.models.mil.mean_pooling import MeanPooling, MeanPoolingConfig
from wsipipe.models.mil.momkd import MoMKD, preset
from wsipipe.models.mil.network import Losses, NetworkConfig, NetworkOutput, SlideNetwork, Targets
from wsipipe.models.mil.transmil import TransMIL, TransMILConfig
from wsipipe.models.training.fit import FitSettings, fit, patient_scores
from wsipipe.models.training.logistic import fit_mean

FOLDS = 10
NEIGHBOURS = 8
DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "bags"

PUBLISHED = {
    "musk1": [
        ("attention", "accuracy", 0.892, 0.040, "Ilse, Tomczak, Welling 2018, table 1"),
        ("gated attention", "accuracy", 0.900, 0.050, "Ilse, Tomczak, Welling 2018, table 1"),
    ],
    "ucsb_breast_cancer": [
        ("Hopfield pooling", "AUC", 0.895, 0.008, "Ramsauer et al. 2021, table 1"),
        ("path encoding", "AUC", 0.880, 0.022, "Küçükaşcı, Baydoğan 2018, after Ramsauer et al."),
        ("MILES", "AUC", 0.833, 0.026, "Küçükaşcı, Baydoğan 2018, after Ramsauer et al."),
        ("Citation-kNN", "AUC", 0.706, 0.032, "Küçükaşcı, Baydoğan 2018, after Ramsauer et al."),
    ],
}
"""Mean and spread as published, of ten-fold cross-validation. We know of no published ABMIL on this UCSB set."""


class Published(SlideNetwork):
    """The network of Ilse et al. for the classical sets, gated, as far as we know it; it shares nothing with our ABMIL.

    Layers of 256, 128 and 64, a learning rate of 5e-4 and a penalty of 5e-3 are in the code of Wang et al. 2018
    (Revisiting multiple instance neural networks) too. Dropout of 0.5 after each layer is our guess. One bag at a time.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__(config)
        widths = (config.in_features, 256, 128, 64)
        layers = [[nn.Linear(a, b), nn.ReLU(), nn.Dropout(0.5)] for a, b in pairwise(widths)]
        self.layers = nn.Sequential(*[part for layer in layers for part in layer])
        self.content, self.gate, self.weight, self.head = (nn.Linear(64, to) for to in (64, 64, 1, 1))
        for linear in (part for part in self.modules() if isinstance(part, nn.Linear)):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, bags: BagBatch) -> NetworkOutput:
        h = self.layers(bags.x)
        a = self.weight(torch.tanh(self.content(h)) * torch.sigmoid(self.gate(h))).softmax(dim=0)
        log_odds = self.head((a * h).sum(dim=0, keepdim=True))
        return NetworkOutput(torch.cat([-log_odds / 2, log_odds / 2], dim=1), a[:, 0], self.head(h)[:, 0])

    def loss(self, output: Any, targets: Targets) -> Losses:
        task = self.task.loss(output.logits, targets.values)
        return Losses({"task": task}, task)


METHODS: dict[str, Callable[[int], SlideNetwork]] = {
    "mean": lambda width: MeanPooling(MeanPoolingConfig(in_features=width)),
    "abmil": lambda width: ABMIL(ABMILConfig(in_features=width)),
    "published": lambda width: Published(NetworkConfig(in_features=width)),
    "clam": lambda width: CLAM(CLAMConfig(in_features=width)),
    "transmil": lambda width: TransMIL(TransMILConfig(in_features=width)),
    "evidence": lambda width: EvidenceMemory(EvidenceMemoryConfig(in_features=width)),
    "matching": lambda width: FeatureMatching(FeatureMatchingConfig(in_features=width)),
    "momkd": lambda width: MoMKD(preset("standard", width, 0)),
}

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class RawBags:
    """A data set as published, features not yet standardised."""

    features: list[Floats]
    """(P, D) each."""
    labels: NDArray[np.int64]

    @classmethod
    def read(cls, file: Path) -> RawBags:
        """Rows are label, bag, features; no header."""
        table = np.loadtxt(file, delimiter=",")
        bags = [table[table[:, 1] == bag] for bag in np.unique(table[:, 1])]
        return cls([bag[:, 2:] for bag in bags], np.array([int(bag[:, 0].max()) for bag in bags]))

    def standardised(self, by: NDArray[np.int64]) -> list[Patient]:
        """All bags, by mean and standard deviation of the instances of the bags ``by``."""
        known = np.concatenate([self.features[i] for i in by])
        centre, scale = known.mean(axis=0), known.std(axis=0)
        scale[scale == 0] = 1
        patients = []
        for i, (features, label) in enumerate(zip(self.features, self.labels, strict=True)):
            x = (features - centre) / scale
            bag = BagTensors(str(i), torch.from_numpy(x.astype(np.float32)), nearest(x))
            patients.append(Patient(str(i), int(label), [bag]))
        return patients


def nearest(x: Floats) -> torch.Tensor:
    """Edges (2, E) from each instance to its nearest in feature space; one alone has its self-loop."""
    k = min(NEIGHBOURS, len(x) - 1)
    if k == 0:
        return torch.zeros((2, 1), dtype=torch.int32)
    _, found = cKDTree(x).query(x, k=k + 1)
    targets = [[j for j in row if j != i][:k] for i, row in enumerate(found.tolist())]
    return torch.tensor([np.repeat(np.arange(len(x)), k).tolist(), np.ravel(targets).tolist()], dtype=torch.int32)


def splits(labels: NDArray[np.int64], seed: int, share: float) -> Iterator[tuple[NDArray[np.int64], ...]]:
    """Training, validation and test bags of each fold."""
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    for known, test in folds.split(labels, labels):
        train, validation = train_test_split(known, test_size=share, stratify=labels[known], random_state=seed)
        yield train, validation, test


def fit_plain(network: SlideNetwork, train: Sequence[Patient], settings: FitSettings) -> None:
    """Adam on every bag once an epoch, to the last epoch."""
    torch.manual_seed(settings.seed)
    network.init_memory(train, torch.Generator().manual_seed(settings.seed))
    decay = settings.weight_decay  # of Adam, a penalty in the loss; our own recipe has AdamW's
    optimiser = torch.optim.Adam(network.parameters(), lr=settings.learning_rate, weight_decay=decay, fused=True)
    network.train()
    for _ in range(settings.epochs):
        for i in torch.randperm(len(train)).tolist():
            output, targets = network(BagBatch.of(train[i].bags)), Targets.of([train[i]])
            optimiser.zero_grad()
            network.loss(output, targets).total.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            network.update_memory(output, targets)


def one_repeat(task: tuple[str, Path, int, argparse.Namespace]) -> tuple[float, float, float, float]:
    """Accuracy at 0.5 and at the chosen thresholds (NaN where nothing chose), AUC and seconds, on one draw of folds."""
    method, file, seed, asked = task
    torch.set_num_threads(1)
    began = time.monotonic()
    raw = RawBags.read(file)
    logits, thresholds = np.full(len(raw.labels), np.nan), np.full(len(raw.labels), np.nan)
    for fold, (train, validation, test) in enumerate(splits(raw.labels, seed, asked.validation)):
        patients = raw.standardised(np.concatenate([train, validation]) if asked.plain else train)
        how = settings(asked, seed=100 * seed + fold)
        torch.manual_seed(how.seed)
        network = METHODS[method](raw.features[0].shape[1])
        parts = [[patients[i] for i in part] for part in (train, validation, test)]
        if asked.plain:
            fit_plain(network, parts[0] + parts[1], how)
        else:
            (fit_mean if isinstance(network, MeanPooling) else fit)(network, parts[0], parts[1], how)
            probabilities = expit(list(patient_scores(network, parts[1]).values()))
            thresholds[test] = youden_threshold(raw.labels[validation], probabilities) or 0.5
        logits[test] = list(patient_scores(network, parts[2]).values())
    positive = raw.labels == 1
    accuracy = float(np.mean((logits >= 0) == positive))
    chosen = float("nan") if asked.plain else float(np.mean((expit(logits) >= thresholds) == positive))
    return accuracy, chosen, float(roc_auc_score(raw.labels, logits)), time.monotonic() - began


def settings(asked: argparse.Namespace, seed: int) -> FitSettings:
    """What was asked, else what the recipe is known by."""
    recipe = FitSettings(learning_rate=5e-4, weight_decay=5e-3) if asked.plain else FitSettings()
    names = ("epochs", "patience", "learning_rate", "weight_decay")
    return replace(recipe, seed=seed, **{n: getattr(asked, n) for n in names if getattr(asked, n) is not None})


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation."""
    if np.isnan(values).any():
        return "–"
    return f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else f"{values[0]:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--sets", nargs="+", choices=list(PUBLISHED), default=list(PUBLISHED))
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--validation", type=float, default=0.2, help="share of a training part that validates")
    parser.add_argument("--plain", action="store_true", help="train as Ilse et al. did; see above")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--patience", type=int, help="without --plain")
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--weight-decay", type=float)
    parser.add_argument("--processes", type=int, default=1)
    asked = parser.parse_args()
    if asked.plain and "mean" in asked.methods:
        parser.error("mean pooling is not trained by steps: leave it out of --methods with --plain")
    columns = ["set", "method", "accuracy at 0.5", "at the chosen threshold", "AUC", "seconds a repeat"]
    lines = ["| " + " | ".join(columns) + " |", "| --- " * len(columns) + "|"]
    with ProcessPoolExecutor(asked.processes) as pool:
        for name in asked.sets:
            for method in asked.methods:
                tasks = [(method, asked.data / f"{name}.csv.gz", seed, asked) for seed in range(asked.repeats)]
                *figures, seconds = zip(*pool.map(one_repeat, tasks), strict=True)
                cells = [name, method, *map(spread, figures), f"{np.mean(seconds):.0f}"]
                lines.append("| " + " | ".join(cells) + " |")
                print(lines[-1], flush=True)
            for method, figure, value, plus_minus, source in PUBLISHED[name]:
                said = {"accuracy": "–", "AUC": "–", figure: f"{value:.3f} ± {plus_minus:.3f}"}
                lines.append(f"| {name} | {method} ({source}) | {said['accuracy']} | – | {said['AUC']} | – |")
    print("\n" + "\n".join(lines))


if __name__ == "__main__":
    main()
