"""The forward pass is transformers' Phi-3, whatever its form: shared heads, half-turned heads, windows, LongRoPE."""

import pytest
import torch
from abstream.consumer.engine.forward import Forward, Network, pack, served, trained
from abstream.consumer.engine.reference import reference_logits
from abstream.consumer.engine.shape import shape_of
from abstream.consumer.engine.tokens import PromptEncoder
from abstream.schemas import ONCOLOGY, Abstract, ModelUnusable, Prompt
from transformers import Phi3Config, Phi3ForCausalLM

TEXTS = ["A longer one, of the spread of tumours", "S", "", "words " * 150]
FORMS = {
    "plain": {},
    "shared heads": {"num_key_value_heads": 2},
    "half-turned heads": {"partial_rotary_factor": 0.5},
    "a window that prompts outgrow": {"sliding_window": 200},
    "tied embeddings": {"tie_word_embeddings": True},
    "LongRoPE": {
        "max_position_embeddings": 8192,
        "original_max_position_embeddings": 1024,
        "rope_scaling": {"type": "longrope", "short_factor": [1.0, 1.1] * 4, "long_factor": [2.0] * 8},
    },
}


@pytest.fixture
def encoder(phi3_nano) -> PromptEncoder:
    return PromptEncoder(phi3_nano, Prompt(ONCOLOGY), 1024)


@pytest.fixture
def batch(encoder):
    return [encoder.encode(Abstract.model_construct(title="", abstract=text)) for text in TEXTS]


def phi3_of(form: str) -> Phi3ForCausalLM:
    sizes = {"vocab_size": 12_288, "hidden_size": 64, "intermediate_size": 96}
    torch.manual_seed(1)
    layers = {"num_hidden_layers": 3, "num_attention_heads": 4, "pad_token_id": 1}
    return Phi3ForCausalLM(Phi3Config(**sizes, **layers, **FORMS[form])).eval()


def networks(phi3: Phi3ForCausalLM) -> list[Network]:
    return [trained(phi3), served(phi3.state_dict(), shape_of(phi3.config.to_dict()))]


@pytest.mark.parametrize("form", FORMS)
def test_the_answers_are_those_of_transformers(form, encoder, batch):
    phi3 = phi3_of(form)
    expected = [torch.tensor(reference_logits(phi3, encoder, tokens)[1]) for tokens in batch]

    for network in networks(phi3):
        with torch.inference_mode():
            _, given = Forward(network, encoder).slot_logits(*pack(batch, phi3.device))
        torch.testing.assert_close(given, torch.stack(expected), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("form", FORMS)
def test_gradients_are_those_of_transformers(form, encoder, batch):
    """Also through the prompt's fixed beginning, which is run once for all."""
    phi3 = phi3_of(form)

    def gradients(loss: torch.Tensor) -> list[torch.Tensor]:
        return list(torch.autograd.grad(loss, list(phi3.model.parameters())))

    first, second = Forward(trained(phi3), encoder).slot_logits(*pack(batch, phi3.device))
    given = gradients((first**2).sum() + (second**2).sum())

    loss = torch.zeros(())
    for tokens in batch:
        logits = phi3(input_ids=torch.tensor([tokens.ids]), use_cache=False).logits[0]
        for slot in encoder.slots:
            loss = loss + (logits[slot.offset, list(slot.labels)] ** 2).sum()
    torch.testing.assert_close(given, gradients(loss), rtol=1e-4, atol=1e-4 * max(map(torch.max, given)).item())


def test_every_state_is_that_of_transformers(encoder, batch):
    phi3 = phi3_of("plain")
    run = Forward(trained(phi3), encoder)
    ids, lengths = pack(batch, phi3.device)

    states = run.all_states(ids, lengths)

    whole = [phi3.model(input_ids=torch.tensor([tokens.ids])).last_hidden_state[0] for tokens in batch]
    begins = len(encoder.prefix)
    torch.testing.assert_close(states, torch.cat([each[begins:] for each in whole]), atol=1e-5, rtol=1e-4)
    assert states[run.slots_of(lengths)].shape == (len(batch) * len(encoder.slots), 64)


def test_a_model_of_another_activation_is_not_served():
    with pytest.raises(ModelUnusable, match="'gelu'"):
        shape_of({"hidden_act": "gelu"})
