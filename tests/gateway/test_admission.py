"""How many requests are admitted, which ones wait, and what happens to cancelled ones."""

import asyncio
from collections import Counter

import pytest

from clearsight.serving.gateway.limits import ByteBudget


class Gate:
    """An upstream behaviour that holds every request until `open` is set, and records the order of arrival."""

    def __init__(self, answer: bytes) -> None:
        self.open = asyncio.Event()
        self.arrived: list[bytes] = []
        self.num_inside = self.max_inside = 0
        self._answer = answer

    async def __call__(self, head: bytes, body: bytes) -> bytes:
        self.arrived.append(body)
        self.num_inside += 1
        self.max_inside = max(self.max_inside, self.num_inside)
        await self.open.wait()
        self.num_inside -= 1
        return self._answer


async def until(condition, limit_s: float = 3.0) -> None:
    async with asyncio.timeout(limit_s):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.fixture
async def gate(gateway, make_reply):
    gate = gateway.upstreams["blue"].behave = Gate(make_reply())
    yield gate
    gate.open.set()


def test_a_budget_grants_what_fits_or_nothing():
    budget = ByteBudget(10)
    assert [budget.take(0), budget.take(10), budget.take(1)] == [True, True, False]
    budget.give(4)
    assert [budget.take(5), budget.take(4), budget.used] == [False, True, 10]
    budget.charge(5)
    assert (budget.used, budget.take(0)) == (15, False)


async def test_100_concurrent_requests_against_two_in_flight_give_two_answers_and_98_times_429(gateway, gate):
    gateway.route(blue=gateway.deployment("blue", max_running=1, max_in_flight=2))
    requests = [asyncio.create_task(gateway.score()) for _ in range(100)]
    await until(lambda: sum(request.done() for request in requests) == 98)
    assert gateway.data_plane.in_flight() == {"blue-1": 2, "green-1": 0}
    gate.open.set()
    replies = await asyncio.gather(*requests)
    assert Counter(reply.status for reply in replies) == {200: 2, 429: 98}
    refused = [reply for reply in replies if reply.status == 429]
    assert {reply.headers["retry-after"] for reply in refused} == {"1"}
    assert {reply.code for reply in refused} == {"TooManyRequests"}
    assert gate.max_inside == 1


async def test_waiting_requests_run_first_in_first_out(gateway, gate):
    gateway.route(blue=gateway.deployment("blue", max_running=1, max_in_flight=20))
    requests = []
    for number in range(8):
        requests.append(asyncio.create_task(gateway.score(b"%d" % number)))
        await until(lambda count=number: gateway.data_plane.in_flight()["blue-1"] == count + 1)
    assert gate.arrived == [b"0"]
    gate.open.set()
    assert {reply.status for reply in await asyncio.gather(*requests)} == {200}
    assert gate.arrived == [b"%d" % number for number in range(8)]


async def test_waiting_counts_against_the_time_limit_and_a_late_request_is_never_sent(gateway, gate):
    gateway.route(blue=gateway.deployment("blue", max_running=1, max_in_flight=20))
    requests = asyncio.gather(gateway.score(b"a"), gateway.score(b"b"))
    await until(lambda: gateway.data_plane.in_flight()["blue-1"] == 2)
    await gateway.clock.advance(5.0)
    assert [reply.status for reply in await requests] == [408, 408]
    gate.open.set()
    await gateway.clock.advance(1.0)
    assert len(gate.arrived) == 1


async def test_a_waiting_request_whose_client_has_gone_is_dropped(gateway, gate):
    gateway.route(blue=gateway.deployment("blue", max_running=1, max_in_flight=20))
    first = asyncio.create_task(gateway.score(b"first"))
    await until(lambda: gate.arrived)
    gone = asyncio.create_task(gateway.score(b"gone"))
    await until(lambda: gateway.data_plane.in_flight()["blue-1"] == 2)
    last = asyncio.create_task(gateway.score(b"last"))
    await until(lambda: gateway.data_plane.in_flight()["blue-1"] == 3)
    gone.cancel()
    await until(lambda: gateway.data_plane.in_flight()["blue-1"] == 2)
    gate.open.set()
    assert [(await first).status, (await last).status] == [200, 200]
    assert gate.arrived == [b"first", b"last"]
    assert 499 in {line["ResponseCode"] for line in gateway.log_lines()}


