"""The table of faults in README.md beside this file is true: every test and every row that it names exists."""

import re
from pathlib import Path

from abstream.ops.chaos.program import ROWS

HERE = Path(__file__).parent
FAULTS = [line.split("|")[1:-1] for line in (HERE / "README.md").read_text().splitlines() if re.match(r"\| \d", line)]


def named(cell: str) -> list[str]:
    return re.findall("`([^`]+)`", cell)


def test_each_of_thirty_faults_has_a_test_or_a_chaos_row():
    assert [int(number) for number, *_ in FAULTS] == list(range(1, 31))
    assert all(named(rows) + named(tests) for _, _, rows, tests in FAULTS)


def test_the_table_names_exactly_the_rows_of_abstream_chaos():
    assert {row for _, _, rows, _ in FAULTS for row in named(rows)} == {row.name for row in ROWS}


def test_the_tests_exist():
    for test in [test for *_, tests in FAULTS for test in named(tests)]:
        file, name = test.split("::")
        assert re.search(rf"^(async )?def {name}\(", (HERE / file).read_text(), re.MULTILINE), test
