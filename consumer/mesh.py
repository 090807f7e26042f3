"""A silver standard: whether the MeSH headings that came with an abstract agree with its answer.

Indexers of the National Library of Medicine chose the headings with another question in mind: a heading of the
Neoplasms tree (C04) also stands for benign tumours, and for abstracts that only touch on cancer. So agreement is not
accuracy, but a falling agreement is a warning. There is no copy of MeSH here: headings of that tree are recognized by
their names.
"""

import re
from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter

from .stages import Answered, Inferred, Predicted

ANSWERS = ("Cancer", "Non-Cancer")  # to the first question; other tasks have no such metric

_TUMOUR = re.compile(
    r"(?:\w*neoplasms?|carcinoid|\w*carcinoma|leukemia|lymphoma|\w*glioma|\w*cytoma|\w*blastoma|\w*sarcoma|melanoma"
    r"|\w*adenoma|\w*fibroma|\w*lipoma|\w*myoma|\w*meningioma|mesothelioma|\w*thelioma|seminoma|\w*germinoma|teratoma"
    r"|\w*angioma|\w*osteoma|chordoma|thymoma|insulinoma|gastrinoma|glucagonoma|vipoma|prolactinoma|\w*papilloma"
    r"|multiple myeloma|hodgkin disease|mycosis fungoides|neurilemmoma|neuroma|craniopharyngioma|sezary syndrome"
    r"|hydatidiform mole)s?",
    re.IGNORECASE,
)
_PROCESS = re.compile(
    r"neoplas(?:m (?:metastasis|recurrence, local|invasiveness|micrometastasis|seeding)|m, residual|tic processes"
    r"|tic cells, circulating|tic syndromes, hereditary)|lymphatic metastasis|precancerous conditions"
    r"|paraneoplastic syndromes.*|cell transformation, neoplastic|carcinogenesis|leukoplakia.*|carcinoma in situ"
    r"|adenomatous polyposis coli",
    re.IGNORECASE,
)


class MeshAgreement:
    """Counts answers by whether a heading is of the Neoplasms tree; abstracts without headings are not counted."""

    def __init__(self, registry: CollectorRegistry) -> None:
        what = "Answers to abstracts that came with MeSH headings, by whether one is of the Neoplasms tree"
        self._answers = Counter("abstream_mesh_answers", what, ("label", "mesh"), registry=registry)
        for label in ANSWERS:
            for mesh in ("neoplasms", "other"):
                self._answers.labels(label, mesh)

    def observe(self, inferred: Inferred, answered: Sequence[Answered]) -> None:
        """Count a batch."""
        for job, one in zip(inferred.batch, answered, strict=True):
            if (headings := job.event.mesh) and isinstance(one, Predicted):
                label = next(iter(one.answers.values()))["label"]
                if label in ANSWERS:
                    self._answers.labels(label, "neoplasms" if any(map(is_neoplasm, headings)) else "other").inc()


def is_neoplasm(heading: str) -> bool:
    """Whether a heading belongs to the Neoplasms tree by its name, such as ``Carcinoma, Hepatocellular``.

    Its main part, before a comma or qualifier, must be or end in the name of a tumour. That excludes
    ``Antigens, Neoplasm`` and ``Neoplasm Staging``.
    """
    name = heading.strip("* ").partition("/")[0].strip("* ")
    if _PROCESS.fullmatch(name):
        return True
    main = name.partition(",")[0]
    return bool(_TUMOUR.fullmatch(main.rpartition(" ")[2]) or _TUMOUR.fullmatch(main))
