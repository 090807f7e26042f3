"""The dictionary's labels: not those of a person, but consistent."""

import pytest
from abstream import Abstract
from abstream.schemas import ONCOLOGY
from abstream.training.cancer_words import TYPE_WORDS
from abstream.training.weak_labels import WeakLabels, type_weights

ONTOLOGY = """
[Term]
id: DOID:1
name: seminoma
synonym: "pinealoma" EXACT []

[Term]
id: DOID:2
name: lipoma
"""


@pytest.fixture
def label(tmp_path) -> WeakLabels:
    path = tmp_path / "cancer.obo"
    path.write_text(ONTOLOGY)
    return WeakLabels(path)


def test_cancer_named_in_a_title_is_cancer_with_its_type(label):
    abstract = Abstract(title="Trastuzumab in breast cancer", abstract="Women with breast tumours were treated.")
    assert label(abstract) == {"cancer": "Cancer", "cancer_type": "breast"}


def test_one_mention_in_passing_is_not_enough(label):
    assert label(Abstract(title="Hip fracture", abstract="No patient had cancer.")) == {"cancer": "Non-Cancer"}


def test_a_name_from_the_ontology_counts_and_a_benign_one_does_not(label):
    assert label(Abstract(title="Stage I seminoma", abstract=""))["cancer"] == "Cancer"
    assert label(Abstract(title="Giant lipoma of the back", abstract="A lipoma."))["cancer"] == "Non-Cancer"


def test_two_types_in_balance_are_no_type(label):
    abstract = Abstract(title="Breast cancer and lung cancer screening", abstract="")
    assert label(abstract) == {"cancer": "Cancer"}


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        pytest.param(
            "Carcinoma of the colon, smoking, and EGFR in smokers",
            "colorectal",
            id="a site beside cancer outweighs signs",
        ),
        pytest.param(
            "Colon cancer with liver metastases and metastasis to the brain",
            "colorectal",
            id="where it went is left out",
        ),
        pytest.param("Melanoma of the back: melanoma cells", "skin_melanoma", id="melanoma is of the skin"),
        pytest.param("Uveal melanoma: melanoma cells, melanoma", "eye", id="but where it is of the eye"),
        pytest.param(
            "Vertical non-small-cell disease; the liver was normal", "lung", id="hyphens are as good as spaces"
        ),
        pytest.param("Tamoxifen and mastectomy", "breast", id="two signs are enough where there is nothing else"),
        pytest.param("Tamoxifen", None, id="one is not"),
        pytest.param("Colonialism, ironic bilateral slings", None, id="words are whole words"),
    ],
)
def test_the_type_is_what_most_words_speak_for(label, text, kind):
    assert label.kind(Abstract(abstract=text)) == kind


def test_a_word_in_the_title_weighs_three_times():
    in_title = type_weights(Abstract(title="Lung cancer", abstract="Breast cancer"))
    assert in_title["lung"] == 3 * in_title["breast"]


def test_the_words_are_of_the_types_of_the_task():
    assert TYPE_WORDS.keys() == set(ONCOLOGY.questions[1].labels)
