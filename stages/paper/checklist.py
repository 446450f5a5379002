"""The TRIPOD+AI checklist (Collins et al., BMJ 385:e078378, 2024), filled with what is known of a model.

Item numbers are the statement's; what each asks for is put in words of our own. What only the authors can know is left
to them, and said so: the checklist is a start, not a proof that a report is complete.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

AUTHORS: Final = "for the authors"
COLUMNS: Final = ("item", "part", "asks_for", "known", "where")


@dataclass(frozen=True, kw_only=True)
class Known:
    """What is known of a model, in words; an empty one is left to the authors.

    :param kind: of the study: development, or evaluation.
    """

    kind: str
    name: str
    data: str
    patients: str
    dropped: str
    outcome: str
    predictors: str
    missing: str
    partition: str
    model: str
    sites: str
    figures: str
    balance: str
    fairness: str
    output: str
    characteristics: str
    events: str
    result: str
    subgroups: str
    recalibration: str
    poor_input: str
    versions: str


@dataclass(frozen=True)
class ChecklistItem:
    """One item: what it asks for, what is known of it, and where in the report that stands."""

    item: str
    part: str
    asks_for: str
    known: str = ""
    where: str = ""

    @property
    def is_filled(self) -> bool:
        """Whether something is known of it."""
        return bool(self.known)

    @property
    def cells(self) -> tuple[str, str, str, str, str]:
        """The row of a table."""
        return self.item, self.part, self.asks_for, self.known or AUTHORS, self.where if self.known else ""


def checklist(known: Known) -> tuple[ChecklistItem, ...]:
    """Fill the items."""
    i = ChecklistItem
    k = known
    title, background, methods, results = "Title and abstract", "Introduction", "Methods", "Results"
    openness, discussion = "Open science", "Discussion"
    flow, table_1 = "Cohort flow", "Table 1"
    return (
        i("1", title, "a title that names the study as development or evaluation of a prediction model, whom it is "
          "for, and the outcome", f"{k.kind} of a model of {k.outcome}", "head of the page"),
        i("2", title, "an abstract after TRIPOD+AI for abstracts"),
        i("3a", background, "the medical question, diagnosis or prognosis, and models that exist already"),
        i("3b", background, "for whom the model is meant, where in their care, and who is to use it"),
        i("3c", background, "known differences in health between groups of people"),
        i("4", background, "the aims, and whether the study develops or evaluates", k.kind, "head of the page"),
        i("5a", methods, "sources of the data, and why they stand for the population", k.data, "Methods"),
        i("5b", methods, "dates: when patients were included, and how long they were followed"),
        i("6a", methods, "where patients were cared for: kind, number and place of centres", k.sites, table_1),
        i("6b", methods, "who could be included", k.dropped, flow),
        i("6c", methods, "treatments, and how they were dealt with"),
        i("7", methods, "how data were prepared, and whether alike in all groups of people", k.predictors, "Data"),
        i("8a", methods, "what is predicted, at what time, and how it was determined", k.outcome, "head of the page"),
        i("8b", methods, "who judged the outcome, if that takes judgement"),
        i("8c", methods, "whether those who judged the outcome were blinded"),
        i("9a", methods, "which predictors were considered, and how they were chosen",
          "tiles of H&E slides alone; no predictor was selected by hand", "Data"),
        i("9b", methods, "every predictor: what it is, and how it was measured", k.predictors, "Data"),
        i("9c", methods, "who judged predictors, if that takes judgement", "nobody: slides are read by the program",
          "Data"),
        i("10", methods, "how the number of patients was arrived at, and whether it is enough", k.patients, flow),
        i("11", methods, "how missing data were dealt with", k.missing, flow),
        i("12a", methods, "which data trained, and which judged", k.partition, "Folds"),
        i("12b", methods, "how predictors entered the model", k.predictors, "Data"),
        i("12c", methods, "kind of model, how it was built and tuned, how it was validated", k.model, "Settings"),
        i("12d", methods, "whether results differ between centres, and how that was looked at", k.subgroups, "Audit"),
        i("12e", methods, "the figures and charts by which it is judged, and why", k.figures, "Performance"),
        i("12f", methods, "whether the model was adapted after its evaluation", k.recalibration, "Performance"),
        i("12g", methods, "for an evaluation: how predictions were computed",
          "by the folds that were not trained on the patient" if k.kind == "evaluation" else "does not apply", ""),
        i("13", methods, "whether classes were balanced, why, and what was done about it", k.balance, "Performance"),
        i("14", methods, "what was done for fairness between groups of people", k.fairness, "Audit"),
        i("15", methods, "what the model gives: probability, class, threshold and its choice", k.output,
          "Operating points"),
        i("16", methods, "how data of training and evaluation differ",
          "they are of one cohort" if k.kind == "development" else "see the cautions", "head of the page"),
        i("17", methods, "approval by an ethics committee, and consent"),
        i("18a", openness, "funding, and the role of those who gave it"),
        i("18b", openness, "conflicts of interest"),
        i("18c", openness, "where the protocol is, or that there is none"),
        i("18d", openness, "where the study is registered, or that it is not"),
        i("18e", openness, "whether, and how, the data are available"),
        i("18f", openness, "whether, and how, the code is available", k.versions, "Methods, settings.toml"),
        i("19", "Patients and public", "how patients and the public took part"),
        i("20a", results, "the way of the participants through the study, with numbers", k.dropped, flow),
        i("20b", results, "who they are: characteristics, by centre, and what is missing", k.characteristics, table_1),
        i("20c", results, "for an evaluation: how they differ from those of the development",
          "" if k.kind == "evaluation" else "does not apply", ""),
        i("21", results, "participants and outcomes in each analysis", k.events, "Folds"),
        i("22", results, "the whole model, so that others can predict with it, and how to get it", k.name,
          "Predict with this model"),
        i("23a", results, "performance with intervals, also of groups of people", k.result, "Performance"),
        i("23b", results, "how performance differs between centres", k.subgroups, "Audit"),
        i("24", results, "what adapting the model gave", k.recalibration, ""),
        i("25", discussion, "what the results mean, also for fairness, beside other studies"),
        i("26", discussion, "limits: who was not there, numbers, missing data", "see the cautions", "head of the page"),
        i("27a", discussion, "what the model does with poor or missing input", k.poor_input, "prediction page"),
        i("27b", discussion, "what users must know and do"),
        i("27c", discussion, "what comes next: other centres, other patients"),
    )  # fmt: skip
