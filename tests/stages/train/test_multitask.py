"""Three receptors that one model learns, from the split to the model, another cohort, new slides and a comparison."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from command import wsipipe
from PIL import Image
from planted_workspace import FEATURES, SIDE, TILE_PX, TILES, Planted
from task_workspace import RECEPTORS, Asked, of_receptors, plant_task
from wsipipe.data.errors import UsageError
from wsipipe.models.bundle import folds_of
from wsipipe.pipeline.config import load_config
from wsipipe.stages.compare.variants import variants
from wsipipe.stages.predict.prediction_report import PredictionReportSettings, PredictionReportStage
from wsipipe.stages.predict.settings import PredictSettings
from wsipipe.stages.predict.stage import PredictionTask, PredictStage
from wsipipe.stages.train.settings import TrainSettings

TARGETS = ("er", "pr", "her2")
OF_RECEPTORS = ("--name", "receptors")


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    planted = plant_task(tmp_path_factory.mktemp("receptors"), of_receptors(), RECEPTORS)
    trained = wsipipe("train", "-c", planted.settings, *OF_RECEPTORS, "--method", "abmil")
    assert trained.exit_code == 0, trained.output
    words = " ".join(trained.output.split())
    assert "47 of 48 patients used (20 er positive, 24 er negative, 23 pr positive, 23 pr negative" in words
    assert "without her2, used for the other targets: 15: label missing (15)" in words
    return planted


def receptors(planted: Planted) -> Path:
    return planted.workspace / "models/receptors"


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_each_target_has_the_tables_of_a_model_of_its_own(planted: Planted) -> None:
    model = receptors(planted)
    labels = {row["patient_id"]: row["label"].split(" / ") for row in table(model / "splits.csv")}
    assert len(labels) == 47
    metrics = json.loads((model / "metrics.json").read_text())["pooled"]
    aucs = []
    for place, name in enumerate(TARGETS):
        rows = table(model / "targets" / name / "oof_predictions.csv")
        assert {row["patient_id"]: row["label"] for row in rows} == {
            patient: label[place] for patient, label in labels.items() if label[place] != "?"
        }
        own = json.loads((model / "targets" / name / "metrics.json").read_text())
        shares = [folds.of_target(name).prevalence for _, folds in folds_of(model)]
        assert own["prevalence"] == pytest.approx(sum(share for share in shares if share) / 2)
        assert own["prevalence"] == pytest.approx(own["pooled"]["n_positive"] / len(rows), abs=0.05)
        assert metrics["figures"][f"AUC of {name}"] == own["pooled"]["auc"]
        aucs.append(own["pooled"]["auc"]["value"])
    assert metrics["figures"]["mean of the targets"]["value"] == pytest.approx(sum(aucs) / 3)
    assert metrics["counts"] == {"with er": 44, "with pr": 46, "with her2": 32}
    page = (model / "report.html").read_text()
    assert page.count("<article") == 3
    assert page.count("Learning curves") == 1
    assert page.count("<h1>her2</h1>") == 1
    assert "Dropped: no her2 label" in page
    assert "the share of positive training patients" in page
    assert "--prevalence" not in page
    of_her2 = page[page.index("<h1>her2</h1>") :]
    rows = table(model / "targets/her2/oof_predictions.csv")
    for fold in ("0", "1"):
        assert f'data-name="test">{sum(row["fold"] == fold for row in rows)}<' in of_her2


def test_folds_hold_the_classes_of_each_target(planted: Planted) -> None:
    for place in range(3):
        rows = [(row["label"].split(" / ")[place], row["fold"]) for row in table(receptors(planted) / "splits.csv")]
        for y in ("0", "1"):
            sizes = [rows.count((y, fold)) for fold in ("0", "1")]
            assert abs(sizes[0] - sizes[1]) <= 3, (place, y, sizes)


def test_another_cohort_without_one_of_the_columns_and_new_slides(planted: Planted, tmp_path: Path) -> None:
    other = plant_task(tmp_path / "other", of_receptors(12), RECEPTORS, seed=1, first=500, rna=False)
    model = receptors(planted)
    lacking = other.folder / "lacking.csv"
    with lacking.open("w", newline="") as stream:
        rows = table(other.folder / "cohort.csv")
        writer = csv.DictWriter(stream, ["slide_id", "patient_id", "er", "pr"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    judged = wsipipe("evaluate", "--model", model, "--table", lacking, "-w", other.workspace, "--device", "cpu")
    assert judged.exit_code == 0, judged.output
    assert "target her2 is left out: there is no column 'her2_score'" in " ".join(judged.output.split())
    folder = other.workspace / "evaluations/receptors"
    assert {path.name for path in (folder / "targets").iterdir()} == {"er", "pr"}
    metrics = json.loads((folder / "metrics.json").read_text())["pooled"]
    assert metrics["counts"] == {"with er": 10, "with pr": 12}
    page = (folder / "report.html").read_text()
    assert "Target her2 is not judged: there is no column &#39;her2_score&#39;." in page
    assert page.count("<article") == 2
    refused = wsipipe(
        "evaluate", "--model", model, "--table", lacking, "-w", other.workspace, "--label-column", "er", "--name", "x"
    )
    assert refused.exit_code == 2
    assert "label_column is of one question, and this model has the targets er, pr, her2" in refused.output

    slides = {"S500": "P500", "S502": "P502"}
    for slide in slides:
        other.picture(slide).parent.mkdir(exist_ok=True)
        Image.new("RGB", (SIDE * TILE_PX, SIDE * TILE_PX), (200, 120, 160)).save(other.picture(slide))
    task = PredictionTask(
        model=model, tiles=other.workspace / TILES, features=other.workspace / FEATURES, slides=slides
    )
    into, runner = other.workspace / "predictions/receptors", other.runner()
    assert not runner.run(PredictStage(PredictSettings(device="cpu"), into, other.workspace, task)).failures
    assert not runner.run(PredictionReportStage(PredictionReportSettings(), into, other.workspace, task)).failures
    predicted = table(into / "predictions.csv")
    assert [row["level"] for row in predicted] == ["patient", "patient", "slide", "slide"]
    for name in ("er", "pr"):
        known = {row["patient_id"]: row for row in table(folder / "targets" / name / "predictions.csv")}
        for row in predicted:
            own = known[row["patient_id"]]
            assert float(row[f"{name} probability"]) == pytest.approx(float(own["probability"]), abs=1e-6)
            assert float(row[f"{name} prevalence"]) == pytest.approx(float(own["prevalence"]))
            called = ("negative", "positive")[int(own["call"])]
            assert row[f"{name} call"] == ("uncertain" if row[f"{name} uncertain"] else called)
    geojson = json.loads((into / "geojson/S500.geojson").read_text())
    measured = geojson["features"][0]["properties"]["measurements"]
    assert {f"{name}: score" for name in TARGETS} <= set(measured)
    page = (into / "report.html").read_text()
    assert page.count("<article") == 3
    assert page.count("<img") == 2


def test_methods_are_compared_by_the_mean_and_on_each_target(planted: Planted) -> None:
    words = ("--methods", "abmil,mean", "--epochs", "1")
    compared = wsipipe("compare", "-c", planted.settings, *OF_RECEPTORS, *words)
    assert compared.exit_code == 0, compared.output
    folder = planted.workspace / "comparisons/receptors"
    rows = {row["method"]: row for row in table(folder / "comparison.csv")}
    assert set(rows) == {"abmil", "mean"}
    mean, reference = (float(rows[name]["mean of the targets"]) for name in ("mean", "abmil"))
    assert float(rows["mean"]["difference"]) == pytest.approx(mean - reference)
    of_targets = [{row["method"]: row for row in table(folder / "targets" / t / "comparison.csv")} for t in TARGETS]
    assert sum(float(own["mean"]["auc"]) for own in of_targets) / 3 == pytest.approx(mean)
    assert "targets/her2/comparison.html" in (folder / "comparison.html").read_text()
    assert "MoMKD" not in (folder / "targets/er/comparison.html").read_text()


def test_settings_are_chosen_by_the_mean_of_the_targets(planted: Planted) -> None:
    """The linear models are quick; their penalty chooses itself, and so does nothing here but the number of bags."""
    words = ("--method", "mean", "--nested", "bags_per_step=1,4")
    chosen = wsipipe("train", "-c", planted.settings, *OF_RECEPTORS, *words, "--replace")
    assert chosen.exit_code == 0, chosen.output
    for _, facts in folds_of(receptors(planted)):
        assert [one["bags_per_step"] for one in facts.training["choice"]] == [1, 4]
        assert facts.training["settings"]["bags_per_step"] == 1
        assert set(facts.of_targets) == set(TARGETS)


def test_soft_targets_of_each_target_come_from_its_own_patients(planted: Planted) -> None:
    words = ("--method", "mean", "--soft-targets", "--replace")
    taught = wsipipe("train", "-c", planted.settings, *OF_RECEPTORS, *words)
    assert taught.exit_code == 0, taught.output
    for _, facts in folds_of(receptors(planted)):
        described = facts.training["soft_targets"]
        assert set(described) == set(TARGETS)
        for name, own in described.items():
            assert own["train_patients"] == facts.of_target(name).patients["train"] <= facts.patients["train"]
    assert "AUC of her2 among training patients" in (receptors(planted) / "report.html").read_text()


MIXED = """label_column = "er"
        [biomarkers.score]
        task = "regression"
        label_column = "score"
        [biomarkers.grade]
        task = "ordinal"
        label_column = "grade"
        classes = ["1", "2", "3"]
        [biomarkers.time]
        task = "survival"
        time_column = "months"
        event_column = "died"
        [biomarkers.all]
        targets = ["er", "score", "grade", "time"]"""


def of_every_task(n: int = 48) -> list[Asked]:
    """Patients with a class, a number, a grade and a follow-up, each missing for some."""
    patients = []
    for i in range(n):
        er, grade = i % 2, i // 2 % 3
        columns = {
            "er": "" if i % 7 == 3 else ("negative", "positive")[er],
            "score": "" if i % 5 == 4 else f"{10 + 3 * grade + er}.5",
            "grade": "" if i % 9 == 8 else str(grade + 1),
            "months": "" if i % 8 == 5 else str(60 - 15 * grade - i % 4),
            "died": "" if i % 8 == 5 else str(int(i % 3 != 0)),
        }
        patients.append(Asked(columns, 2.0 * er, (2.0 * grade,)))
    return patients


def test_targets_may_be_of_any_task(tmp_path: Path) -> None:
    planted = plant_task(tmp_path / "mixed", of_every_task(), MIXED)
    words = ("-c", planted.settings, "--name", "all")
    for method in ("abmil", "mean"):
        trained = wsipipe("train", *words, "--method", method, "--replace")
        assert trained.exit_code == 0, trained.output
    model = planted.workspace / "models/all"
    metrics = json.loads((model / "metrics.json").read_text())["pooled"]
    measures = ["AUC of er", "Spearman's ρ of score", "Concordance of grade", "C-index (Harrell) of time"]
    assert [name.casefold() for name in metrics["figures"]] == [
        "mean of the targets",
        *(name.casefold() for name in measures),
    ]
    figures = [figure["value"] for figure in metrics["figures"].values()]
    assert figures[0] == pytest.approx(sum(figures[1:]) / 4)
    assert min(figures[1:]) > 0.55
    assert metrics["n_patients"] == 48
    rows = table(model / "targets/score/oof_predictions.csv")
    assert {float(row["label"]) for row in rows} == {10.5, 11.5, 13.5, 14.5, 16.5, 17.5}
    assert 9 < min(float(row["prediction"]) for row in rows) < max(float(row["prediction"]) for row in rows) < 19
    page = (model / "report.html").read_text()
    assert page.count("<article") == 4
    assert "log-rank p" in page
    other = plant_task(tmp_path / "other", of_every_task(24), MIXED, seed=1, first=500, rna=False)
    place = ("--table", other.folder / "cohort.csv", "-w", other.workspace, "--device", "cpu")
    judged = wsipipe("evaluate", "--model", model, *place)
    assert judged.exit_code == 0, judged.output
    assert json.loads((other.workspace / "evaluations/all/metrics.json").read_text())["pooled"]["n_patients"] == 24
    refused = wsipipe("train", *words, "--method", "clam-sb", "--replace")
    assert refused.exit_code == 2
    assert "biomarkers.score: clam-sb cannot answer a regression question" in " ".join(refused.output.split())


def test_methods_that_cannot_carry_a_target_are_left_out_of_a_comparison() -> None:
    def names(*targets: str) -> list[str]:
        return [one.name for one in variants((), TrainSettings(), rna=True, task="multitask", targets=targets)]

    assert names("binary", "binary") == [
        *(name + soft for name in ("abmil", "clam-sb", "clam-mb", "transmil", "mean") for soft in ("", "+soft"))
    ]
    assert names("binary", "regression") == ["abmil", "transmil", "mean"]
    with pytest.raises(UsageError, match="clam-mb cannot answer a multitask question of binary, ordinal targets"):
        variants(["clam-mb"], TrainSettings(), rna=False, task="multitask", targets=["ordinal", "binary"])


@pytest.mark.parametrize(
    ("lines", "what"),
    [
        ('targets = ["er", "ER2"]', "receptors has the target ER2, and no biomarker is called so (did you mean er?)"),
        ('targets = ["er", "er"]', "target er is there twice"),
        ('targets = ["er", "receptors"]', "receptors has the target receptors, which has targets itself"),
        ('targets = ["er"]\nlabel_column = "er"', "targets have label columns of their own"),
        ('targets = ["er"]\npositive = ["yes"]', "positive is for task binary; task is multitask"),
        ('targets = ["er"]\ntask = "regression"', "targets are for task multitask; task is regression"),
        ('task = "multitask"\nlabel_column = "er"', "task multitask needs targets"),
    ],
)
def test_targets_that_cannot_be_are_refused(tmp_path: Path, lines: str, what: str) -> None:
    file = tmp_path / "wsipipe.toml"
    file.write_text(f'[biomarkers.er]\nlabel_column = "er"\n[biomarkers.receptors]\n{lines}\n')
    with pytest.raises(UsageError) as refused:
        load_config(file)
    assert what in str(refused.value)


def test_what_cannot_be_is_refused_with_the_reason(planted: Planted) -> None:
    words = ("train", "-c", planted.settings, *OF_RECEPTORS, "--replace")
    for flags, what in [
        (("--method", "momkd"), "momkd cannot answer a multitask question: the genes of its RNA side are chosen"),
        (("--method", "abmil", "--prevalence", "0.3"), "a prevalence is of two classes"),
        (("--method", "abmil", "--targets", "er,pr,er"), "target er is there twice"),
        (("--method", "abmil", "--positive", "yes"), "positive is for task binary; task is multitask"),
    ]:
        refused = wsipipe(*words, *flags)
        assert refused.exit_code == 2, refused.output
        assert what in " ".join(refused.output.split())
    unnamed = wsipipe("train", "-c", planted.settings, "--targets", "er,pr")
    assert "a model of several targets needs a name" in unnamed.output
    assert load_config(planted.settings, {"biomarkers": {"two": {"targets": ["er,pr"]}}}).question("two").targets == [
        "er",
        "pr",
    ]
