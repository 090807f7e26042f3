"""What a request may bring: one abstract, a list or a file, of which size, under which media type and which ids."""

import json
from collections.abc import AsyncIterator

import pytest

from .conftest import TAMOXIFEN, waiting

CSV = "id,title,abstract\n1,Tamoxifen,We followed.\n3,,\n2,Sleep,We asked.\n"


@pytest.mark.parametrize(
    "wrong",
    [
        {"json": [TAMOXIFEN], "headers": {"Idempotency-Key": "k"}},
        {"content": CSV, "headers": {"Idempotency-Key": "k", "Content-Type": "text/csv"}},
        {"json": {**TAMOXIFEN, "id": "own"}, "headers": {"Idempotency-Key": "k"}},
    ],
    ids=["list", "file", "another id"],
)
async def test_an_idempotency_key_is_of_one_abstract_that_has_no_other_id(client, redis, streams, wrong):
    answer = await client.post("/v1/abstracts", **wrong)
    assert (answer.status_code, "`Idempotency-Key`" in answer.json()["detail"]) == (422, True)
    assert await waiting(redis, streams) == []


@pytest.mark.parametrize("dress", ["body", "key"])
@pytest.mark.parametrize(("characters", "code"), [(0, 422), (1_000, 202), (1_001, 422)])
async def test_an_id_has_one_to_a_thousand_characters(client, redis, streams, dress, characters, code):
    own = "i" * characters
    sent = {"json": {**TAMOXIFEN, "id": own}} if dress == "body" else {"headers": {"Idempotency-Key": own}}
    answer = await client.post("/v1/abstracts", **{"json": TAMOXIFEN, **sent})
    assert answer.status_code == code
    assert [event.id for event in await waiting(redis, streams)] == [own] * (code == 202)


@pytest.mark.parametrize(
    ("media_type", "code"),
    [("application/vnd.api+json", 202), ("Application/JSON; charset=utf-8", 202), ("text/plain", 415)],
)
async def test_json_is_taken_under_any_of_its_names_and_nothing_else_as_json(client, media_type, code):
    content, headers = json.dumps(TAMOXIFEN), {"Content-Type": media_type}
    answer = await client.post("/v1/classify?wait_seconds=0.01", content=content, headers=headers)
    assert answer.status_code == code


@pytest.mark.parametrize("path", ["/v1/abstracts", "/v1/classify?wait_seconds=0.01"])
async def test_a_body_of_no_media_type_is_read_as_json(client, path):
    answer = await client.post(path, content=json.dumps({**TAMOXIFEN, "id": "7"}))
    assert (answer.status_code, answer.json()["id"]) == (202, "7")


@pytest.mark.parametrize("path", ["/v1/abstracts", "/v1/classify"])
@pytest.mark.parametrize("content", ["3", '"text"', "null"])
async def test_json_that_is_no_abstract_is_a_problem(client, path, content):
    answer = await client.post(path, content=content, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["detail"]) == (422, "Send one abstract, as a JSON object.")


@pytest.mark.parametrize(
    "nothing",
    [{"json": []}, {"content": "", "params": {"format": "jsonl"}, "headers": {"Content-Type": "text/plain"}}],
    ids=["list", "file"],
)
async def test_a_request_without_abstracts_is_a_problem(client, nothing):
    answer = await client.post("/v1/abstracts", **nothing)
    assert (answer.status_code, "no abstracts" in answer.json()["detail"]) == (422, True)


async def test_a_form_without_a_file_is_a_problem(client):
    answer = await client.post("/v1/abstracts", files={"file": (None, "text")})
    assert (answer.status_code, answer.json()["type"]) == (422, "urn:abstream:problem:invalid")
    assert "The form has no file" in answer.json()["detail"]


@pytest.mark.parametrize("blanks", [0, 2 << 20], ids=["small", "large"])
async def test_a_number_that_json_does_not_know_is_a_problem(client, blanks):
    content = '{"title": "T", "year": NaN}' + " " * blanks
    answer = await client.post("/v1/abstracts", content=content, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["type"]) == (422, "urn:abstream:problem:undecodable")


@pytest.mark.parametrize("is_declared", [True, False])
async def test_a_body_beyond_the_limit_is_refused_whether_its_size_is_declared_or_not(gateway, is_declared):
    async def pieces(content: bytes) -> AsyncIterator[bytes]:
        yield content[:10]
        yield content[10:]

    content = json.dumps(TAMOXIFEN).encode()
    async with gateway(max_body_bytes=len(content)) as client:
        answers = [
            await client.post(
                "/v1/abstracts",
                content=body if is_declared else pieces(body),
                headers={"Content-Type": "application/json"},
            )
            for body in (content, content + b" ")
        ]
    assert [answer.status_code for answer in answers] == [202, 413]
    assert answers[1].json()["limit"] == len(content)
    assert answers[1].json()["title"] == "Content Too Large"
    assert answers[1].headers["connection"] == "close", "the rest of the body is not waited for"


async def test_a_declared_size_beyond_all_numbers_is_refused(client):
    answer = await client.post("/v1/abstracts", json=TAMOXIFEN, headers={"Content-Length": "9" * 5_000})
    assert answer.status_code == 413


@pytest.mark.parametrize(
    "upload",
    [
        {"files": {"file": ("export.csv", CSV)}},
        {"content": CSV, "headers": {"Content-Type": "text/csv"}},
        {"content": CSV, "headers": {"Content-Type": "application/octet-stream"}, "params": {"format": "csv"}},
    ],
    ids=["form", "media type", "told"],
)
async def test_a_file_is_taken_in_any_dress(client, redis, streams, upload):
    answer = await client.post("/v1/abstracts", **upload)
    assert answer.status_code == 202
    assert [one["id"] for one in answer.json()["accepted"]] == ["1", "2"]
    assert [one["position"] for one in answer.json()["problems"]] == ["line 3"]
    assert [event.data.title for event in await waiting(redis, streams)] == ["Tamoxifen", "Sleep"]


async def test_a_table_by_its_media_type_is_told_what_its_header_lacks(client):
    """Its content alone would not tell that it is a table."""
    answer = await client.post("/v1/abstracts", content="one,two\n1,2\n", headers={"Content-Type": "text/csv"})
    assert answer.status_code == 422
    assert "the header has no column" in answer.json()["problems"][0]["detail"]


@pytest.mark.parametrize(
    ("media_type", "position"), [("application/x-ndjson", "line 2"), ("application/json", "2")], ids=["file", "list"]
)
async def test_what_is_larger_than_workers_accept_is_told_by_its_place_and_the_rest_taken(client, media_type, position):
    several = [json.dumps(one) for one in ({"id": "a", "title": "T"}, {"title": "T", "mesh": ["x" * 1_100_000]})]
    content = "\n".join(several) if "ndjson" in media_type else f"[{','.join(several)}]"
    body = (await client.post("/v1/abstracts", content=content, headers={"Content-Type": media_type})).json()
    assert [one["id"] for one in body["accepted"]] == ["a"]
    assert [one["position"] for one in body["problems"]] == [position]
