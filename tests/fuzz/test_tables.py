"""Damaged tables of patients and genes, and settings files: read, or refused with an error of ours."""

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest
from trial import Trial
from wsipipe.data.cohort.labels import PatientLabels, patient_labels
from wsipipe.data.cohort.splits import read_splits
from wsipipe.data.cohort.table import read_clinical, read_cohort
from wsipipe.data.molecular.gene_aliases import read_aliases
from wsipipe.data.molecular.gene_sets import read_gmt
from wsipipe.data.molecular.genes import read_gene_lengths
from wsipipe.pipeline.config import load_config
from wsipipe.stages.train.cross_validate import read_oof
from wsipipe.stages.train.molecular_data import read_gene_list
from wsipipe.stages.train.split import read_patients, write_patients

Survives = Callable[..., Trial]

COHORT = "slide_id,patient_id,path,mpp,site,er\n" + "".join(
    f"S{i},P{i // 2},slides/S{i}.svs,0.{25 + i % 3},site {i % 4},{'positive' if i // 2 % 2 else 'negative'}\n"
    for i in range(40)
)
GMT = "".join("\t".join([f"SET_{i}", "none", *(f"GENE{i * j}" for j in range(1, 20))]) + "\n" for i in range(20))


def _labels(path: Path) -> PatientLabels:
    table = read_cohort(path)
    table.mpps(), table.paths()
    return patient_labels(table, "er", ["positive"], ["negative"])


FORMS = {
    "cohort.csv": COHORT.encode(),
    "cohort.tsv": COHORT.replace(",", "\t").encode("utf-8-sig"),
    "utf-16.csv": COHORT.encode("utf-16"),
    "cohort.csv.gz": gzip.compress(COHORT.encode(), mtime=0),
}


@pytest.mark.parametrize("name", FORMS)
def test_cohort_tables(survives: Survives, name: str) -> None:
    survives(_labels, FORMS[name], name)


def test_clinical_tables(survives: Survives) -> None:
    survives(read_clinical, b"#Patient\n#STRING\n" + COHORT.encode(), "clinical.txt")


@pytest.mark.parametrize("packed", [False, True])
def test_gene_sets(survives: Survives, packed: bool) -> None:
    survives(read_gmt, gzip.compress(GMT.encode(), mtime=0) if packed else GMT.encode(), "sets.gmt")


def test_tables_of_two_columns(survives: Survives) -> None:
    survives(read_aliases, "".join(f"OLD{i},NEW{i}\n" for i in range(100)).encode(), "aliases.csv")
    survives(read_gene_lengths, "".join(f"GENE{i}\t{1000 + i}\n" for i in range(100)).encode(), "lengths.tsv")


def test_gene_lists(survives: Survives) -> None:
    survives(read_gene_list, "".join(f"GENE{i}  # {i}\n" for i in range(100)).encode(), "genes.txt")


def test_splits(survives: Survives) -> None:
    roles = {0: "test,train,validation", 1: "validation,test,train", 2: "train,validation,test"}
    rows = "".join(f"P{i},{i % 2},{i % 3},{roles[i % 3]}\n" for i in range(40))
    survives(read_splits, f"patient_id,label,fold,fold_0,fold_1,fold_2\n{rows}".encode(), "splits.csv")


def test_patients(survives: Survives, tmp_path: Path) -> None:
    labels = PatientLabels("er", {"P1": 1, "P2": 0}, {"P1": ("S1", "S2"), "P2": ("S3",)}, {"P3": "label missing"}, ())
    write_patients(tmp_path / "whole.csv", labels, {"P1"})
    survives(read_patients, (tmp_path / "whole.csv").read_bytes(), "patients.csv")


def test_predictions(survives: Survives) -> None:
    rows = "".join(f"P{i},{i % 3},{i % 2},0.{i},-0.{i},0.5,{i % 2},2,0.15\n" for i in range(10, 50))
    header = "patient_id,fold,label,probability,logit,threshold,call,slides,prevalence\n"
    survives(read_oof, (header + rows).encode(), "oof_predictions.csv")


def test_settings_files(survives: Survives) -> None:
    text = (Path(__file__).parents[1] / "brca" / "wsipipe.toml").read_bytes()
    survives(load_config, text, "wsipipe.toml")
