"""What abstream does: it reads abstracts from one stream and publishes predictions to another."""

from abstream import Abstract, Publisher

from ..conftest import numbered

TITLE = "Adjuvant trastuzumab in HER2-positive breast cancer"
TEXT = "We followed 212 women with early HER2-positive breast cancer who received trastuzumab for one year."


async def test_an_abstract_is_published_and_its_prediction_is_read(publisher, subscriber, workers):
    """A publisher, a worker, a subscriber: three programs that know nothing of each other but the streams."""
    published = await publisher.publish(Abstract(title=TITLE, abstract=TEXT), id="38048813")

    await workers.burst()

    async for _, prediction in subscriber.predictions(since="0", until_idle=0.1):
        assert prediction.causationid == published.id == "38048813"
        assert prediction.sequence == published.entry_id
        assert prediction.data.answers["cancer"].label in {"Cancer", "Non-Cancer"}
        break
    else:
        raise AssertionError("no prediction was published")


async def test_every_result_carries_a_receipt_of_the_model_and_of_what_it_read(publisher, subscriber, workers):
    """The receipt tells, long afterwards, which weights, which prompt and which text gave this answer."""
    await publisher.publish(Abstract(title=TITLE, abstract=TEXT))

    worker = await workers.burst()

    [(_, prediction)] = [result async for result in subscriber.predictions(since="0", until_idle=0.1)]
    assert prediction.data.model == worker.engine.model.receipt
    assert prediction.data.model.prompt_digest.startswith("sha256:")
    assert prediction.data.input.text_digest.startswith("sha256:")
    assert prediction.data.input.tokens == len(f"{TITLE} {TEXT}".split())
    assert not prediction.data.input.truncated


async def test_what_the_publisher_attached_comes_back_with_the_answer(publisher, subscriber, workers):
    abstract = Abstract(title=TITLE, abstract=TEXT, identifiers={"pmid": "38048813"}, metadata={"project": "registry"})
    await publisher.publish(abstract)

    await workers.burst()

    [(_, prediction)] = [result async for result in subscriber.predictions(since="0", until_idle=0.1)]
    assert prediction.data.identifiers.pmid == "38048813"
    assert prediction.data.metadata == {"project": "registry"}


async def test_two_plain_fields_are_enough_when_typed_at_redis_cli(redis, streams, subscriber, workers):
    """XADD {abstream}:abstracts * title "…" abstract "…" """
    entry_id = await redis.xadd(streams.lane("interactive"), {"title": TITLE, "abstract": TEXT, "pmid": "7"})

    await workers.burst()

    [(_, prediction)] = [result async for result in subscriber.predictions(since="0", until_idle=0.1)]
    assert prediction.causationid == entry_id.decode()
    assert prediction.data.identifiers.pmid == "7"


async def test_the_cancer_type_is_asked_only_where_the_first_answer_is_cancer(publisher, subscriber, workers):
    await publisher.publish_many(numbered(*range(40)))

    await workers.burst()

    answers = [result.data.answers async for _, result in subscriber.predictions(since="0", until_idle=0.1)]
    assert {answer["cancer"].label for answer in answers} == {"Cancer", "Non-Cancer"}
    assert all(("cancer_type" in answer) == (answer["cancer"].label == "Cancer") for answer in answers)


async def test_a_subscriber_continues_after_the_entry_it_saw_last(publisher, subscriber, workers):
    """The subscriber itself keeps the id where it stopped; so it misses nothing and sees nothing twice."""
    await publisher.publish_many(numbered(*range(5)))
    await workers.burst()
    seen = []

    async for entry_id, prediction in subscriber.predictions(since="0"):
        seen.append(prediction.causationid)
        if len(seen) == 2:
            break
    async for _, prediction in subscriber.predictions(since=entry_id, until_idle=0.1):
        seen.append(prediction.causationid)

    assert sorted(seen) == ["0", "1", "2", "3", "4"]


async def test_the_same_abstract_sent_twice_is_answered_once(server, namespace, redis, streams, workers):
    """``source`` and id identify an abstract, so a publisher in doubt simply sends it again."""
    for _ in range(2):
        async with Publisher(server, namespace=namespace, source="https://example.org/harvester") as publisher:
            await publisher.publish(Abstract(title=TITLE, abstract=TEXT), id="38048813")
            await workers.burst()

    assert await redis.xlen(streams.lane("interactive")) == 2
    assert await redis.xlen(streams.predictions) == 1
    assert await workers.pending() == 0


async def test_an_interactive_abstract_overtakes_waiting_bulk_work(publisher, subscriber, workers):
    await publisher.publish_many(numbered(*range(6)), lane="bulk")
    await publisher.publish(Abstract(title=TITLE, abstract=TEXT), id="urgent")

    await workers.burst(read_count=2)

    order = [result.causationid async for _, result in subscriber.predictions(since="0", until_idle=0.1)]
    assert "urgent" in order[:2]
    assert len(order) == 7
