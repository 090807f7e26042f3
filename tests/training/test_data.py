"""Labelled data is read without guessing, and its errors are reported before any training."""

import csv
import gzip
import json
import random
from collections import Counter

import pytest
from abstream.schemas import ONCOLOGY, Abstract, Condition, Question, Task
from abstream.training.data import DataInvalid, Labelled, class_weights, digest, learnable, load, split, unseen

ROWS = [
    {"id": "1", "title": "Breast", "text": "Women.", "label": "Cancer", "cancer_type": "breast"},
    {"id": "2", "title": None, "text": "A hip, with “quotes”,\nand β.", "label": "Non-Cancer", "cancer_type": None},
    {"id": "3", "title": "A title alone", "text": "", "label": "Cancer", "cancer_type": None},
]
ANSWERS = [{"cancer": "Cancer", "cancer_type": "breast"}, {"cancer": "Non-Cancer"}, {"cancer": "Cancer"}]


def labelled(id: str, text: str, **answers: str) -> Labelled:
    return Labelled(id, Abstract(title=None, abstract=text), answers)


def as_jsonl(path, rows):
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def as_json(path, rows):
    path.write_text(json.dumps(rows, indent=1))


def as_gzip(path, rows):
    path.write_bytes(gzip.compress("".join(f"{json.dumps(row)}\n" for row in rows).encode()))


def as_csv(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def as_gzipped_csv(path, rows):
    as_csv(path, rows)
    path.write_bytes(gzip.compress(path.read_bytes()))


def as_parquet(path, rows):
    from datasets import Dataset

    Dataset.from_list(rows).to_parquet(path)


WRITERS = {
    "d.jsonl": as_jsonl,
    "d.json": as_json,
    "d.jsonl.gz": as_gzip,
    "d.csv": as_csv,
    "d.csv.gz": as_gzipped_csv,
    "d.parquet": as_parquet,
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_records(tmp_path, name):
    WRITERS[name](tmp_path / name, ROWS)

    records = load(str(tmp_path / name), ONCOLOGY)

    assert [one.id for one in records] == ["1", "2", "3"]
    assert [one.answers for one in records] == ANSWERS
    assert records[1].abstract == Abstract(title=None, abstract=ROWS[1]["text"])


@pytest.mark.parametrize("name", ["d.csv", "d.jsonl"])
def test_values_are_taken_as_they_stand(tmp_path, name):
    """The id 007 is not a number, None is a label if it is called so, and a title may look like a date."""
    task = Task(name="t", questions=(Question(name="drug", text="Which?", labels=("None", "1")),))
    rows = [
        {"id": "007", "title": "2020-01-02", "text": "NA", "drug": "None"},
        {"id": "008", "title": "2020-01-03", "text": "nan", "drug": "1"},
    ]
    WRITERS[name](tmp_path / name, rows)

    records = load(str(tmp_path / name), task)

    assert [one.id for one in records] == ["007", "008"]
    assert [one.abstract.title for one in records] == ["2020-01-02", "2020-01-03"]
    assert [one.abstract.abstract for one in records] == ["NA", "nan"]
    assert [one.answers["drug"] for one in records] == ["None", "1"]


def test_a_column_may_be_empty_for_as_long_as_it_likes(write):
    """The first records have no type: a guessed column type would fail at the first one that has."""
    rows = [{**ROWS[1], "id": str(n), "text": "x" * 2_000} for n in range(6_000)]

    records = load(write("d.jsonl", [*rows, {**ROWS[0], "id": "last"}]), ONCOLOGY)

    assert records[-1].answers == ANSWERS[0]


def test_a_file_that_was_changed_is_read_anew(write):
    """Even if it was changed within the same second, with the same name and size."""
    assert load(write("d.jsonl", [{**ROWS[0], "title": "old"}]), ONCOLOGY)[0].abstract.title == "old"
    assert load(write("d.jsonl", [{**ROWS[0], "title": "new"}]), ONCOLOGY)[0].abstract.title == "new"


def test_labels_that_are_kept_as_numbers_have_their_names(tmp_path):
    from datasets import ClassLabel, Dataset, Features, Value

    features = Features({"text": Value("string"), "label": ClassLabel(names=["Non-Cancer", "Cancer"])})
    data = Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}, features=features)
    data.to_parquet(tmp_path / "d.parquet")

    assert [one.answers["cancer"] for one in load(str(tmp_path / "d.parquet"), ONCOLOGY)] == ["Cancer", "Non-Cancer"]


