"""The shape is read from configurations of all versions of transformers; what the engine lacks is refused by name."""

from typing import Any

import pytest
from abstream.consumer.engine.shape import shape_of
from abstream.schemas import ModelUnusable
from transformers import Phi3Config

FACTORS = {"short_factor": [1.0] * 8, "long_factor": [2.0] * 8}


def config_of(**fields: Any) -> dict[str, Any]:
    sizes = {"hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2, "max_position_embeddings": 131_072}
    return sizes | fields


@pytest.mark.parametrize("kind", ["longrope", "su", "yarn"])
def test_all_names_of_longrope_are_one_whether_or_not_the_configuration_gives_its_first_length(kind):
    silent = config_of(rope_scaling={"type": kind, **FACTORS})
    newest = config_of(rope_scaling={"type": "longrope", **FACTORS}, original_max_position_embeddings=4096)

    assert shape_of(silent) == shape_of(newest) == shape_of(Phi3Config(**newest).to_dict())
    assert shape_of(silent).max_tokens == 4096


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"hidden_act": "gelu"}, "'gelu'"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "'linear', with 0 short factors"),
        ({"rope_scaling": {"type": "yarn", "factor": 2.0}}, "'yarn', with 0 short factors"),
        ({"rope_parameters": {"rope_type": "longrope", **FACTORS, "partial_rotary_factor": 0.5}}, "8 short factors"),
        ({"head_dim": 32}, "4 heads do not make up its hidden size, 64"),
        ({"num_attention_heads": 6}, "6 heads do not make up its hidden size, 64"),
    ],
)
def test_a_model_with_parts_that_the_engine_lacks_is_not_served(fields, said):
    with pytest.raises(ModelUnusable, match=said):
        shape_of(config_of(**fields))
