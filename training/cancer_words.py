"""The words that indicate each type of cancer, as regular expressions.

A space stands for a space or a hyphen. Each type has names of its cancers; sites where it grows, which indicate it if
cancer is named beside them; and signs, such as genes and drugs, which other types have as well.
"""

import re
from typing import NamedTuple


class TypeWords(NamedTuple):
    names: str
    sites: str
    signs: str


TYPE_WORDS = {
    "bladder_urothelial": TypeWords(
        names=r"transitional cell(?: carcinomas?)?",
        sites=r"(?:urinary )?bladder|urotheli\w+",
        signs=r"intravesical|transurethral|cystectom\w+|bcg",
    ),
    "brain_cns": TypeWords(
        names=r"\w*gliomas?|\w*glioblastomas?|\w*astrocytomas?|\w*meningiomas?|medulloblastomas?|\w*ependymomas?"
        r"|craniopharyngiomas?|schwannomas?|acoustic neuromas?|neurinomas?|ha?emangioblastomas?|germinomas?|pinealomas?"
        r"|prolactinomas?|neurocytomas?|boron neutron capture",
        sites=r"brain|intracranial|pituitary|cns|central nervous system|skull base|spinal cord|intraventricular|pineal",
        signs=r"acromegal\w+|cerebell\w+|cerebr\w+|spinal|neurosurg\w+|temozolomide|optic|cranial",
    ),
    "breast": TypeWords(
        names=r"mcf 7",
        sites=r"breast\w*|mammary",
        signs=r"her 2\S*|her2\S*|erbb2|trastuzumab|tamoxifen|letrozole|anastrozole|lapatinib|mastectom\w+|brca[12]?"
        r"|lumpectom\w+|axillary|o?estrogen receptors?|er positive|mammograph\w+|triple negative",
    ),
    "colorectal": TypeWords(
        names=r"m?crc|familial adenomatous polyposis|dukes\S*",
        sites=r"colorect\w+|colon|colonic|rectal|rectum|sigmoid",
        signs=r"adenomatous|polyposis|hct 116|sw480|ht 29|caco 2|folfox\S*|folfiri\S*",
    ),
    "esophagus_stomach": TypeWords(
        names=r"escc|barrett\S*",
        sites=r"o?esophag\w+|gastric|stomach|gastro o?esophageal|cardia",
        signs=r"gastrectom\w+|pylori",
    ),
    "eye": TypeWords(
        names=r"retinoblastomas?"
        r"|(?:uveal|choroidal|ocular|intraocular|conjunctival|iris|ciliary body)(?: malignant)? melanomas?"
        r"|melanomas? of the (?:uvea|choroid|eye|iris|ciliary body|conjunctiva)",
        sites=r"uvea\w*|choroid\w*|ocular|intraocular|conjunctiv\w+|iris|eyelids?|orbit\w*|ciliary body|eyes?",
        signs=r"enucleated|visual acuity|retina\w*|lacrimal|ophthalm\w+",
    ),
    "head_neck": TypeWords(
        names=r"hnscc|npc|head and neck|adenoid cystic",
        sites=r"laryn\w+|pharyn\w+|nasopharyn\w+|oropharyn\w+|hypopharyn\w+|tongue|tonsil\w*|oral|salivary|parotid"
        r"|submandibular|paranasal|maxill\w+|sinonasal|mouth|nasal|ethmoid\w*|\w*glotti\w*",
        signs=r"neck|xerostomia|mandib\w+|epstein barr|vocal|trache\w+",
    ),
    "kidney": TypeWords(
        names=r"renal cell(?: carcinomas?)?|(?:cc)?rcc|wilms\S*|nephroblastomas?|hypernephromas?",
        sites=r"renal|kidneys?",
        signs=r"nephrectom\w+|sunitinib|vhl",
    ),
    "leukemia": TypeWords(
        names=r"\w*leuka?emi\w+|aml|cml|cll|myelodysplas\w+|mds|bcr abl\w*|blast crisis|k 562|k562|hl 60",
        sites=r"bone marrow",
        signs=r"imatinib|blasts?|flt3\S*",
    ),
    "liver_biliary": TypeWords(
        names=r"hepatomas?|hepatocellular|hcc|\w*cholangiocarcinomas?|hepatoblastomas?|klatskin\S*|hep ?g2|huh 7",
        sites=r"liver|hepat\w+|biliary|bile ducts?|gall ?bladder",
        signs=r"cholangi\w+|cirrho\w+|sorafenib|chemoemboli\w+",
    ),
    "lung": TypeWords(
        names=r"nsclc|sclc|non small cell(?: lung)?|small cell lung|a549|bronchogenic",
        sites=r"lungs?|bronch\w+|pulmonary",
        signs=r"egfr|alk positive|alk|erlotinib|gefitinib|pemetrexed|thora\w+|smok\w+",
    ),
    "lymphoma_myeloma": TypeWords(
        names=r"(?:cutaneous )?[tb] cell lymphomas?|\w*lymphomas?|hodgkin\S*|myelomas?|burkitt\S*|dlbcl|waldenstr\w+"
        r"|mycosis fungoides|s[eé]zary|plasm[ao]cytomas?|lymphoproliferative",
        sites=r"lymphoid",
        signs=r"rituximab|r chop|chop|bortezomib|thalidomide|lenalidomide|paraprotein\w*",
    ),
    "ovary": TypeWords(
        names=r"ovarian cancers?",
        sites=r"ovar\w+|fallopian|adnexal",
        signs=r"oophorectom\w+|ca 125|skov 3|teratomas?|granulosa",
    ),
    "pancreas": TypeWords(
        names=r"insulinomas?|gastrinomas?|pdac|zollinger\S*|glucagonomas?|islet cell|panc 1",
        sites=r"pancrea\w+|periampullary",
        signs=r"gemcitabine|whipple\S*|islets?",
    ),
    "prostate": TypeWords(
        names=r"gleason|castration resistant|pc 3|lncap|m?crpc",
        sites=r"prostat\w+",
        signs=r"psa|androgen\w*|brachytherapy|abiraterone|enzalutamide|hormone refractory|seminal vesicles?",
    ),
    "sarcoma_bone_soft_tissue": TypeWords(
        names=r"\w*sarcomas?|chordomas?|ewing\S*|gists?|gastrointestinal stromal|giant cell tumou?rs?(?: of bone)?"
        r"|osteoid osteomas?|osteomas?|chondromas?|osteochondromas?|desmoid\w*|fibromatosis|lipomas?|\w*histiocytomas?"
        r"|enchondromas?|ha?emangiopericytomas?|rhabdoid",
        sites=r"soft tissues?|bone",
        signs=r"limbs?|femur|tibia|extremit\w+|sacr\w+|fibrous",
    ),
    "skin_melanoma": TypeWords(
        names=r"basal cell\w*|merkel\w*|dysplastic nev\w+|keratoacanthomas?|cutaneous melanomas?|b16\S*",
        sites=r"skin|cutaneous",
        signs=r"braf|nev[iu]s?\w*|vemurafenib|dabrafenib|ipilimumab|sunlight|epiderm\w+|breslow\S*",
    ),
    "thyroid": TypeWords(
        names=r"(?:medullary|papillary|follicular|anaplastic) thyroid",
        sites=r"thyroid\w*",
        signs=r"radioiodine|goit\w+|calcitonin|131 ?i|men 2\w?",
    ),
    "uterus_cervix": TypeWords(
        names=r"cervical (?:cancer|carcinoma|intraepithelial|neoplas|dysplas)\w*|hydatidiform|trophoblastic"
        r"|choriocarcinomas?|leiomyomas?|hela|cin",
        sites=r"cervix|uter\w+|endometri\w+",
        signs=r"cervical|hpv\S*|papillomavirus\w*|hysterectom\w+|vagina\w*|gyna?ecolog\w+",
    ),
    "other": TypeWords(
        names=r"\w*seminomas?|\w*germ cell|neuroblastomas?|pha?eochromocytomas?|paragangliomas?"
        r"|mesotheliomas?|thymomas?|kaposi\S*|carcinoids?|unknown primary|adrenocortical|pseudomyxoma|carotid body"
        r"|glomus|neuroendocrine tumou?rs?",
        sites=r"\w*testi(?:s|cular)|thymic|thymus|vulva\w*|penile|penis|anal|anus|adrenal",
        signs=r"asbestos|catecholamine\w*|pleural|small bowel|duoden\w+|appendi\w+|mediastin\w+|orchiectom\w+"
        r"|peritone\w+",
    ),
}

