"""Requests that TorchServe forgets when a worker dies are sent a second time."""

import asyncio

import pytest

from clearsight.serving.gateway.lane import SECOND_COPY_AFTER_S

BODY = b'{"input_data":["a"]}'


@pytest.fixture
def blue(gateway):
    """The upstream; its answers are futures, one for each request received."""
    upstream = gateway.upstreams["blue"]
    upstream.answers = []

    async def behave(head, body):
        upstream.answers.append(asyncio.get_running_loop().create_future())
        return await upstream.answers[-1]

    upstream.behave = behave
    return upstream


async def ask(gateway, blue, **options):
    """Begin a request and wait until it is at the upstream."""
    count = len(blue.answers)
    request = asyncio.create_task(gateway.score(BODY, **options))
    await copies(blue, count + 1)
    return request


async def copies(blue, count):
    async with asyncio.timeout(3):
        while len(blue.answers) < count:
            await asyncio.sleep(0.005)


def lose(gateway, count=1, **changes):
    gateway.route(blue=gateway.deployment("blue", lost_workers=count, **changes))


async def sent_twice(gateway, blue, **changes):
    """Begin a request, lose a worker, and wait for the second copy."""
    gateway.route(blue=gateway.deployment("blue", **changes))
    request = await ask(gateway, blue)
    lose(gateway, **changes)
    await gateway.clock.advance(SECOND_COPY_AFTER_S)
    await copies(blue, 2)
    return request


async def test_a_forgotten_request_gets_the_answer_to_its_second_copy(gateway, blue, make_reply):
    request = await sent_twice(gateway, blue)
    blue.answers[1].set_result(make_reply(body=b"[2]"))
    assert (await request).body == b"[2]"
    assert [body for _, body in blue.requests] == [BODY, BODY]
    assert gateway.data_plane.in_flight().get("blue-1", 0) == 0
    blue.answers[0].set_result(make_reply(body=b"[1]"))  # too late, and not an answer to the next request
    request = await ask(gateway, blue)
    blue.answers[2].set_result(make_reply(body=b"[3]"))
    assert (await request).body == b"[3]"


async def test_a_request_that_was_not_forgotten_gets_its_own_answer(gateway, blue, make_reply):
    request = await sent_twice(gateway, blue)
    blue.answers[0].set_result(make_reply(body=b"[1]"))
    assert (await request).body == b"[1]"
    blue.answers[1].set_result(make_reply(body=b"[2]"))
    request = await ask(gateway, blue)
    blue.answers[2].set_result(make_reply(body=b"[3]"))
    assert (await request).body == b"[3]"


async def test_torchserves_own_refusal_of_the_copy_does_not_count(gateway, blue, make_reply):
    request = await sent_twice(gateway, blue)
    blue.answers[1].set_result(make_reply(503, b'{"message":"no worker"}', mark=False))
    await gateway.clock.advance(SECOND_COPY_AFTER_S)
    assert not request.done()
    blue.answers[0].set_result(make_reply(body=b"[1]"))
    assert (await request).body == b"[1]"


async def test_the_next_lost_worker_brings_a_third_copy(gateway, blue, make_reply):
    request = await sent_twice(gateway, blue)
    lose(gateway, 2)
    await gateway.clock.advance(SECOND_COPY_AFTER_S)
    await copies(blue, 3)
    blue.answers[2].set_result(make_reply(body=b"[3]"))
    assert (await request).body == b"[3]"


async def test_no_request_is_sent_to_a_fourth_worker_after_three_were_lost_under_it(gateway, blue):
    request = await sent_twice(gateway, blue)
    for count in (2, 3, 4):
        lose(gateway, count)
        await gateway.clock.advance(SECOND_COPY_AFTER_S)
    assert len(blue.requests) == 3
    await gateway.clock.advance(5.0)
    assert (await request).status == 408


async def test_a_request_whose_worker_died_is_sent_to_one_more_and_no_other(gateway, blue, make_reply):
    """TorchServe answers what a dying worker was computing, so this request is a suspect, and is sent twice at most."""
    request = await ask(gateway, blue)
    lost = make_reply(507, b'{"message":"worker died"}', mark=False)
    blue.answers[0].set_result(lost)
    await copies(blue, 2)
    for count in (1, 2):
        lose(gateway, count)
        await gateway.clock.advance(SECOND_COPY_AFTER_S)
    blue.answers[1].set_result(lost)
    assert (await request).headers["ms-azureml-model-error-statuscode"] == "507"
    assert len(blue.requests) == 2


async def test_a_copy_does_not_outlive_the_time_of_its_request(gateway, blue):
    request = await sent_twice(gateway, blue)
    await gateway.clock.advance(5.0)
    assert (await request).status == 408
    assert not [task for task in asyncio.all_tasks() if "_send_copy" in str(task.get_coro())]


async def test_answered_and_later_requests_are_not_sent_again(gateway, blue, make_reply):
    request = await ask(gateway, blue)
    lose(gateway)
    blue.answers[0].set_result(make_reply(body=b"[1]"))  # before the copy would be sent
    assert (await request).body == b"[1]"
    request = await ask(gateway, blue)  # after the worker was lost
    lose(gateway)  # the same one
    await gateway.clock.advance(2 * SECOND_COPY_AFTER_S)
    assert len(blue.requests) == 2
    blue.answers[1].set_result(make_reply(body=b"[2]"))
    assert (await request).body == b"[2]"


async def test_explanations_are_not_sent_again(gateway, blue, make_reply):
    """That lane does not batch, so nothing is forgotten there, and a copy would cost seconds."""
    explain = gateway.explain_lane("blue")
    gateway.route(blue=gateway.deployment("blue", explain=explain))
    request = await ask(gateway, blue, path="/endpoints/fridge/explain")
    lose(gateway, explain=explain)
    await gateway.clock.advance(2 * SECOND_COPY_AFTER_S)
    assert len(blue.requests) == 1
    blue.answers[0].set_result(make_reply())
    assert (await request).status == 200
