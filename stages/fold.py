"""What a fold may see: its training and validation patients with their bags, and the RNA of those it trains on.

Genes, and features of further blocks beside RNA, are selected and scaled here, on the fold's training patients alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..data.errors import CohortError, ExpressionError, StoreError, UsageError
from ..data.expression import join_blocks, read_expression
from ..data.features import FeatureFacts, read_bag
from ..data.gene_aliases import shipped_aliases
from ..data.gene_sets import read_gmt
from ..models.bag_tensors import BagTensors, bag_tensors
from ..models.fit import PatientBags
from ..models.gene_panel import GenePanel
from .settings import TrainSettings

MEMORY_SHARE = 0.5
"""Features move to the GPU for the whole training when they take no more than this part of its free memory."""


@dataclass(frozen=True)
class FoldCohort:
    """What a fold may see.

    :param train, validation: patient → (label, its slides).
    :param test_patients: how many are kept for the test; nothing else is known of them here.
    :param slides: slide → its feature store and the digest of its pixels' file.
    """

    fold: int
    folds: int
    splits_digest: str
    train: Mapping[str, tuple[int, tuple[str, ...]]]
    validation: Mapping[str, tuple[int, tuple[str, ...]]]
    test_patients: int
    slides: Mapping[str, tuple[Path, str]]
    tile: dict[str, Any]
    extract: dict[str, Any]


@dataclass(frozen=True)
class FoldRna:
    """The training patients' expression, and further blocks, as the fold's own panel of genes sees it."""

    rows: Mapping[str, torch.Tensor]
    genes: Sequence[str]
    arrays: Mapping[str, np.ndarray[Any, Any]]
    description: dict[str, Any]

    @classmethod
    def fitted(
        cls,
        cohort: FoldCohort,
        store: Path | None,
        settings: TrainSettings,
        *,
        blocks: Sequence[Path] = (),
        gene_list: Sequence[str] = (),
    ) -> FoldRna | None:
        """Fit the panel on the fold's training patients that any of the stores has; None without stores.

        A block that did not measure a patient is the training mean for this patient, and counted in the description.

        :param store: of RNA; None where RNA is not to teach.
        :param blocks: stores of further blocks.
        :param gene_list: what the panel holds, instead of what it would choose.
        """
        stores = [*([store] if store else []), *blocks]
        if not stores:
            return None
        table = join_blocks([read_expression(path) for path in stores])
        patients = [p for p in cohort.train if p in table]
        if not patients:
            raise CohortError(
                f"no training patient of fold {cohort.fold} has RNA",
                path=stores[0],
                hint="check that the matrix and the cohort table name patients alike, or train with --no-use-rna",
            )
        labels = np.array([cohort.train[p][0] for p in patients])
        matrix = table.rows(patients)
        known, former = set(table.genes), shipped_aliases()
        gene_list = [gene if gene in known else former.get(gene, gene) for gene in gene_list]
        selection = "list" if gene_list else settings.gene_selection
        panel = GenePanel(settings.genes, selection, gene_list, seed=settings.seed + cohort.fold)
        values = panel.fit(matrix, table.genes, labels).transform(matrix, table.genes)
        arrays, description = panel.state()
        rows = {patient: torch.from_numpy(row.copy()) for patient, row in zip(patients, values, strict=True)}
        return cls(rows, panel.genes, arrays, {**description, "unit": table.unit})


def read_gene_list(path: Path) -> tuple[str, ...]:
    """The genes of a file, each once: one a line (``#`` starts a comment), or all sets of a .gmt.

    :raises ExpressionError: it cannot be read, or holds no genes.
    """
    if path.name.casefold().endswith((".gmt", ".gmt.gz")):
        genes = [gene for genes in read_gmt(path).values() for gene in genes]
    else:
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            what = f"the gene list cannot be read ({error})"
            raise ExpressionError(what, path=path, hint="give a text file with one gene a line, or a .gmt") from error
        genes = [gene for line in lines if (gene := line.partition("#")[0].strip())]
        wide = [gene for gene in genes if any(sign in gene for sign in "\t,; ")]
        if wide:
            what = f"{len(wide)} lines hold more than a gene, the first: {wide[0][:60]!r}"
            raise ExpressionError(what, path=path, hint="give one gene a line, or call a table of gene sets .gmt")
    if not genes:
        raise ExpressionError("holds no genes", path=path, hint="give one gene a line, or a .gmt")
    return tuple(dict.fromkeys(genes))


def read_bags(cohort: FoldCohort, neighbours: int, device: torch.device) -> tuple[dict[str, BagTensors], FeatureFacts]:
    """All bags of the fold, read once; on the GPU when they fit.

    :raises StoreError: the slides were not all extracted alike.
    """
    bags: dict[str, BagTensors] = {}
    first: FeatureFacts | None = None
    for slide, (path, _) in cohort.slides.items():
        bag = read_bag(path)
        first = first or bag.facts
        for name in ("backbone", "pooling", "weights_digest", "tile_px", "width"):
            if getattr(bag.facts, name) != getattr(first, name):
                raise StoreError(
                    f"{name} is {getattr(bag.facts, name)}, but {getattr(first, name)} for {first.slide_id}",
                    path=path,
                    hint="run wsipipe extract to the end, so that all slides are extracted alike",
                )
        bags[slide] = bag_tensors(bag, neighbours)
    if first is None:
        raise UsageError("a fold without slides", hint="use fewer folds")
    if (
        device.type == "cuda"
        and sum(b.bytes for b in bags.values()) <= MEMORY_SHARE * torch.cuda.mem_get_info(device)[0]
    ):
        bags = {slide: bag.to(device) for slide, bag in bags.items()}
    return bags, first


def patients_of(
    part: Mapping[str, tuple[int, tuple[str, ...]]], bags: Mapping[str, BagTensors], rna: FoldRna | None
) -> list[PatientBags]:
    """A part's patients with their bags and, given the training patients' RNA, their expression where there is any."""
    return [
        PatientBags(patient, label, [bags[s] for s in slides], rna.rows.get(patient) if rna else None)
        for patient, (label, slides) in part.items()
    ]
