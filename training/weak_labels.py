"""A dictionary's opinion of an abstract: Cancer or not, and which type. Rules, not labels of people.

The small base model is shown prompts answered by these rules, so that it can follow the prompt before
any fine-tuning. Whatever it then knows of the task is distilled from here: say so wherever a figure of
the bare base stands.
"""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from ..schemas import Abstract

# Words that speak of cancer whatever the organ. Names of single cancers come from the Disease Ontology.
_GENERAL = re.compile(
    r"\b(?:cancers?|cancerous|carcino\w+|adenocarcinomas?|tumou?rs?|tumou?rigen\w*|neoplas\w+|malignan\w+|oncolog\w+"
    r"|oncogen\w*|metasta\w+|chemoradi\w+|leuka?emi\w+|lymphomas?|myelomas?|melanomas?|gliomas?|\w*sarcomas?"
    r"|\w*blastomas?|gleason)\b",
    re.IGNORECASE,
)
_WORD = re.compile(r"\w+")
_BENIGN = frozenset(
    {"adenoma", "angiomyolipoma", "cavernoma", "fibroma", "glaucoma", "granuloma", "hemangioma", "hematoma"}
    | {"lipoma", "neurofibroma", "papilloma"}
)

# Which words in the neighbourhood of cancer name its type; "other" gathers the rarer sites.
_TYPES: dict[str, str] = {
    "bladder_urothelial": r"bladder|urotheli\w+|transitional.cell",
    "brain_cns": r"brain|gliomas?|glioblastomas?|astrocytomas?|meningiomas?|medulloblastomas?|ependymomas?|"
    r"intracranial|oligodendrogliomas?|pituitary|craniopharyngiomas?|cns|schwannomas?|acoustic",
    "breast": r"breast|mammary|her-?2\S*|erbb2|trastuzumab|tamoxifen|mastectomy|brca[12]?",
    "colorectal": r"colorectal|colon|colonic|rectal|rectum|crc|familial.adenomatous",
    "esophagus_stomach": r"o?esophag\w+|gastric|stomach|gastroesophageal|cardia",
    "eye": r"retinoblastomas?|uveal|choroidal|ocular|intraocular|conjunctival|iris|eyelid|orbital",
    "head_neck": r"head.and.neck|laryn\w+|pharyn\w+|nasopharyn\w+|oropharyn\w+|hypopharyn\w+|tongue|tonsil\w*|"
    r"oral.(?:cavity|cancers?|carcinomas?|squamous|mucosa\w*|epitheli\w+)|salivary|parotid|paranasal|maxillary|"
    r"hnscc|sinonasal|mouth|nasal",
    "kidney": r"renal|kidney|wilms\S*|nephroblastomas?|clear.cell.renal",
    "leukemia": r"leuka?emi\w+|aml|cml|cll|all-|myelodysplas\w+|mds|bcr-abl\w*|blast.crisis",
    "liver_biliary": r"liver|hepat\w+|hcc|cholangio\w+|biliary|bile.duct|gallbladder|hepatoblastomas?",
    "lung": r"lung|nsclc|sclc|bronch\w+|pulmonary|egfr|alk-positive|non-small.cell|small.cell.lung",
    "lymphoma_myeloma": r"lymphomas?|hodgkin\S*|non-hodgkin\S*|myelomas?|burkitt\S*|dlbcl|waldenstr\w+",
    "ovary": r"ovar\w+|fallopian|peritoneal.serous",
    "pancreas": r"pancrea\w+|insulinomas?|gastrinomas?|pdac",
    "prostate": r"prostat\w+|psa|castration-resistant|gleason|androgen.deprivation",
    "sarcoma_bone_soft_tissue": r"sarcomas?|osteosarcomas?|\w+sarcomas?|chordomas?|chondrosarcomas?|ewing\S*|gists?|"
    r"stromal.tumou?rs?|soft.tissue|bone.tumou?rs?|desmoid",
    "skin_melanoma": r"melanomas?|basal.cell|skin|cutaneous|merkel|braf",
    "thyroid": r"thyroid\w*|medullary.thyroid|papillary.thyroid",
    "uterus_cervix": r"cervi\w+|uter\w+|endometri\w+|trophoblastic|hpv",
    "other": r"testi\w+|seminomas?|germ.cell|neuroblastomas?|pha?eochromocytomas?|paragangliomas?|"
    r"mesotheliomas?|thymomas?|thymic|kaposi\S*|vulva\w*|penile|penis|anal|carcinoids?|unknown.primary|adrenocortical|adrenal",
}
_TYPE = re.compile("|".join(rf"(?P<{name}>\b(?:{words})\b)" for name, words in _TYPES.items()), re.IGNORECASE)


class WeakLabels:
    """The rules, with the names of cancers read from a Disease Ontology file (OBO)."""

    def __init__(self, ontology: Path) -> None:
        names = frozenset(_one_word_names(ontology))
        self._names = names | {f"{name}s" for name in names}

    def __call__(self, abstract: Abstract) -> dict[str, str]:
        """The answers of the oncology task; without ``cancer_type`` where the rules do not agree on one."""
        kind = self.kind(abstract)
        return {"cancer": self.cancer(abstract)} | ({"cancer_type": kind} if kind else {})

    def cancer(self, abstract: Abstract) -> str:
        """``Cancer`` where it is named at least twice, or in the title."""
        named = sum(weight * self._mentions(text) for text, weight in _weighted(abstract))
        return "Cancer" if named >= 2 else "Non-Cancer"

    def kind(self, abstract: Abstract) -> str | None:
        """The type whose words stand out, if any does.

        Given for texts that are not about cancer too, as the organ they are about: at serving time nobody asks,
        but it teaches which words belong to which organ, on ten times as many texts.
        """
        types: Counter[str] = Counter()
        for text, weight in _weighted(abstract):
            for match in _TYPE.finditer(text):
                types[str(match.lastgroup)] += weight
        return _clear_winner(types)

    def _mentions(self, text: str) -> int:
        """How often cancer is named."""
        named = sum(word in self._names for word in _WORD.findall(text.lower()) if not _GENERAL.fullmatch(word))
        return named + len(_GENERAL.findall(text))


def cancer_mentions(abstract: Abstract) -> int:
    """How often words that speak of cancer occur; one in the title counts three times."""
    return sum(weight * len(_GENERAL.findall(text)) for text, weight in _weighted(abstract))


def names_cancer(text: str) -> bool:
    """Whether a word that speaks of cancer occurs at all."""
    return _GENERAL.search(text) is not None


def _weighted(abstract: Abstract) -> tuple[tuple[str, int], ...]:
    """A word in the title counts three times."""
    return (abstract.title or "", 3), (abstract.abstract, 1)


def _clear_winner(types: Counter[str]) -> str | None:
    """The most counted type, where it has at least 2 and twice as many as the next."""
    ranked = [*types.most_common(2), ("", 0), ("", 0)]
    (first, most), (_, next_most) = ranked[:2]
    return first if most >= 2 and most >= 2 * next_most else None


def _one_word_names(ontology: Path) -> Iterator[str]:
    """Names and synonyms of cancers that are one word, such as ``seminoma``."""
    line_of_name = re.compile(r'^(?:name: |synonym: ")(\w+)"?(?: EXACT.*)?$', re.MULTILINE)
    for word in set(line_of_name.findall(ontology.read_text(encoding="utf-8"))):
        # Abbreviations such as ATLL or "cancer" itself are too short, too ambiguous or known already.
        if re.fullmatch(r"[a-z]{5,}(oma|emia)", word.lower()) and word.lower() not in _BENIGN:
            yield word.lower()
