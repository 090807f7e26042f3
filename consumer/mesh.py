"""A silver standard: whether MeSH headings that came with an abstract say what was answered.

People at the National Library of Medicine chose them, who asked another question: a heading of the Neoplasms tree (C04)
stands for benign tumours too, and where cancer is no more than touched. So agreement is not accuracy; that it falls is
what tells. No copy of MeSH is kept here: which headings are of that tree is told by their names.
"""

import re
from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter

from .stages import Answered, Inferred, Predicted

ANSWERS = ("Cancer", "Non-Cancer")  # of the first question; tasks that ask something else have no such metric

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
_ELSEWHERE = re.compile(r"\w*(?:hemat|granul|glauc|trach|xanth|scot|staphyl|ather|mycet)omas?", re.IGNORECASE)


class MeshAgreement:
    """Counts answers by what the headings say; an abstract without headings is not counted."""

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
    """Whether a heading's name is one of the Neoplasms tree, such as ``Carcinoma, Hepatocellular``.

    Its main part, before a comma or qualifier, must be or end in the name of a tumour: not so of ``Antigens, Neoplasm``
    or ``Neoplasm Staging``.
    """
    name = heading.strip("* ").partition("/")[0].strip("* ")
    if _PROCESS.fullmatch(name):
        return True
    main = name.partition(",")[0]
    return bool(_TUMOUR.fullmatch(main.rpartition(" ")[2]) or _TUMOUR.fullmatch(main)) and not _ELSEWHERE.fullmatch(
        main
    )
