"""How well our networks read real bags of other people's: Musk1 and UCSB breast cancer, against published figures.

    python tests/benchmarks/mil_bags.py --repeats 5 --methods mean abmil evidence

Musk1: 92 molecules, each a bag of 2 to 40 shapes × 166 (Dietterich, Lathrop, Lozano-Pérez 1997). UCSB: 58 H&E images,
benign or malignant, each a bag of 21 to 40 patches × 708 (Kandemir, Zhang, Hamprecht 2014). Nothing but bags and
labels: no RNA, and no places. Where a network wants a graph, a tile's neighbours are its nearest in feature space
(Euclidean, of standardised features), min(8, P − 1) of them; TransMIL takes the order of the file.

Ten folds by bag, stratified, drawn anew in each repeat and the same for all methods. A share of each training part
validates, stratified, for early stopping and the choice of the epoch; features are standardised by the rest of it. The
networks have the sizes that ``wsipipe train`` gives them; nothing is tuned here. Accuracy is at probability 0.5. A row
gives the mean over the repeats and the standard deviation between them, of accuracy and AUC over all bags, each read by
the fold that did not train on it; logits of ten models make one ranking.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, train_test_split
from wsipipe.models.abmil import ABMIL, ABMILConfig
from wsipipe.models.bag_tensors import BagTensors, PatientBags
from wsipipe.models.clam import CLAM, CLAMConfig
from wsipipe.models.evidence_memory import EvidenceMemory, EvidenceMemoryConfig
from wsipipe.models.fit import FitSettings, fit, patient_logits
from wsipipe.models.matching import Matching, MatchingConfig
from wsipipe.models.mean_pooling import MeanPooling, MeanPoolingConfig, fit_mean
from wsipipe.models.momkd import MoMKD, preset
from wsipipe.models.network import SlideNetwork
from wsipipe.models.transmil import TransMIL, TransMILConfig

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

METHODS: dict[str, Callable[[int], SlideNetwork]] = {
    "mean": lambda width: MeanPooling(MeanPoolingConfig(in_features=width)),
    "abmil": lambda width: ABMIL(ABMILConfig(in_features=width)),
    "clam": lambda width: CLAM(CLAMConfig(in_features=width)),
    "transmil": lambda width: TransMIL(TransMILConfig(in_features=width)),
    "evidence": lambda width: EvidenceMemory(EvidenceMemoryConfig(in_features=width)),
    "matching": lambda width: Matching(MatchingConfig(in_features=width)),
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

    def standardised(self, by: NDArray[np.int64]) -> list[PatientBags]:
        """All bags, by mean and standard deviation of the instances of the bags ``by``."""
        known = np.concatenate([self.features[i] for i in by])
        centre, scale = known.mean(axis=0), known.std(axis=0)
        scale[scale == 0] = 1
        patients = []
        for i, (features, label) in enumerate(zip(self.features, self.labels, strict=True)):
            x = (features - centre) / scale
            bag = BagTensors(str(i), torch.from_numpy(x.astype(np.float32)), nearest(x))
            patients.append(PatientBags(str(i), int(label), [bag]))
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


def one_repeat(task: tuple[str, Path, int, argparse.Namespace]) -> tuple[float, float, float]:
    """Accuracy, AUC and seconds of a method on one draw of the folds."""
    method, file, seed, asked = task
    torch.set_num_threads(1)
    began = time.monotonic()
    raw = RawBags.read(file)
    logits = np.full(len(raw.labels), np.nan)
    for fold, (train, validation, test) in enumerate(splits(raw.labels, seed, asked.validation)):
        patients = raw.standardised(train)
        torch.manual_seed(100 * seed + fold)
        network = METHODS[method](raw.features[0].shape[1])
        parts = [[patients[i] for i in part] for part in (train, validation, test)]
        how = settings(asked, seed=100 * seed + fold)
        if isinstance(network, MeanPooling):
            fit_mean(network, parts[0], parts[1], how)
        else:
            fit(network, parts[0], parts[1], how)
        logits[test] = list(patient_logits(network, parts[2]).values())
    accuracy = float(np.mean((logits > 0) == (raw.labels == 1)))
    return accuracy, float(roc_auc_score(raw.labels, logits)), time.monotonic() - began


def settings(asked: argparse.Namespace, seed: int) -> FitSettings:
    return FitSettings(
        epochs=asked.epochs,
        patience=asked.patience,
        learning_rate=asked.learning_rate,
        weight_decay=asked.weight_decay,
        seed=seed,
    )


def spread(values: Sequence[float]) -> str:
    return f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else f"{values[0]:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default: Any = FitSettings()
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--sets", nargs="+", choices=list(PUBLISHED), default=list(PUBLISHED))
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--validation", type=float, default=0.2, help="share of a training part that validates")
    parser.add_argument("--epochs", type=int, default=default.epochs)
    parser.add_argument("--patience", type=int, default=default.patience)
    parser.add_argument("--learning-rate", type=float, default=default.learning_rate)
    parser.add_argument("--weight-decay", type=float, default=default.weight_decay)
    parser.add_argument("--processes", type=int, default=1)
    asked = parser.parse_args()
    lines = ["| set | method | accuracy | AUC | seconds a repeat |", "| --- | --- | --- | --- | --- |"]
    with ProcessPoolExecutor(asked.processes) as pool:
        for name in asked.sets:
            for method in asked.methods:
                tasks = [(method, asked.data / f"{name}.csv.gz", seed, asked) for seed in range(asked.repeats)]
                accuracies, aucs, seconds = zip(*pool.map(one_repeat, tasks), strict=True)
                lines.append(f"| {name} | {method} | {spread(accuracies)} | {spread(aucs)} | {np.mean(seconds):.0f} |")
                print(lines[-1], flush=True)
            for method, figure, value, plus_minus, source in PUBLISHED[name]:
                said = {"accuracy": "–", "AUC": "–", figure: f"{value:.3f} ± {plus_minus:.3f}"}
                lines.append(f"| {name} | {method} ({source}) | {said['accuracy']} | {said['AUC']} | – |")
    print("\n" + "\n".join(lines))


if __name__ == "__main__":
    main()
