"""What a hostile or broken client may send: never a 5xx, never a smuggled request, never an unbounded wait."""

import asyncio
import io
import random
from dataclasses import replace

import pytest

from clearsight.serving.gateway.head import ChunkedDecoder

SCORE = b"POST /endpoints/fridge/score HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


@pytest.fixture
def authorized(keys) -> bytes:
    """The head of a scoring request, without its framing and end."""
    return SCORE + f"Authorization: Bearer {keys[0]}\r\n".encode()


def statuses(received: bytes) -> list[int]:
    return [int(part[:3]) for part in received.split(b"HTTP/1.1 ")[1:]]


# By the rule of RFC 9112 (or RFC 9110, where it says so) that a server keeps by answering 400.
MALFORMED = {
    "nothing but line ends": b"\r\n\r\n\r\n\r\n",
    "no version": b"GET /\r\n\r\n",
    "HTTP/0.9": b"GET / HTTP/0.9\r\n\r\n",
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/1.2": b"GET / HTTP/1.2\r\nHost: x\r\n\r\n",
    "TLS hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "space before colon": b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length : 0\r\n\r\n",
    "obsolete folding": b"GET / HTTP/1.1\r\nHost: x\r\nX: a\r\n b\r\n\r\n",
    "bare line feeds": b"GET / HTTP/1.1\nHost: x\n\nGET / HTTP/1.1\r\n\r\n",
    "bare carriage return": b"GET / HTTP/1.1\r\nHost: x\rY: z\r\n\r\n",
    "zero byte in a value": b"GET / HTTP/1.1\r\nHost: x\r\nX: a\x00b\r\n\r\n",
    "unknown method": b"BREW / HTTP/1.1\r\nHost: x\r\n\r\n",
    "length and chunks": SCORE + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and length": SCORE + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
    "two lengths": SCORE + b"Content-Length: 4\r\nContent-Length: 4\r\n\r\nabcd",
    "two lengths in one": SCORE + b"Content-Length: 4, 4\r\n\r\nabcd",
    "signed length": SCORE + b"Content-Length: +4\r\n\r\nabcd",
    "negative length": SCORE + b"Content-Length: -4\r\n\r\nabcd",
    "hexadecimal length": SCORE + b"Content-Length: 0x4\r\n\r\nabcd",
    "length beyond 64 bits": SCORE + b"Content-Length: 99999999999999999999999\r\n\r\n",
    "unknown coding": SCORE + b"Transfer-Encoding: gzip\r\n\r\n",
    "coding before chunked": SCORE + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunked twice": SCORE + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "hidden chunked": SCORE + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "chunked in HTTP/1.0": SCORE.replace(b"1.1", b"1.0") + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "2.2: space before the first field": b"GET / HTTP/1.1\r\n Host: x\r\n\r\n",
    "2.2: carriage return before the end of a line": b"GET / HTTP/1.1\r\r\nHost: x\r\n\r\n",
    "2.3: lower-case protocol": b"GET / http/1.1\r\nHost: x\r\n\r\n",
    "2.3: another protocol": b"GET / RTSP/1.0\r\nHost: x\r\n\r\n",
    "2.3: a third protocol": b"SOURCE / ICE/1.1\r\nHost: x\r\n\r\n",
    "3: tab between target and protocol": b"GET /\tHTTP/1.1\r\nHost: x\r\n\r\n",
    "3.1: lower-case method": b"get / HTTP/1.1\r\nHost: x\r\n\r\n",
    "3.2: space in the target": b"GET /a b HTTP/1.1\r\nHost: x\r\n\r\n",
    "3.2: control character in the target": b"GET /a\x7f HTTP/1.1\r\nHost: x\r\n\r\n",
    "3.2: target beyond ASCII": b"GET /\xc3\xa9 HTTP/1.1\r\nHost: x\r\n\r\n",
    "3.2.1: no slash": b"GET a HTTP/1.1\r\nHost: x\r\n\r\n",
    "3.2.2: no host": b"GET http:///a HTTP/1.1\r\nHost: x\r\n\r\n",
    "3.2.2: host without end": b"GET http://[::1/a HTTP/1.1\r\nHost: x\r\n\r\n",
    "3.2.2: port out of range": b"GET http://x:99999/a HTTP/1.1\r\nHost: x\r\n\r\n",
    "3.2.3: a path to connect to": b"CONNECT / HTTP/1.1\r\nHost: x\r\n\r\n",
    "3.2.3: a port that is no number": b"CONNECT x:y HTTP/1.1\r\nHost: x\r\n\r\n",
    "3.2.4: asterisk of another method": b"GET * HTTP/1.1\r\nHost: x\r\n\r\n",
    "5: no colon": b"GET / HTTP/1.1\r\nHost: x\r\nX\r\n\r\n",
    "5: no name": b"GET / HTTP/1.1\r\nHost: x\r\n: a\r\n\r\n",
    "5.2: folding with a tab": b"GET / HTTP/1.1\r\nHost: x\r\nX: a\r\n\tb\r\n\r\n",
    "9110, 5.1: parenthesis in a name": b"GET / HTTP/1.1\r\nHost: x\r\nX(a): b\r\n\r\n",
    "9110, 5.1: name beyond ASCII": b"GET / HTTP/1.1\r\nHost: x\r\nX\xe9: b\r\n\r\n",
    "9110, 5.3: two content types": SCORE + b"Content-Type: text/plain\r\nContent-Length: 2\r\n\r\n{}",
    "9110, 5.5: line feed in a value": b"GET / HTTP/1.1\r\nHost: x\r\nX: a\nY: b\r\n\r\n",
    "6.1: empty coding": SCORE + b"Transfer-Encoding:\r\n\r\n0\r\n\r\n",
    "6.1: coding after chunked": SCORE + b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    "6.1: identity": SCORE + b"Transfer-Encoding: identity\r\n\r\n",
    "7: parameter of chunked": SCORE + b"Transfer-Encoding: chunked;a=b\r\n\r\n0\r\n\r\n",
    "6.3: no digits": SCORE + b"Content-Length:\r\n\r\n",
    "6.3: fraction": SCORE + b"Content-Length: 4.0\r\n\r\nabcd",
    "6.3: digits apart": SCORE + b"Content-Length: 1 2\r\n\r\nabcd",
    "6.3: digits beyond ASCII": SCORE + b"Content-Length: \xd9\xa4\r\n\r\nabcd",
}