# The groups of words that belong to no type, and to one of two.
ELSEWHERE, MELANOMA = "elsewhere", "melanoma"

# The site of a metastasis says little about where the cancer came from.
_ELSEWHERE = (
    r"(?:liver|hepatic|lungs?|pulmonary|bones?|cerebral|spinal|skin|cutaneous|peritoneal|adrenal|ovarian|orbital|choroidal)"
    r" metasta\w+|metasta\w+ (?:to|in) (?:the )?(?:liver|lungs?|brain|bones?|skin|spine)"
)
# Of the skin, unless the text names the eye.
_MELANOMA = r"melanomas?"


def _type_pattern() -> re.Pattern[str]:
    """One pattern for all words, in groups named ``TYPE_names``, ``TYPE_sites``, ``TYPE_signs``, and the two others.

    Names are tried before sites, and sites before signs, where both begin with the same word.
    """
    groups = {ELSEWHERE: _ELSEWHERE}
    for field in TypeWords._fields:
        groups |= {f"{kind}_{field}": getattr(words, field) for kind, words in TYPE_WORDS.items()}
        if field == "names":
            groups[MELANOMA] = _MELANOMA
    named = "|".join(f"(?P<{name}>{words})" for name, words in groups.items())
    return re.compile(rf"\b(?=\w)(?:{named})\b".replace(" ", r"[\s-]"), re.IGNORECASE)


TYPE_PATTERN = _type_pattern()
