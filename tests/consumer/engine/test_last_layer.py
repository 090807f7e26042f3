"""Run at the slots only, the last layer gives what it gives when it is run whole."""

import pytest
import torch
from abstream.consumer.engine.forward import SlotClassifier, pad
from abstream.consumer.engine.tokens import PromptEncoder
from abstream.schemas import ONCOLOGY, Abstract, Prompt
from transformers import Phi3Config, Phi3ForCausalLM

TEXTS = ["Short", "A longer one, of the spread of tumours", "words " * 150]


@pytest.fixture
def classifier(phi3_nano, heads, rotated) -> SlotClassifier:
    encoder = PromptEncoder(phi3_nano, Prompt(ONCOLOGY), 1024)
    config = Phi3Config(
        vocab_size=12_288,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=heads,
        partial_rotary_factor=rotated,
        pad_token_id=1,
    )
    torch.manual_seed(1)
    return SlotClassifier(Phi3ForCausalLM(config), encoder)


@pytest.fixture
def batch(phi3_nano):
    encoder = PromptEncoder(phi3_nano, Prompt(ONCOLOGY), 1024)
    return pad([encoder.encode(Abstract(abstract=text)) for text in TEXTS], torch.device("cpu"))


@pytest.mark.parametrize(("heads", "rotated"), [(4, 1.0), (2, 1.0), (4, 0.5)])
def test_logits_and_gradients_are_those_of_the_whole_layer(classifier, batch):
    ids, lengths = batch

    def gradients(logits: list[torch.Tensor]) -> list[torch.Tensor]:
        loss = sum((rows**2).sum() for rows in logits)
        return list(torch.autograd.grad(loss, list(classifier.phi3.model.layers.parameters())))

    trimmed = classifier(ids, lengths)
    whole = classifier.slot_logits(classifier.hidden_states(ids), lengths)

    torch.testing.assert_close(trimmed, whole, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gradients(trimmed), gradients(whole), rtol=1e-3, atol=1e-5)
