from __future__ import annotations

from cache.lru import Lru


def test_it_forgets_what_was_used_longest_ago() -> None:
    memory: Lru[str, int] = Lru(2)
    memory.put("a", 1)
    memory.put("b", 2)
    assert memory.get("a") == 1
    memory.put("c", 3)
    assert (memory.get("a"), memory.get("b"), memory.get("c")) == (1, None, 3)


def test_it_is_bounded_by_weight_not_by_number() -> None:
    memory: Lru[str, bytes] = Lru(10, len)
    memory.put("a", b"123456")
    memory.put("b", b"1234")
    assert len(memory) == 2
    memory.put("c", b"1")
    assert memory.get("a") is None
    assert memory.get("b") == b"1234"


def test_a_value_too_heavy_for_it_is_not_kept_and_pushes_nothing_out() -> None:
    memory: Lru[str, bytes] = Lru(10, len)
    memory.put("a", b"1")
    memory.put("b", b"x" * 11)
    assert memory.get("a") == b"1"
    assert memory.get("b") is None


def test_a_value_put_twice_weighs_once() -> None:
    memory: Lru[str, bytes] = Lru(10, len)
    for _ in range(5):
        memory.put("a", b"123456")
    memory.put("b", b"1234")
    assert memory.get("a") == b"123456"