@pytest.mark.parametrize("written", ["Non-Cancer", "non_cancer", "NON CANCER ", "non-cancer"])
def test_a_label_may_be_written_in_another_case(write, written):
    assert load(write("d.jsonl", [{"title": "T", "label": written}]), ONCOLOGY)[0].answers == {"cancer": "Non-Cancer"}


def test_labels_that_differ_by_case_alone_are_told_apart(write):
    task = Task(name="t", questions=(Question(name="gene", text="Which?", labels=("p53", "P53")),))

    assert load(write("d.jsonl", [{"title": "T", "gene": "P53"}]), task)[0].answers == {"gene": "P53"}
    with pytest.raises(DataInvalid, match="unknown label ' P53'"):
        load(write("d.jsonl", [{"title": "T", "gene": " P53"}]), task)


def test_a_later_answer_implies_the_one_that_it_depends_on(write):
    records = load(write("d.jsonl", [{"title": "T", "cancer_type": "lung"}]), ONCOLOGY)
    assert records[0].answers == {"cancer": "Cancer", "cancer_type": "lung"}


def test_the_column_of_a_question_is_called_like_it(write):
    task = Task(
        name="design",
        questions=(
            Question(name="trial", text="Is it a trial?", labels=("yes", "no")),
            Question(name="phase", text="?", labels=("1", "2"), asked_if=Condition(question="trial", label="yes")),
        ),
    )
    path = write("d.jsonl", [{"abstract": "A.", "trial": "no"}, {"abstract": "B.", "label": "yes", "phase": 2}])

    assert [one.answers for one in load(path, task)] == [{"trial": "no"}, {"trial": "yes", "phase": "2"}]


def test_an_id_is_a_name_and_never_shown_to_a_model(write):
    """Without an id, the pmid is used; without either, the position in the file."""
    rows = [{"pmid": 38048813, "title": "T", "label": "Cancer"}, {"title": "U", "label": "Cancer"}]

    records = load(write("d.jsonl", rows), ONCOLOGY)

    assert [one.id for one in records] == ["38048813", "d.jsonl:2"]
    assert records[0].abstract == Abstract(title="T", abstract="")


LABELS = "known are Cancer, Non-Cancer"


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"label": None, "cancer_type": None}, "no label: fill 'label', 'cancer' or 'cancer_type': row 2"),
        ({"label": "tumour"}, f"cancer: unknown label 'tumour', {LABELS}: row 2"),
        ({"label": 3}, f"cancer: unknown label '3', {LABELS}: row 2"),
        ({"cancer_type": "toe"}, "cancer_type: unknown label 'toe'"),
        ({"title": "", "text": ""}, "title and abstract are both empty"),
        ({"title": ["T"]}, "title: must be a string: row 2"),
        ({"label": "Non-Cancer"}, "cancer is 'Non-Cancer', but a later answer is only possible for 'Cancer': row 2"),
        ({"id": "1", "cancer_type": "lung"}, "the id '1' has different labels: rows 1, 2"),
    ],
)
def test_a_row_that_is_wrong_is_named_with_what_is_wrong(write, row, told):
    path = write("d.jsonl", [ROWS[0], {**ROWS[0], "id": "9", **row}])

    with pytest.raises(DataInvalid) as caught:
        load(path, ONCOLOGY)

    assert str(caught.value).startswith(f"{path}: ")
    assert told in str(caught.value)


