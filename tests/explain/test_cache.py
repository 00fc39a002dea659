from hypothesis import given
from hypothesis import strategies as st

from clearsight.handlers.explain.answering.cache import ByteCache


def test_a_cache_of_no_bytes_keeps_nothing():
    cache = ByteCache(0)
    cache.put("a", "value", 1)
    assert cache.get("a") is None
    assert cache.num_bytes == 0


def test_what_was_not_used_for_longest_goes_first():
    cache = ByteCache(30)
    for key in "abc":
        cache.put(key, key.upper(), 10)
    assert cache.get("a") == "A"
    cache.put("d", "D", 10)
    assert [cache.get(key) for key in "abcd"] == ["A", None, "C", "D"]


def test_what_is_larger_than_the_cache_drives_nothing_out():
    cache = ByteCache(30)
    cache.put("a", "A", 30)
    cache.put("b", "B", 31)
    assert (cache.get("a"), cache.get("b")) == ("A", None)


def test_a_key_given_again_replaces_its_value():
    cache = ByteCache(30)
    cache.put("a", "A", 20)
    cache.put("a", "B", 25)
    assert (cache.get("a"), cache.num_bytes) == ("B", 25)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 12))))
def test_it_never_holds_more_bytes_than_it_may(puts):
    cache = ByteCache(20)
    for key, num_bytes in puts:
        cache.put(key, num_bytes, num_bytes)
        held = [cache.get(other) for other in range(6)]
        assert cache.num_bytes == sum(value for value in held if value is not None) <= 20
