import hashlib
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemma3build.steps.harness import packing
from gemma3build.util import machine

LENGTH = 64
VOCABULARY = 7
BOS = 2

requests = st.builds(
    lambda tokens, scored, group: packing.cut([BOS, *tokens], scored, LENGTH, group),
    st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=70),
    st.integers(1, 70),
    st.integers(0, 3),
)


def request(*tokens: int, scored: int = 1, group: int = 0) -> packing.ScoreRequest:
    return packing.ScoreRequest(tokens=tokens, scored=scored, group=group)


def logits_after(tokens: Sequence[int]) -> np.ndarray:
    """A model of which nothing is known but that it depends on every token and their order."""
    seed = hashlib.sha256(bytes(tokens)).digest()
    random = np.random.default_rng(int.from_bytes(seed[:8], "big"))
    return (4 * random.standard_normal(VOCABULARY)).astype(np.float32)


def seen(call: packing.Call, place: int) -> list[int]:
    """The tokens that one place of a call sees, in the order of their places."""
    (places,) = np.nonzero(call.mask[0, 0, place] == 0)
    # In the order of the sequence, each in the lane of its position: sums come out to the bit.
    assert call.positions[places].tolist() == list(range(len(places)))
    assert (places % packing.LANES == call.positions[places] % packing.LANES).all()
    return [int(token) for token in call.tokens[0, places]]


def alone(item: packing.ScoreRequest) -> packing.Score:
    """The score of a sequence, made without any of the code that is tested."""
    total, greedy = 0.0, True
    for index in range(len(item.tokens) - item.scored, len(item.tokens)):
        row = logits_after(item.tokens[:index]).astype(np.float64)
        total += float(row[item.tokens[index]] - np.log(np.exp(row).sum()))
        greedy = greedy and int(row.argmax()) == item.tokens[index]
    return packing.Score(log_likelihood=total, greedy=greedy)


@given(st.lists(requests, min_size=1, max_size=12))
def test_a_packed_sequence_scores_as_it_does_alone(items: list[packing.ScoreRequest]) -> None:
    scores: dict[int, packing.Score] = {}
    for call in packing.plan_calls(items, LENGTH):
        assert call.tokens.shape == (1, LENGTH)
        assert call.positions[0] == 0, "the graph writes its cache from the first position on"
        rows = [logits_after(seen(call, int(place))) for place in packing.places(call)]
        found = packing.read_scores(call, np.stack(rows))
        assert not scores.keys() & found.keys()
        scores |= found
    assert scores.keys() == set(range(len(items)))
    for index, item in enumerate(items):
        expected = alone(item)
        assert scores[index].greedy == expected.greedy
        assert scores[index].log_likelihood == pytest.approx(expected.log_likelihood, abs=1e-4)


def test_what_choices_share_stands_once_and_their_last_tokens_nowhere() -> None:
    (tree,) = packing.plant([request(2, 5, 6, 1, 3, scored=2), request(2, 5, 6, 4, scored=1)], 16)
    assert tree.tokens == (2, 5, 6, 1)
    assert tree.parents == (-1, 0, 1, 2)
    assert tree.depths == (0, 1, 2, 3)
    assert tree.branches == (
        packing.Branch(request=0, places=(2, 3), targets=(1, 3)),
        packing.Branch(request=1, places=(2,), targets=(4,)),
    )


def test_a_branch_has_positions_of_its_own() -> None:
    (tree,) = packing.plant([request(2, 5, 6, 1), request(2, 4, 3, 1)], 64)
    assert tree.tokens == (2, 5, 6, 4, 3)
    assert tree.parents == (-1, 0, 1, 0, 3)
    assert tree.depths == (0, 1, 2, 1, 2)


def test_a_tree_that_does_not_fit_becomes_one_for_each_choice() -> None:
    first, second = request(*range(40)), request(*range(20), *range(50, 70))
    # Both branches need places in the lanes of positions 32 to 38, each after those before it.
    assert [len(tree.tokens) for tree in packing.plant([first, second], 96)] == [58]
    assert [len(tree.tokens) for tree in packing.plant([first, second], 64)] == [39, 39]


def test_a_long_sequence_loses_its_beginning() -> None:
    item = packing.cut(list(range(20)), 3, 16, 0)
    assert item == request(*range(3, 20), scored=3)
    assert packing.cut(list(range(20)), 19, 16, 0).scored == 16
    assert packing.cut(list(range(17)), 3, 16, 0).tokens == tuple(range(17))


def test_the_longest_trees_go_first_each_where_its_lanes_are_free() -> None:
    sizes = (20, 40, 10, 30)
    trees = [packing.grow([(0, request(*range(size + 1)))]) for size in sizes]
    calls = packing.pack(trees, 64)
    assert [[len(tree.tokens) for tree, _ in call] for call in calls] == [[40], [30, 20], [10]]
    assert [places[0] for call in calls for _, places in call] == [0, 0, 32, 0]
    with pytest.raises(ValueError, match="a tree of 40 tokens does not fit into 32"):
        packing.pack(trees, 32)


def test_places_that_nothing_uses_see_themselves_alone() -> None:
    (call,) = packing.plan_calls([request(2, 5, 6)], 4)
    assert call.tokens.tolist() == [[2, 5, 0, 0]]
    assert (call.mask[0, 0] == 0).tolist() == [
        [True, False, False, False],
        [True, True, False, False],
        [False, False, True, False],
        [False, False, False, True],
    ]


def test_huge_logits_do_not_overflow() -> None:
    (call,) = packing.plan_calls([request(2, 1)], 4)
    rows = np.array([[300.0, 299.0, -300.0]], np.float32)
    score = packing.read_scores(call, rows)[0]
    assert score.log_likelihood == pytest.approx(-1 - np.log1p(np.exp(-1)), abs=1e-6)
    assert not score.greedy


def test_the_machine_is_read_from_the_kernel() -> None:
    text = "processor\t: 0\nmodel name\t: Some CPU @ 2.00GHz\n\nmodel name\t: Other\n"
    assert machine.cpu(text) == "Some CPU @ 2.00GHz"
    assert machine.cpu("processor\t: 0\n") == "unknown"
    assert machine.memory("MemTotal:       24683656 kB\nMemFree: 1 kB\n") == 24683656 * 1024
    with pytest.raises(ValueError, match="has no MemTotal"):
        machine.memory("")
    found = machine.here()
    assert found.cores >= 1
    assert found.memory > 0
