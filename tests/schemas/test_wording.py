"""Invalid values are answered with what they must be, in words for people who have not read the model."""

from typing import Annotated, Literal

import pytest
from abstream.schemas.wording import first, otherwise
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, ValidationError


class Form(BaseModel):
    model_config = ConfigDict(extra="forbid")

    text: Annotated[str, StringConstraints(min_length=1, max_length=5)] = "a"
    code: Annotated[str, StringConstraints(pattern="^[a-z]$")] = "a"
    name: Annotated[str, StringConstraints(pattern="^[a-z]+$"), otherwise("must be lower-case letters")] = "a"
    whole: Annotated[int, Field(ge=1, le=3)] = 1
    share: Annotated[float, Field(gt=0, lt=1)] = 0.5
    yes: bool = True
    lane: Literal["interactive", "bulk"] = "bulk"
    several: tuple[str, ...] = ()
    pairs: dict[str, int] = {}
    time: AwareDatetime | None = None


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"text": ""}, "text: must not be empty"),
        ({"text": "abcdef"}, "text: must have at most 5 characters"),
        ({"text": 7}, "text: must be a string"),
        ({"code": "1"}, "code: must match the pattern ^[a-z]$"),
        ({"name": "A"}, "name: must be lower-case letters"),
        ({"name": None}, "name: must be lower-case letters"),
        ({"whole": 0}, "whole: must be at least 1"),
        ({"whole": 4}, "whole: must be at most 3"),
        ({"whole": 1.5}, "whole: must be a whole number"),
        ({"whole": "many"}, "whole: must be a whole number"),
        ({"share": 0}, "share: must be greater than 0.0"),
        ({"share": 1}, "share: must be less than 1.0"),
        ({"share": "half"}, "share: must be a number"),
        ({"yes": "perhaps"}, "yes: must be true or false"),
        ({"lane": "fast"}, "lane: must be 'interactive' or 'bulk'"),
        ({"several": "one"}, "several: must be a list"),
        ({"several": ["a", 2]}, "several.1: must be a string"),
        ({"pairs": []}, "pairs: must be an object"),
        ({"time": "2026-01-31T12:00:00"}, "time: must be a time with its zone, such as 2026-01-31T12:00:00Z"),
        ({"time": "soon"}, "time: must be a time with its zone, such as 2026-01-31T12:00:00Z"),
        ({"other": 1}, "other: is unknown: correct the name, or leave it out"),
    ],
)
def test_a_wrong_value_is_told_what_it_must_be(values, said):
    with pytest.raises(ValidationError) as wrong:
        Form.model_validate(values)
    assert first(wrong.value) == said
