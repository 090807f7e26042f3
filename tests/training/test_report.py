"""The report is one HTML file that shows what a run achieved and where it did worse, and quotes no abstract."""

import re
from html import unescape

import numpy as np
import pytest
from abstream.schemas import Question
from abstream.training.evaluate import Answers, Comparison
from abstream.training.report import write_report

CANCER = Question(name="cancer", text="Is it about cancer?", labels=("Cancer", "Non-Cancer"))
KINDS = Question(name="kind", text="Which kind?", labels=("R&D", "50$ or 60$", "c_d", "'e'", "f", "unseen"))
FACTS = {"command": "abstream train --data <DATA>", "config": '{\n  "seed": 7\n}', "home": "https://example.org/x"}
HISTORY = [
    *({"epoch": step / 20, "loss": 2.0 - step / 40} for step in range(40)),
    {"epoch": 1, "validation_loss": 1.5},
    {"epoch": 2, "validation_loss": 1.25},
]


def judge(question: Question, right: float, n: int = 40) -> Answers:
    """Answers of which the first ``right`` are right; the last of the wrong ones is the most confident."""
    labels = len(question.labels)
    truth = np.arange(n) % min(labels, 5)
    answered = np.where(np.arange(n) < right * n, truth, (truth + 1) % min(labels, 5))
    sure = np.linspace(0.6, 0.95, n)
    probabilities = np.tile(((1 - sure) / (labels - 1))[:, None], (1, labels))
    probabilities[np.arange(n), answered] = sure
    return Answers(question, tuple(f"PMID{number}" for number in range(n)), truth, probabilities)


def comparison(question: Question, before: float, after: float, **baselines: float) -> Comparison:
    others = {name: judge(question, right) for name, right in baselines.items()}
    return Comparison(judge(question, before), judge(question, after), others)


COMPARISONS = {
    "cancer": comparison(CANCER, before=0.6, after=0.9, majority=0.5, tfidf=0.95),
    "kind": comparison(KINDS, before=0.3, after=0.8, majority=0.2),
}


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(path, "Run <1>", COMPARISONS, HISTORY, FACTS)
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def words(page) -> str:
    return words_of(page)


def words_of(page: str) -> str:
    """The visible text of a page, in one line."""
    bare = re.sub(r"<wbr>|<style>.*?</style>", "", page, flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", bare)).split())


def written(path, comparisons, history=(), facts=FACTS) -> str:
    write_report(path, "Run", comparisons, history, facts)
    return path.read_text(encoding="utf-8")


@pytest.mark.parametrize("question", COMPARISONS)
def test_every_figure_stands_there_with_its_interval(words, question):
    for judged in COMPARISONS[question].metrics.values():
        assert str(judged.accuracy) in words
        assert str(judged.macro_f1) in words
        assert f"{judged.calibration_error:.2%}" in words
    for judged in (COMPARISONS[question].metrics[which] for which in ("before", "after")):
        assert all(str(one) in words for one in judged.f1.values())


def test_the_improvement_is_after_less_before_in_points(words):
    assert re.search(r"Accuracy 60\.00% \[.*?\] 90\.00% \[.*?\] \+30\.00 \[\+\d", words)


def test_a_baseline_that_wins_is_named_and_so_is_the_doubt(words):
    assert re.search(r"On accuracy, the baseline “tfidf” is better by 5\.00 points \[0\.00, 12\.50\]\.", words)
    assert "The interval includes 0: 40 abstracts do not settle it." in words


def test_where_none_wins_the_closest_baseline_is_named(words):
    assert re.search(r"On accuracy, no baseline is better: “majority” comes closest, 60\.00 points \[", words)


def test_an_adapter_that_made_it_worse_is_not_praised(tmp_path):
    page = written(tmp_path / "report.html", {"cancer": comparison(CANCER, before=0.9, after=0.5)})
    assert "On accuracy, the bare base is better by 40.00 points" in words_of(page)


def test_intervals_and_their_n_are_explained(words):
    assert "95 % intervals: percentile bootstraps over the abstracts, 1,000 resamples" in words
    assert "2 labels, n = 40 abstracts" in words


def test_the_most_confident_errors_are_ids_the_surest_first(page):
    table = re.findall(r'<table class="errors">(.*?)</table>', page, re.DOTALL)[0]
    rows = [words_of(row) for row in table.split("<tr>")[2:]]
    assert rows[0] == "PMID39 Non-Cancer Cancer 95.00%"
    assert [row.split()[0] for row in rows] == ["PMID39", "PMID38", "PMID37", "PMID36"]


def test_a_run_without_errors_says_so(tmp_path):
    page = written(tmp_path / "report.html", {"cancer": comparison(CANCER, before=0.5, after=1.0)})
    assert "There are none: every answer is right." in words_of(page)


def test_labels_and_facts_are_text_not_markup(page, words):
    assert "Run <1>" in words
    assert "R&amp;D" in page
    assert "R&D" not in page
    assert "<DATA>" not in page
    assert "50$ or 60$" in words
    assert '{ "seed": 7 }' in words


def test_the_page_asks_no_server_for_anything(page):
    assert not re.search(r"<(link|script|img|iframe|object|base)\b|@import|@font-face", page)
    assert all(target.startswith("#") for target in re.findall(r'(?:href|src|action)="([^"]*)"', page))
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", page))
    assert re.findall(r"https?://[^\s<\"]*", page) == ["https://example.org/x"]


def test_every_drawing_says_what_it_shows_and_every_heading_of_a_table_what_it_heads(page):
    drawings = re.findall(r"<svg[^>]*>", page)
    assert len(drawings) == 2 * 4 + 1
    assert all('role="img"' in one and re.search(r'aria-label="[^"]+"', one) for one in drawings)
    assert all("scope=" in one for one in re.findall(r"<th\b[^>]*>", page))
    assert '<html lang="en">' in page


def test_no_id_stands_twice(page):
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert len(ids) == len(set(ids))
    assert {target[1:] for target in re.findall(r'href="([^"]*)"', page)} <= set(ids)


def test_a_label_that_nobody_met_has_no_f1(words):
    assert "unseen n = 0 – – –" in words


def test_the_loss_curve_names_the_best_epoch_and_smooths_the_training_loss(words):
    assert "The validation loss is lowest, 1.2500, after epoch 2." in words
    assert "training, mean of 2 steps" in words


def test_one_step_is_a_curve_too(tmp_path):
    page = written(tmp_path / "report.html", {}, history=[{"epoch": 0.0, "loss": 1.0}])
    assert "Training loss over epochs" in words_of(page)


def test_without_a_history_there_is_no_loss_curve(tmp_path):
    page = written(tmp_path / "report.html", {"cancer": COMPARISONS["cancer"]})
    assert "Training" not in page
    assert str(COMPARISONS["cancer"].metrics["after"].accuracy) in words_of(page)


def test_the_same_numbers_are_the_same_bytes(tmp_path, page):
    write_report(tmp_path / "again.html", "Run <1>", COMPARISONS, HISTORY, FACTS)
    assert (tmp_path / "again.html").read_bytes() == page.encode()