def test_everything_that_is_wrong_is_told_at_once(tmp_path):
    """With the first rows of each kind of problem, and the number of further ones."""
    lines = [
        json.dumps(row) for row in (*ROWS, {"label": "Cancer"}, *[{"title": "T"}] * 7, {"label": "x", "title": "T"})
    ]
    (tmp_path / "d.jsonl").write_text("\n".join([*lines, "not JSON", "", "[1, 2]"]))

    with pytest.raises(DataInvalid) as caught:
        load(str(tmp_path / "d.jsonl"), ONCOLOGY)

    told = str(caught.value).split("; ")
    assert len(told) == 4
    assert told[0].endswith("row 4")
    assert told[1] == "no label: fill 'label', 'cancer' or 'cancer_type': rows 5, 6, 7, 8, 9 and 2 more"
    assert told[2].endswith("row 12")
    assert told[3] == "not a JSON object: rows 13, 15"


def test_an_error_does_not_grow_with_the_data(write):
    """A column of free text that is called label gives as many kinds of problems as there are rows."""
    with pytest.raises(DataInvalid, match="and 490 more kinds") as caught:
        load(write("d.jsonl", [{"title": "T", "label": f"wrong {n}"} for n in range(500)]), ONCOLOGY)
    assert len(str(caught.value)) < 2_000


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("empty.jsonl", b"", "holds no record"),
        ("blank.jsonl", b"\n\n", "holds no record"),
        ("empty.csv", b"", "holds no record"),
        ("header.csv", b"id,title,text,label\n", "holds no record"),
        ("empty.json", b"", "holds no record"),
        ("none.json", b"[]", "holds no record"),
        ("empty.jsonl.gz", gzip.compress(b"", mtime=0), "holds no record"),
        ("empty.parquet", b"", "cannot be read"),
        ("broken.parquet", b"PAR1 and then something else", "cannot be read"),
        ("broken.json", b"[{]", "cannot be read"),
        ("prose.jsonl", b"Dear reader,\n", "not a JSON object: row 1"),
        ("plain.jsonl.gz", b'{"id": "1"}\n', "cannot be read"),
        ("cut.jsonl.gz", gzip.compress(bytes(random.Random(1).randbytes(5_000)))[:2_000], "cannot be read"),
        ("latin.jsonl", b'{"title": "caf\xe9"}\n', "cannot be read: it is not UTF-8: save it as UTF-8"),
        ("excel.csv", b"title;label\nT;Cancer\n", "cannot be read: the header has none of title, text, abstract, but "),
        ("table.tsv", b"title\tlabel\nT\tCancer\n", r"is none of \.jsonl, .*: convert or rename it"),
        ("ragged.csv", b"title,label\nT,Cancer,3\n", "more fields than the header: row 1"),
    ],
)
def test_a_file_without_records_is_told_from_one_that_cannot_be_read(tmp_path, name, content, told):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataInvalid, match=f"{name}: {told}"):
        load(str(tmp_path / name), ONCOLOGY)


def test_a_file_that_is_missing_is_named(tmp_path):
    with pytest.raises(DataInvalid, match=r"missing\.jsonl\.gz: there is no such file"):
        load(str(tmp_path / "missing.jsonl.gz"), ONCOLOGY)


def test_what_is_neither_a_file_nor_a_data_set_is_told_so(monkeypatch):
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DataInvalid, match=r"nobody/nothing: is neither a file \(\.jsonl, .*\) nor a data set"):
        load("nobody/nothing", ONCOLOGY)


def test_one_class_only_is_no_data_to_learn_from():
    cancers = [labelled(str(n), f"text {n}", cancer="Cancer") for n in range(3)]
    with pytest.raises(DataInvalid, match=r"d\.jsonl: one class only \(cancer is always Cancer\)"):
        learnable(cancers, ONCOLOGY, "d.jsonl")


