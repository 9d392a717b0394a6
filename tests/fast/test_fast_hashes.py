"""Hashes computed together are those of hashlib, by whatever instructions, and packets come out the same."""

from collections.abc import Iterator
from hashlib import blake2b

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twins import SETUPS, Twins, passed

from nfqlb import fast

if fast.which() != "compiled":
    pytest.skip(f"no fast path here: {fast.which()}", allow_module_level=True)

from nfqlb.fast.path import VECTORS, hashed, use_vectors

MOST = 8

inputs = st.lists(
    st.one_of(st.binary(min_size=1, max_size=400), st.sampled_from([1, 127, 128, 129, 256, 257]).map(bytes)),
    min_size=1,
    max_size=MOST,
)


@pytest.fixture(params=["", "avx2", "avx512vl"], ids=lambda name: name or "one by one")
def vectors(request: pytest.FixtureRequest) -> Iterator[str]:
    name: str = request.param
    if name and name not in VECTORS:
        pytest.skip(f"this processor has no {name}")
    use_vectors(name)
    yield name
    use_vectors(VECTORS[0] if VECTORS else "")


@pytest.mark.usefixtures("vectors")
@settings(suppress_health_check=[])
@given(st.binary(max_size=64), st.binary(max_size=16), st.integers(1, 64), inputs)
def test_each_digest_is_that_of_hashlib(key: bytes, person: bytes, size: int, texts: list[bytes]) -> None:
    wanted = [blake2b(each, key=key, person=person, digest_size=size).digest() for each in texts]
    assert hashed(key, person, size, texts) == wanted


@pytest.mark.usefixtures("vectors")
@pytest.mark.parametrize("count", range(1, MOST + 1))
def test_inputs_of_very_different_lengths_do_not_disturb_each_other(count: int) -> None:
    for long in range(count):
        texts = [bytes([number]) * (1000 if number == long else number + 1) for number in range(count)]
        assert hashed(b"k" * 16, b"p", 32, texts) == [
            blake2b(each, key=b"k" * 16, person=b"p", digest_size=32).digest() for each in texts
        ]


@pytest.mark.slow
@pytest.mark.usefixtures("vectors")
def test_a_gateway_writes_the_same_packets() -> None:
    for each in SETUPS:
        twins = Twins(SETUPS[each])
        for _, packet in passed(each):
            twins.process(*packet)
        twins.check_memory()


def test_instructions_that_are_not_there_are_refused() -> None:
    with pytest.raises(ValueError, match="no sse9"):
        use_vectors("sse9")