async def test_a_running_request_whose_client_has_gone_frees_its_slot(gateway, gate):
    gateway.route(blue=gateway.deployment("blue", max_running=1, max_in_flight=1))
    gone = asyncio.create_task(gateway.score(b"gone"))
    await until(lambda: gate.arrived)
    gone.cancel()
    await until(lambda: gateway.data_plane.in_flight()["blue-1"] == 0)
    gate.open.set()
    assert (await gateway.score(b"next")).status == 200


async def test_a_raised_limit_lets_waiting_requests_run(gateway, gate):
    gateway.route(blue=gateway.deployment("blue", max_running=1, max_in_flight=20))
    requests = [asyncio.create_task(gateway.score()) for _ in range(4)]
    await until(lambda: gateway.data_plane.in_flight()["blue-1"] == 4)
    gateway.route(blue=gateway.deployment("blue", max_running=4, max_in_flight=20))
    await until(lambda: gate.num_inside == 4)
    gate.open.set()
    assert {reply.status for reply in await asyncio.gather(*requests)} == {200}


async def test_bodies_beyond_the_memory_budget_are_429_and_the_budget_recovers(gateway, gate):
    body = b"x" * 60 * 1024  # four of them fit into 256 KiB
    requests = [asyncio.create_task(gateway.score(body)) for _ in range(6)]
    await until(lambda: sum(request.done() for request in requests) == 2)
    assert gateway.data_plane.num_body_bytes == 4 * len(body)
    gate.open.set()
    assert Counter(reply.status for reply in await asyncio.gather(*requests)) == {200: 4, 429: 2}
    await until(lambda: gateway.data_plane.num_body_bytes == 0)
    assert (await gateway.score(body)).status == 200


class TestTableSwap:
    async def test_a_table_that_arrives_with_a_body_under_way_decides_that_request(self, gateway, keys):
        head = (f"POST /endpoints/fridge/score HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {keys[0]}\r\n"
                "Content-Type: application/json\r\nConnection: close\r\nContent-Length: 2\r\n\r\n")  # fmt: skip
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(head.encode() + b"{")
        await until(lambda: gateway.data_plane.num_body_bytes == 1)
        gateway.route(traffic={"green": 100})
        writer.write(b"}")
        answer = await reader.read()
        writer.close()
        assert b"azureml-model-deployment: green" in answer
        assert not gateway.upstreams["blue"].requests

    async def test_running_requests_finish_on_the_old_generation_which_stays_counted_until_then(self, gateway, gate):
        old = asyncio.create_task(gateway.score(b"old"))
        await until(lambda: gate.arrived)
        replacement = gateway.deployment("green", generation="blue-2")
        gateway.route(blue=replacement)
        assert gateway.data_plane.in_flight() == {"blue-1": 1, "blue-2": 0, "green-1": 0}
        new = await gateway.score(b"new")
        assert (new.status, gateway.upstreams["green"].requests[0][1]) == (200, b"new")
        gate.open.set()
        assert (await old).status == 200
        assert gateway.data_plane.in_flight() == {"blue-2": 0, "green-1": 0}

    async def test_swaps_under_load_fail_no_request_and_none_sees_an_old_table(self, gateway, make_reply):
        is_over = False
        statuses = Counter()
        for name, upstream in gateway.upstreams.items():
            upstream.answer = make_reply(200, name.encode())

        async def client():
            while not is_over:
                reply = await gateway.score(b"x" * 2000)
                statuses[reply.status] += 1
                assert reply.body.decode() == reply.headers["azureml-model-deployment"]

        clients = [asyncio.create_task(client()) for _ in range(8)]
        for round_number in range(25):
            live = ("blue", "green")[round_number % 2]
            blue = gateway.deployment("blue", generation=f"blue-{round_number // 5}")
            gateway.route(traffic={live: 100}, blue=blue)
            assert (await gateway.score()).headers["azureml-model-deployment"] == live
            await asyncio.sleep(0.01)
        is_over = True
        await asyncio.gather(*clients)
        assert set(statuses) == {200}
        assert statuses[200] > 100