def test_a_question_that_is_always_answered_alike_is_not_learned():
    """Data about cancers alone, labelled with their types, must not teach that everything is Cancer."""
    cancers = [
        labelled(str(n), f"text {n}", cancer="Cancer", cancer_type=kind) for n, kind in enumerate(("eye", "lung"))
    ]
    assert learnable(cancers, ONCOLOGY, "d.jsonl") == {"cancer_type"}


def many(n: int = 200) -> list[Labelled]:
    return [labelled(str(i), f"text {i}", cancer="Cancer" if i % 4 else "Non-Cancer") for i in range(n)]


def test_a_split_depends_on_the_seed_alone():
    records = many()
    larger, smaller = split(records, 0.1, 7)

    assert split(random.Random(1).sample(records, len(records)), 0.1, 7) == (larger, smaller), "not on the order"
    assert {one.id for one in split(records, 0.1, 8)[1]} != {one.id for one in smaller}
    assert sorted(one.id for one in (*larger, *smaller)) == sorted(one.id for one in records), "nothing is lost"


def test_a_split_has_its_share_of_every_combination_of_answers():
    smaller = split(many(), 0.1, 7)[1]
    assert Counter(one.answers["cancer"] for one in smaller) == {"Cancer": 15, "Non-Cancer": 5}


def test_rare_answers_are_owed_their_share_together():
    """Twenty types with three records each: a tenth of sixty is six, not twenty times none."""
    kinds = ONCOLOGY.questions[1].labels
    records = [
        labelled(f"{kind} {n}", f"{kind} {n}", cancer="Cancer", cancer_type=kind) for kind in kinds for n in range(3)
    ]
    assert len(split(records, 0.1, 7)[1]) == 6


def test_records_that_stay_together_count_as_many():
    pairs = [labelled(f"{n} {copy}", f"Text {n}", cancer="Cancer") for n in range(20) for copy in range(2)]
    assert len(split(pairs, 0.1, 7)[1]) == 4


@pytest.mark.parametrize("seed", range(20))
def test_what_shares_an_id_or_a_text_stays_on_one_side(seed):
    """Also indirectly: a and b share an id, b and c a text."""
    rng = random.Random(seed)
    records = [labelled(str(rng.randrange(60)), f"Text  {rng.randrange(80)}", cancer="Cancer") for _ in range(100)]
    records += [labelled("x", "TEXT 1", cancer="Cancer"), labelled("y", "text 1 ", cancer="Non-Cancer")]

    larger, smaller = split(records, 0.4, seed)

    assert len(larger) + len(smaller) == len(records)
    assert not {one.id for one in larger} & {one.id for one in smaller}
    assert not {one.text for one in larger} & {one.text for one in smaller}


def test_a_text_that_is_judged_by_is_not_learned_from():
    """The same id means nothing: two files may both number their rows."""
    judged_on = [labelled("1", "another", cancer="Cancer"), labelled("z", "Text 3", cancer="Cancer")]
    assert [one.id for one in unseen(many(5), judged_on)] == ["0", "1", "2", "4"]


def test_the_digest_tells_data_apart_and_not_their_order():
    records = many(20)
    assert digest(records) == digest(reversed(records))
    assert digest(records) != digest(records[1:])
    assert digest(records) != digest([*records[1:], labelled("0", "text 0", cancer="Cancer")])


def test_class_weights_make_every_label_count_alike():
    records, question = many(200), ONCOLOGY.questions[0]
    weights = class_weights(records, question)

    counts = Counter(one.answers["cancer"] for one in records)
    assert [weight * counts[label] for weight, label in zip(weights, question.labels, strict=True)] == [100, 100]


def test_a_label_that_does_not_occur_weighs_one():
    question = ONCOLOGY.questions[0]
    assert class_weights([labelled("1", "a", cancer="Cancer")], question) == [1.0, 1.0]
    assert class_weights([], question) == [1.0, 1.0]
