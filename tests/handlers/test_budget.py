"""Cost and time limits of the images of one request."""

import io
import json
import threading
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from clearsight.errors import BadImage, UserError
from clearsight.handlers.explain.deadline import OutOfTime
from clearsight.handlers.scoring import scorer as scorer_module
from clearsight.handlers.scoring.answering import answer_bodies
from clearsight.handlers.scoring.budget import MAX_REQUEST_COST, PixelGate, RequestBudget, RequestTooCostly, decode_cost
from clearsight.handlers.scoring.scorer import Scorer
from clearsight.handlers.worker.explain_lane import RequestOptions
from clearsight.images.headers import ImageHeader, read_header
from clearsight.wire.answers import ClassificationAnswer

PHOTO = ImageHeader("jpeg", 3000, 4000)  # 12 megapixels


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The files that were decoded, in order."""
    files: list[bytes] = []
    decode = scorer_module.decode_opened
    monkeypatch.setattr(
        scorer_module, "decode_opened", lambda data, *rest: (files.append(data), decode(data, *rest))[1]
    )
    return files


def large(side: int, name: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.new("1", (side, side)).save(stream, name)
    return stream.getvalue()


def test_a_request_without_rows_costs_nothing(scorer: Scorer):
    budget = RequestBudget(deadline=0.0)
    assert scorer.score([], []) == []
    assert (budget.cost, budget.refusal) == (0.0, None)


def test_a_hundred_photographs_of_12_megapixels_fit_and_a_hundred_of_the_largest_do_not():
    photographs, largest = RequestBudget(), RequestBudget()
    for _ in range(100):
        photographs.charge(PHOTO)
    for _ in range(12):
        largest.charge(ImageHeader("jpeg", 10_000, 10_000))
    assert (photographs.refusal, largest.refusal, MAX_REQUEST_COST) == (None, None, 1_250_000_000)
    with pytest.raises(RequestTooCostly, match="send fewer rows"):
        largest.charge(ImageHeader("jpeg", 10_000, 10_000))
    assert largest.refusal is not None


def test_a_progressive_jpeg_costs_more_with_each_scan():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    baseline, progressive = io.BytesIO(), io.BytesIO()
    image.save(baseline, "JPEG")
    image.save(progressive, "JPEG", progressive=True)
    header = read_header(progressive.getvalue())
    assert header.num_scans == progressive.getvalue().count(b"\xff\xda") == 10  # libjpeg's default script for colour
    assert decode_cost(header) == pytest.approx(3.25 * decode_cost(read_header(baseline.getvalue())))


def test_a_request_beyond_the_limit_is_refused_before_any_decode_and_leaves_others(
    scorer: Scorer, images: list[bytes], make_body: Callable[..., bytes], decoded: list[bytes]
):
    costly = make_body(*[large(9000)] * 4)  # 4 x 81 megapixels, four times as costly as a JPEG
    [alone] = answer_bodies(scorer, [make_body(images[0])])
    refused, answered = answer_bodies(scorer, [costly, make_body(images[0])])
    assert refused.status == 422
    assert json.loads(refused.body)["message"].startswith("the pictures of one request must cost at most 1250000000")
    assert answered == alone
    assert decoded == [images[0]] * 2


def test_nothing_is_decoded_for_a_client_who_no_longer_waits(
    scorer: Scorer, images: list[bytes], make_body: Callable[..., bytes], decoded: list[bytes]
):
    late, awaited = answer_bodies(
        scorer, [make_body(*images[:9]), make_body(images[9])], [RequestOptions(deadline=0.0), RequestOptions()]
    )
    assert (late.status, awaited.status) == (408, 200)
    assert "send fewer rows" in json.loads(late.body)["message"]
    assert decoded == [images[9]]
    [late] = answer_bodies(scorer, [make_body(images[0])], timeout_s=0.0)
    assert late.status == 408


def test_time_is_looked_at_before_each_decode_and_before_the_network(
    scorer: Scorer, images: list[bytes], decoded: list[bytes], monkeypatch: pytest.MonkeyPatch
):
    looks = iter(range(100))
    budget = RequestBudget(deadline=5.0, clock=lambda: float(next(looks)))
    monkeypatch.setattr(scorer, "_pool", None)
    results = scorer.score(images[:8], [budget] * 8)
    assert [type(result) for result in results] == [OutOfTime] * 8
    assert decoded == images[:5]  # looked at 0, 1, 2, 3, 4, and 5 is too late
    assert isinstance(budget.refusal, OutOfTime)


def test_a_row_after_a_bad_one_is_not_decoded_and_the_first_bad_row_is_named(
    scorer: Scorer, images: list[bytes], decoded: list[bytes]
):
    cut = images[1][: len(images[1]) // 2]  # found bad when it is decoded; the text is found bad before
    budget, other = RequestBudget(), RequestBudget()
    cells = [images[0], cut, images[2], "no image", *images[3:13]]
    results = scorer.score([*cells, images[13]], [budget] * len(cells) + [other])
    assert isinstance(results[0], ClassificationAnswer)
    assert isinstance(results[1], BadImage)
    assert all(isinstance(result, UserError) for result in results[1:-1])
    assert isinstance(results[-1], ClassificationAnswer)
    assert set(decoded) <= {images[0], cut, images[2], images[13]}


def test_cells_without_budgets_do_not_limit_each_other(scorer: Scorer, images: list[bytes]):
    cells = [large(1500, "GIF"), images[0][:100], images[1]]
    results = scorer.score(cells)
    assert [type(result) for result in results] == [ClassificationAnswer, BadImage, ClassificationAnswer]


def test_the_cheapest_request_of_a_batch_is_scored_first(scorer: Scorer, images: list[bytes], decoded: list[bytes]):
    dear, cheap = RequestBudget(), RequestBudget()
    answers = scorer.score([*images[:9], images[9]], [dear] * 9 + [cheap])
    assert decoded[0] == images[9]
    assert answers == scorer.score(images[:10])


def test_images_are_decoded_together_only_while_they_fit():
    gate, entered, leave = PixelGate(100), threading.Semaphore(0), threading.Event()

    def hold(num_pixels: int) -> None:
        with gate.hold(num_pixels):
            entered.release()
            leave.wait(10)

    threads = [threading.Thread(target=hold, args=(num_pixels,)) for num_pixels in (60, 40)]
    for thread in threads:
        thread.start()
        assert entered.acquire(timeout=10)
    last = threading.Thread(target=hold, args=(1000,))  # more than the limit: alone
    last.start()
    assert not entered.acquire(blocking=False)
    leave.set()
    for thread in (*threads, last):
        thread.join(10)
    assert entered.acquire(blocking=False)
