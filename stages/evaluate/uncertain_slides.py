"""The slides of another cohort on which ``predict`` would give no call, named beside the figures that they are in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from markupsafe import Markup

from ...data.manifest import Json
from ...models.applicability import Applicability
from ..pages.numbers import TEMPLATES
from ..predict.reading import SlideOutput
from ..predict.uncertainty import CANNOT_JUDGE, doubts_of


@dataclass(frozen=True, kw_only=True)
class UncertainSlides:
    """Slides that are unlike those of training, too small, blurred or damaged.

    :param why: slide → reasons; None if the model cannot judge.
    :param read: number of slides that were read.
    """

    why: Mapping[str, tuple[str, ...]] | None
    read: int

    @classmethod
    def of(cls, outputs: Mapping[str, SlideOutput], known: Applicability | None) -> Self:
        """Judge slides as ``predict`` does.

        :param known: what the model knows of its training slides.
        """
        doubts = {slide: doubts_of(output.fitness, known) for slide, output in outputs.items()}
        why = {slide: own for slide, own in doubts.items() if own}
        return cls(why=None if known is None else why, read=len(outputs))

    @property
    def cautions(self) -> list[str]:
        """A sentence for the head of the page, if there are such slides."""
        if not self.why:
            return []
        return [
            f"Slides on which predict would give no call: {len(self.why)} of {self.read}. They are in all figures "
            "here, and are named below."
        ]

    @property
    def part(self) -> Markup:
        """The section of the page that names them."""
        html = TEMPLATES.get_template("uncertain.html").render(slides=self, cannot=CANNOT_JUDGE)
        return Markup(html)  # the template escapes what it is given

    @property
    def facts(self) -> dict[str, Json]:
        """What ``metrics.json`` says of them: slide → reasons, or null if the model cannot judge."""
        why: Json = None if self.why is None else {slide: list(own) for slide, own in self.why.items()}
        return {"uncertain_slides": why}