async def test_a_malformed_head_is_400_and_ends_the_connection(gateway):
    for rule, data in MALFORMED.items():
        received = await gateway.raw(data)
        assert statuses(received) == [400], rule
        assert b"connection: close" in received, rule
    assert not gateway.upstreams["blue"].requests


# By the rule of RFC 9112 (or RFC 9110) that makes a server take it; the status is the route's.
UNUSUAL = {
    "2.2: empty line before the request": (b"\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n", 200),
    "3.2.2: absolute form": (b"GET http://a.b:80/endpoints/fridge/swagger.json HTTP/1.1\r\nHost: x\r\n\r\n", 401),
    "3.2.2: absolute form without a path": (b"GET http://a_b HTTP/1.1\r\nHost: x\r\n\r\n", 200),
    "3.2.3: authority form": (b"CONNECT x:443 HTTP/1.1\r\nHost: x:443\r\n\r\n", 405),
    "3.2.4: asterisk form": (b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", 404),
    "3.2: no host in HTTP/1.0": (b"GET / HTTP/1.0\r\n\r\n", 200),
    "3.2: empty host": (b"GET / HTTP/1.1\r\nHost:\r\n\r\n", 200),
    "5: whitespace around a value": (b"GET / HTTP/1.1\r\nHost:\t x \t\r\nContent-Length: 0 \r\n\r\n", 200),
    "9110, 5.1: unknown field": (b"GET / HTTP/1.1\r\nHost: x\r\nSec-WebSocket-Key1: a\r\n\r\n", 200),
    "9110, 5.3: a list in two fields": (b"GET / HTTP/1.1\r\nHost: x\r\nAccept: a/b\r\nAccept: c/d\r\n\r\n", 200),
    "9110, 5.5: value beyond ASCII": (b"GET / HTTP/1.1\r\nHost: x\r\nX: \xe9\r\n\r\n", 200),
    "9110, 7.8: upgrade ignored": (b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: a\r\nConnection: upgrade\r\n\r\n", 200),
    "as many fields as allowed": (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: a\r\n" * 98 + b"\r\n", 200),
    "one field too many": (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: a\r\n" * 99 + b"\r\n", 400),
}  # fmt: skip


async def test_an_unusual_head_is_understood(gateway):
    for rule, (data, status) in UNUSUAL.items():
        assert statuses(await gateway.raw(data.replace(b"\r\nHost", b"\r\nConnection: close\r\nHost"))) == [status], (
            rule
        )


async def test_the_body_of_a_request_that_asks_for_an_upgrade_is_scored(gateway, authorized):
    upgrade = b"Upgrade: websocket\r\nConnection: upgrade, close\r\n"
    for framing in (b"Content-Length: 2\r\n\r\n{}", b"Transfer-Encoding: CHUNKED\r\n\r\n2\r\n{}\r\n0\r\n\r\n"):
        assert statuses(await gateway.raw(authorized + upgrade + framing)) == [200]
    assert [body for _, body in gateway.upstreams["blue"].requests] == [b"{}", b"{}"]


@pytest.mark.parametrize(
    "chunks",
    [
        b"zz\r\nabc\r\n0\r\n\r\n",
        b"-1\r\nabc\r\n0\r\n\r\n",
        b"3\r\nabcde\r\n0\r\n\r\n",
        b"3\nabc\n0\n\n",
        b"ffffffffffffffffff\r\nabc\r\n",
        b"3\r\nabc0\r\n\r\n",
        b"3;" + b"\x00" * 100,
        b"\r\nabc\r\n0\r\n\r\n",
        b" 3\r\nabc\r\n0\r\n\r\n",
        b"3 \r\nabc\r\n0\r\n\r\n",
        b"0x3\r\nabc\r\n0\r\n\r\n",
        b"3;a\nb\r\nabc\r\n0\r\n\r\n",
        b"3\r\nabc\r\n0\r\nX : trailer\r\n\r\n",
        b"3\r\nabc\r\n0\r\nContent-Length: 3\r\n\r\n",
    ],
)
async def test_malformed_chunks_are_refused(gateway, authorized, chunks):
    received = await gateway.raw(authorized + b"Transfer-Encoding: chunked\r\n\r\n" + chunks)
    assert statuses(received) == [400]
    assert not gateway.upstreams["blue"].requests


@pytest.mark.parametrize("pieces", [1, 7, 40])
async def test_a_chunked_body_is_reframed_with_its_length(gateway, authorized, pieces):
    data = b"5;ext=1\r\nhello\r\n1\r\n \r\n5\r\nworld\r\n0\r\nTrailer: x\r\n\r\n"
    received = await gateway.raw(authorized + b"Transfer-Encoding: chunked\r\n\r\n" + data, pieces=pieces)
    assert statuses(received) == [200]
    [(head, body)] = gateway.upstreams["blue"].requests
    assert body == b"hello world"
    assert b"content-length: 11" in head
    assert b"chunked" not in head


async def test_what_follows_a_chunked_request_is_never_run(gateway, authorized):
    chunked = authorized + b"Transfer-Encoding: chunked\r\n\r\n1\r\n1\r\n0\r\n\r\n"
    for follower in (authorized + b"Content-Length: 1\r\n\r\n2", b"\x00 neither a request nor anything else"):
        assert statuses(await gateway.raw(chunked + follower)) == [200]
    assert [body for _, body in gateway.upstreams["blue"].requests] == [b"1", b"1"]


async def test_trailer_fields_beyond_the_size_of_a_head_are_refused(gateway, authorized):
    trailer = b"X: " + b"a" * 1000 + b"\r\n"
    data = authorized + b"Transfer-Encoding: chunked\r\n\r\n1\r\n1\r\n0\r\n"
    assert statuses(await gateway.raw(data + trailer * 14 + b"\r\n", pieces=9)) == [200]
    assert statuses(await gateway.raw(data + trailer * 2000, pieces=9)) == [400]


def test_a_chunked_body_may_arrive_with_the_next_size_line_behind_each_chunk():
    decoder = ChunkedDecoder(max_trailer_bytes=100)
    pieces = [decoder.decode(data) for data in (b"5\r\n", *[b"hello\r\n5\r\n"] * 50, b"world\r\n0\r\n", b"\r\n")]
    assert b"".join(pieces) == b"hello" * 50 + b"world"
    assert decoder.is_at_end


@pytest.mark.parametrize("pieces", [1, 3, 100])
async def test_pipelined_requests_are_answered_in_order(gateway, authorized, make_reply, pieces):
    async def echo(head, body):
        await asyncio.sleep(0.02 if body == b"0" else 0)
        return make_reply(200, b"<%s>" % body)

    gateway.upstreams["blue"].behave = echo
    data = b"".join(authorized + b"Content-Length: 1\r\n\r\n%d" % number for number in range(5))
    data += b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    received = await gateway.raw(data, pieces=pieces)
    assert statuses(received) == [200] * 6
    assert [received.index(b"<%d>" % number) for number in range(5)] == sorted(
        received.index(b"<%d>" % number) for number in range(5)
    )


@pytest.mark.parametrize(
    "request_line", ["GET / HTTP/1.1", "GET /nowhere HTTP/1.1", "POST /endpoints/fridge/score HTTP/1.1"]
)
async def test_other_connections_come_first_after_each_answer_of_a_pipeline(gateway, request_line):
    answered, in_one_turn = [], []
    complete, loop = gateway.data_plane.complete, asyncio.get_running_loop()

    def count(*args):
        complete(*args)
        answered.append(args)

    def turn(before):
        in_one_turn.append(len(answered) - before)
        ticking[0] = loop.call_soon(turn, len(answered))

    gateway.data_plane.complete = count
    ticking = [loop.call_soon(turn, 0)]
    data = f"{request_line}\r\nHost: x\r\nContent-Length: 0\r\n\r\n".encode() * 200
    try:
        received = await gateway.raw(data + b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    finally:
        ticking[0].cancel()
    assert len(statuses(received)) == len(answered) == 201
    assert max(in_one_turn) == 1


async def test_thousands_of_pipelined_requests_are_answered(gateway):
    data = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 5000 + b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    assert (await gateway.raw(data)).count(b"HTTP/1.1 200 OK") == 5001


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 17_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 60_000,
        b"GET /" + b"a" * 17_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"".join(b"X%d: %s\r\n" % (n, b"a" * 200) for n in range(90)) + b"\r\n",
    ],
)
async def test_a_head_beyond_16_kib_is_431(gateway, head):
    assert statuses(await gateway.raw(head)) == [431]


async def test_a_head_just_below_16_kib_is_fine(gateway):
    head = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX: " + b"a" * 16_000 + b"\r\n\r\n"
    assert statuses(await gateway.raw(head, pieces=9)) == [200]


async def test_too_many_headers_are_refused(gateway):
    head = b"GET / HTTP/1.1\r\nHost: x\r\n" + b"".join(b"X%d: a\r\n" % number for number in range(200)) + b"\r\n"
    assert statuses(await gateway.raw(head)) == [400]


class TestBodyLimit:
    async def test_the_limit_itself_passes(self, gateway):
        assert (await gateway.score(b"x" * 65536)).status == 200

    async def test_an_announced_length_beyond_it_is_413_before_the_body(self, gateway, authorized):
        received = await gateway.raw(authorized + b"Content-Length: 65537\r\n\r\n")
        assert statuses(received) == [413]
        assert b'"code":"PayloadTooLarge"' in received

    async def test_the_client_that_sends_its_body_anyway_sees_the_answer(self, gateway):
        reply = await gateway.score(io.BytesIO(b"x" * 5_000_000))
        assert (reply.status, reply.code) == (413, "PayloadTooLarge")

    async def test_chunks_beyond_it_are_413_while_reading(self, gateway, authorized):
        chunk = b"2000\r\n" + b"x" * 0x2000 + b"\r\n"
        received = await gateway.raw(authorized + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 9)
        assert statuses(received) == [413]
        assert gateway.data_plane.num_body_bytes == 0


async def test_a_refused_request_with_a_small_body_leaves_the_connection_usable(gateway):
    data = SCORE + b"Content-Length: 5\r\n\r\n12345" + b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    assert statuses(await gateway.raw(data)) == [401, 200]


async def test_expect_100_continue_is_answered_unless_the_request_is_refused(gateway, authorized, keys):
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(authorized + b"Connection: close\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(b"{}")
    assert statuses(await reader.read()) == [200]
    writer.close()


async def test_expect_100_continue_of_a_refused_request_is_refused_and_the_connection_closed(gateway):
    received = await gateway.raw(SCORE + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n")
    assert statuses(received) == [401]
    assert b"connection: close" in received


class TestTime:
    """The limits of the fixture: 5 s for a head, between two pieces of a body, and for a body."""

    async def drip(self, gateway, head: bytes, rest: bytes) -> tuple[bytes, float]:
        """Send `head`, then a byte of `rest` each second. Returns the answer and the seconds until it came."""
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(head)
        started = gateway.clock.time()
        answer = asyncio.create_task(reader.read())
        for position in range(len(rest)):
            await gateway.clock.advance(1.0)
            if answer.done():
                break
            writer.write(rest[position : position + 1])
        waited_s = gateway.clock.time() - started
        received = await answer
        writer.close()
        return received, waited_s

    async def silent(self, gateway, data: bytes) -> bytes:
        """Send `data` and nothing more for 6 s."""
        answer = asyncio.create_task(gateway.raw(data, wait_s=60.0))
        await gateway.clock.advance(4.9)
        assert not answer.done()
        await gateway.clock.advance(1.1)
        return await answer

    async def test_a_dripped_head_is_408(self, gateway):
        received, waited_s = await self.drip(gateway, b"", b"GET / HTTP/1.1\r\nHost: x\r\nX: aaaa")
        assert statuses(received) == [408]
        assert 5 < waited_s < 8

    async def test_a_dripped_body_is_408_at_the_total_limit(self, gateway, authorized):
        gateway.http.limits = replace(gateway.http.limits, body_timeout_s=20.0)
        received, waited_s = await self.drip(gateway, authorized + b"Content-Length: 1000\r\n\r\n", b"x" * 100)
        assert statuses(received) == [408]
        assert 20 < waited_s < 23

    async def test_a_body_that_stops_is_408_at_the_idle_limit(self, gateway, authorized):
        assert statuses(await self.silent(gateway, authorized + b"Content-Length: 10\r\n\r\nabc")) == [408]

    async def test_a_silent_connection_is_closed(self, gateway):
        assert await self.silent(gateway, b"") == b""

    async def test_a_client_that_does_not_read_its_answer_is_cut_off(self, gateway, authorized, make_reply):
        gateway.upstreams["blue"].answer = make_reply(200, b"x" * 60_000)
        _, writer = await asyncio.open_connection("127.0.0.1", gateway.port, limit=1024)
        writer.transport.pause_reading()
        for _ in range(200):
            writer.write(authorized + b"Content-Length: 1\r\n\r\n1")
        async with asyncio.timeout(600):
            while gateway.http.connections:
                await gateway.clock.advance(1.0)
        writer.transport.abort()

    async def test_a_chunk_size_line_without_end_is_408(self, gateway, authorized):
        data = authorized + b"Transfer-Encoding: chunked\r\n\r\n3;" + b"x" * 100_000
        assert statuses(await self.silent(gateway, data)) == [408]

    async def test_200_slow_connections_do_not_hold_up_the_others(self, gateway, authorized):
        slow = [await asyncio.open_connection("127.0.0.1", gateway.port) for _ in range(200)]
        for _, writer in slow:
            writer.write(authorized + b"Content-Length: 100\r\n\r\nx")
        assert {(await gateway.score()).status for _ in range(20)} == {200}
        for _, writer in slow:
            writer.close()


async def test_random_bytes_and_mutated_requests_never_give_a_5xx(gateway, authorized):
    generator = random.Random(11)
    valid = authorized + b"Content-Length: 2\r\n\r\n{}"
    cases = [generator.randbytes(generator.randrange(1, 400)) + b"\r\n\r\n" for _ in range(60)]
    for _ in range(240):
        data = bytearray(valid)
        for _ in range(generator.randrange(1, 6)):
            position = generator.randrange(len(data))
            data[position : position + generator.randrange(2)] = generator.choice(
                [b"\r\n", b"\x00", b" ", b":", b"\xff", b"chunked", b"\t", b"A" * 50, generator.randbytes(1)]
            )
        cases.append(bytes(data))
    seen = set()
    answers = asyncio.gather(*(gateway.raw(case, wait_s=600.0) for case in cases))
    while not answers.done():
        await gateway.clock.advance(1.0)
    for answer in await answers:
        seen.update(statuses(answer))
    assert seen <= {200, 400, 401, 404, 405, 408, 413, 424, 431}
    assert (await gateway.score()).status == 200
