"""What depends on a token alone is computed once, and gets the gradients of all places of the token."""

import torch
from abstream.consumer.engine.distinct import distinct, spread

IDS = torch.tensor([5, 3, 5, 5, 9, 3])


def test_each_token_occurs_once_and_is_copied_to_each_of_its_places():
    tokens, places = distinct(IDS)
    assert tokens.tolist() == [3, 5, 9]
    assert torch.equal(spread(tokens.unsqueeze(1), places), IDS.unsqueeze(1))


def test_the_gradients_of_a_frequent_token_are_added_without_rounding_in_between():
    """In bfloat16 a sum of ones stops at 256, where one more is rounded away."""
    _, places = distinct(torch.cat([torch.full((1000,), 7), torch.tensor([1])]))
    rows = torch.zeros(2, 3, dtype=torch.bfloat16, requires_grad=True)
    spread(rows, places).sum().backward()
    assert rows.grad.tolist() == [[1, 1, 1], [1000, 1000, 1000]]
