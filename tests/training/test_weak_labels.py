"""A dictionary's opinion: not a person's, but a steady one."""

import pytest
from abstream import Abstract
from abstream.training.weak_labels import WeakLabels

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
