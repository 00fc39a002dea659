"""What becomes of requests when a worker, or the whole process of a deployment, dies.

Those that TorchServe forgets are sent a second time; those that nobody has answered are kept for the successor.
"""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from clearsight.serving.gateway.lane import REFUSED_PAUSE_S, SECOND_COPY_AFTER_S

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
    gateway.route(blue=gateway.deployment("blue", upstreams=(gateway.upstream("blue", lost_workers=count),), **changes))


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


REFUSAL = b'{"code":503,"type":"ServiceUnavailableException","message":"Model has no worker to serve"}'
"""TorchServe's words for a model without workers, and for a full queue."""


async def test_a_request_that_torchserve_refuses_waits_for_a_worker(gateway, blue, make_reply):
    request = await ask(gateway, blue)
    for count in (1, 2):
        blue.answers[count - 1].set_result(make_reply(503, REFUSAL, mark=False, connection="close"))
        await gateway.clock.advance(REFUSED_PAUSE_S)
        await copies(blue, count + 1)
    blue.answers[2].set_result(make_reply(body=b"[3]"))
    assert (await request).body == b"[3]"


async def test_a_refused_request_ends_with_its_time_and_says_that_there_is_no_worker(gateway, make_reply):
    gateway.upstreams["blue"].answer = make_reply(503, REFUSAL, mark=False, connection="close")
    request = asyncio.create_task(gateway.score(BODY))
    for _ in range(100):
        await gateway.clock.advance(REFUSED_PAUSE_S)
        await asyncio.sleep(0.005)
        if request.done():
            break
    reply = request.result()
    assert (reply.status, reply.code, reply.headers["retry-after"]) == (503, "DeploymentNotReady", "5")
    assert b"No worker of the deployment takes requests" in reply.body
    assert 2 < len(gateway.upstreams["blue"].requests) <= 5.0 / REFUSED_PAUSE_S


async def test_a_full_lane_without_a_worker_says_so_until_a_worker_answers(gateway, blue, make_reply):
    small = {"max_running": 1, "max_in_flight": 1}
    gateway.route(blue=gateway.deployment("blue", **small))
    request = await ask(gateway, blue)
    assert (await gateway.score(BODY)).code == "TooManyRequests"
    lose(gateway, **small)
    refused = await gateway.score(BODY)
    assert (refused.status, refused.code) == (503, "DeploymentNotReady")
    assert b"1 requests wait for the next one already" in refused.body
    blue.answers[0].set_result(make_reply(body=b"[1]"))
    assert (await request).body == b"[1]"
    request = await ask(gateway, blue)
    assert (await gateway.score(BODY)).code == "TooManyRequests"
    blue.answers[1].set_result(make_reply())
    assert (await request).status == 200


class TestEndOfTheProcess:
    """The whole process of a deployment ends: nobody listens on its socket any more."""

    small = {"max_running": 1, "max_in_flight": 3}  # noqa: RUF012  read only

    @pytest.fixture
    async def requests(self, gateway, blue):
        """Three requests, one of them at the upstream, when that ends."""
        gateway.route(blue=gateway.deployment("blue", **self.small))
        requests = [asyncio.create_task(gateway.score(b"%d" % number)) for number in range(3)]
        await copies(blue, 1)
        await blue.stop()
        await gateway.clock.advance(0.1)
        assert not any(request.done() for request in requests)
        yield requests
        await asyncio.gather(*requests)

    def follow(self, gateway, name="green"):
        """Put the next process in force: it listens on the socket of green."""
        gateway.route(blue=gateway.deployment("blue", upstreams=(gateway.upstream(name),), **self.small))

    async def test_all_its_requests_are_answered_by_the_next_one(self, gateway, requests, make_reply):
        green = gateway.upstreams["green"]
        gateway.route(blue=gateway.deployment("blue", upstreams=(), **self.small))
        assert (await gateway.score(BODY)).code == "DeploymentNotReady"  # new ones are not kept
        await gateway.clock.advance(1.0)
        assert not any(request.done() for request in requests)
        self.follow(gateway)
        assert [(await request).status for request in requests] == [200] * 3
        assert sorted(body for _, body in green.requests) == [b"0", b"1", b"2"]
        assert gateway.data_plane.in_flight().get("blue-1", 0) == 0

    async def test_they_are_counted_and_bounded_while_they_wait(self, gateway, requests):
        assert gateway.data_plane.in_flight()["blue-1"] == 3
        reply = await gateway.score(BODY)  # the table does not say yet that the process has ended
        assert (reply.status, reply.code) == (503, "DeploymentNotReady")
        assert b"3 requests wait for the next one" in reply.body
        self.follow(gateway)

    async def test_they_end_with_their_time(self, gateway, requests):
        await gateway.clock.advance(5.0)
        replies = [await request for request in requests]
        assert {(reply.status, reply.code) for reply in replies} == {(503, "DeploymentNotReady")}
        assert all(b"The deployment's server has ended" in reply.body for reply in replies)

    async def test_they_end_with_their_deployment(self, gateway, requests):
        table = gateway.tables[-1]
        fridge = table.endpoints["fridge"]
        rest = replace(fridge, traffic={}, deployments={"green": fridge.deployments["green"]})
        gateway.data_plane.swap(replace(table, endpoints={"fridge": rest}))
        assert {(await request).code for request in requests} == {"ModelUnreachable"}

    async def test_a_request_that_sees_three_processes_end_is_given_up(self, gateway):
        ended = []

        def ends_under_a_request(upstream):
            async def behave(head, body):
                ended.append(upstream)
                upstream._server.close()
                Path(upstream.socket).unlink()
                return b""

            return behave

        for upstream in gateway.upstreams.values():
            upstream.behave = ends_under_a_request(upstream)
        request = asyncio.create_task(gateway.score(BODY))
        for number, name in enumerate(("green", "blue"), 1):
            async with asyncio.timeout(3):
                while len(ended) < number:
                    await asyncio.sleep(0.005)
            await gateway.clock.advance(0.2)
            assert not request.done()
            if number == 2:
                await gateway.upstreams[name].start()
            self.follow(gateway, name)
        await gateway.clock.advance(0.2)
        assert (await request).code == "ModelUnreachable"
        assert len(ended) == 3

    async def test_a_process_that_comes_and_goes_in_one_turn_leaves_them_waiting(self, gateway, requests):
        gateway.route(blue=gateway.deployment("blue", upstreams=(), **self.small))
        await gateway.clock.advance(0.1)
        self.follow(gateway)
        gateway.route(blue=gateway.deployment("blue", upstreams=(), **self.small))
        await gateway.clock.advance(0.1)
        assert not any(request.done() for request in requests)
        self.follow(gateway)
        assert [(await request).status for request in requests] == [200] * 3
