"""With tokens, only their owners have access; without, only this machine has, except for foreign pages in a browser."""

import pytest
from abstream.producer.gateway import tokens
from abstream.producer.gateway.tokens import Tokens, TokensUnusable

FIRST, SECOND = "the-first-clients-token", "the-second-clients-token"


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://elsewhere.example"},
        {"Origin": "null"},
        {"Host": "elsewhere.example"},
        {"Host": "127.0.0.1.elsewhere.example:8080"},
        {"Host": "[::1"},
        {"Origin": "http://[::1"},
    ],
)
async def test_without_tokens_a_page_of_somebody_else_is_refused(client, headers):
    """By its origin, by a host name of its own that points here, or by an invalid host."""
    answer = await client.get("/v1/predictions", headers=headers)
    assert (answer.status_code, answer.json()["type"]) == (403, "urn:abstream:problem:foreign")


async def test_its_own_pages_and_those_that_are_named_may_ask(gateway):
    async with gateway(cors_origin=("https://known.example",)) as client:
        for headers in ({"Origin": "http://127.0.0.1"}, {"Origin": "https://known.example"}, {"Host": "localhost:1"}):
            assert (await client.get("/v1/predictions", headers=headers)).status_code == 200


async def test_with_tokens_each_client_sees_its_own_abstracts(gateway, tmp_path):
    (tmp_path / "tokens").write_text(f"# who may ask\none {FIRST}\ntwo {SECOND}\n")
    async with gateway(tokens_file=tmp_path / "tokens") as client:
        for header in ({}, {"Authorization": "Bearer nobodys-token-of-all"}, {"Authorization": f"Basic {FIRST}"}):
            refused = await client.get("/v1/abstracts/1", headers=header)
            assert (refused.status_code, refused.headers["WWW-Authenticate"]) == (401, "Bearer")
        one, two = ({"Authorization": f"Bearer {token}"} for token in (FIRST, SECOND))
        assert (await client.post("/v1/abstracts", headers=one, json={"id": "1", "title": "T"})).status_code == 202
        assert (await client.get("/v1/abstracts/1", headers=one)).json()["status"] == "queued"
        assert (await client.get("/v1/abstracts/1", headers=two)).status_code == 404
        assert (await client.get("/healthz")).status_code == 200, "whoever watches over it has no token"


async def test_where_one_clients_name_begins_anothers_they_see_nothing_of_each_other(gateway, tmp_path):
    (tmp_path / "tokens").write_text(f"one {FIRST}\non {SECOND}\n")
    one, on = ({"Authorization": f"Bearer {token}"} for token in (FIRST, SECOND))
    async with gateway(tokens_file=tmp_path / "tokens") as client:
        assert (await client.post("/v1/abstracts", headers=one, json={"id": "1", "title": "T"})).status_code == 202
        assert (await client.get("/v1/abstracts/e1", headers=on)).status_code == 404


def test_a_file_of_tokens_is_read_again_when_it_has_changed(tmp_path, monkeypatch):
    monkeypatch.setattr(tokens, "_LOOK_SECONDS", 0)
    file = tmp_path / "tokens"
    file.write_text(f"one {FIRST}\n")
    known = Tokens(file)
    file.write_text(f"one {FIRST}\none {SECOND}\n")
    assert (known.owner(FIRST), known.owner(SECOND)) == ("one", "one")
    file.write_text("short\n")
    assert known.owner(SECOND) == "one", "what cannot be used changes nothing"
    file.write_text(f"{SECOND}\n")
    assert (known.owner(FIRST), known.owner(SECOND)) == (None, "")


def test_a_mark_that_an_editor_put_in_front_is_no_part_of_the_first_token(tmp_path):
    (tmp_path / "tokens").write_text(f"{FIRST}\n", encoding="utf-8-sig")
    assert Tokens(tmp_path / "tokens").owner(FIRST) == ""


@pytest.mark.parametrize("content", ["", "# none\n", "short\n", f"a name {FIRST}\n"])
def test_a_file_without_a_token_that_can_be_used_is_said(tmp_path, content):
    (tmp_path / "tokens").write_text(content)
    with pytest.raises(TokensUnusable, match="tokens"):
        Tokens(tmp_path / "tokens")
