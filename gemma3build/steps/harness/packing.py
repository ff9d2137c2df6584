"""Many short sequences in few calls of a model that takes a fixed number of tokens.

Sequences that begin alike, such as the choices of one question, become a tree of tokens in which
what they share is stored once. One call holds several trees. Every token has its depth as its position
and sees its ancestors only, so the model computes for it what it would compute in its sequence alone.

The results are equal to the bit because of how places are chosen. Attention adds over all places of a call, in
lanes: place 0, ``LANES``, twice ``LANES`` and so on together, then the lanes. What a token does not
see adds zeros, which change nothing, but an ancestor in another lane changes the order of the sum
and its last bit. Where activations are quantized at run time, such a bit makes some of them round
the other way, and a log-likelihood moves by a tenth of a nat. So a token stands in the lane of its
position, after its parent, as it would alone.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from gemma3build.gemma.graph import HIDDEN

PADDING = 0  # the token of a place that no sequence uses
NO_PARENT = -1
# A multiple of the lanes of the processor's softmax: 16 are enough for AVX2.
LANES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreRequest:
    """A sequence whose last tokens are to be scored.

    Attributes:
        tokens: ids, at least two.
        scored: how many of the last ones are scored, each given those before it; less than all.
        group: requests of one group are likely to begin alike.
    """

    tokens: tuple[int, ...]
    scored: int
    group: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Branch:
    """Where a request is in a tree.

    Attributes:
        request: its index.
        places: of the tokens after which a scored one comes, in the tree or the call.
        targets: the scored tokens.
    """

    request: int
    places: tuple[int, ...]
    targets: tuple[int, ...]

    def moved(self, places: Sequence[int]) -> "Branch":
        """Return the same branch of a tree whose tokens stand at these places of a call."""
        moved = tuple(places[place] for place in self.places)
        return Branch(request=self.request, places=moved, targets=self.targets)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """Sequences whose shared starts are stored once; every token comes after its parent.

    Attributes:
        tokens: ids.
        parents: the place of the token before each; ``NO_PARENT`` for a first one.
        depths: how many tokens come before each in its sequence.
        branches: the requests in it.
    """

    tokens: tuple[int, ...]
    parents: tuple[int, ...]
    depths: tuple[int, ...]
    branches: tuple[Branch, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What one call of the model takes, and where its answers are.

    Attributes:
        tokens: int32, ``[1, length]``.
        positions: int32, ``[length]``.
        mask: float32, ``[1, 1, length, length]``: 0 where the row's token sees the column's.
        branches: the requests in it.
    """

    tokens: np.ndarray
    positions: np.ndarray
    mask: np.ndarray
    branches: tuple[Branch, ...]


def cut(tokens: Sequence[int], scored: int, length: int, group: int) -> ScoreRequest:
    """Return a request of at most ``length`` inputs; a longer one loses its beginning.

    The last token is scored and never an input, so ``length + 1`` tokens fit.
    """
    kept = tuple(tokens[-(length + 1) :])
    return ScoreRequest(tokens=kept, scored=min(scored, len(kept) - 1), group=group)


def plant(requests: Sequence[ScoreRequest], length: int) -> list[Tree]:
    """Return trees that hold all requests and each fit into a call.

    Requests of one group share a tree where it fits, else each has its own.
    """
    trees: list[Tree] = []
    for _, items in groupby(enumerate(requests), key=lambda item: item[1].group):
        members = list(items)
        tree = grow(members)
        fits = settle(tree, [False] * length) is not None
        trees += [tree] if fits else [grow([member]) for member in members]
    return trees


def grow(requests: Iterable[tuple[int, ScoreRequest]]) -> Tree:
    """Return the tree of some requests, each given with its index."""
    tokens: list[int] = []
    parents: list[int] = []
    depths: list[int] = []
    branches: list[Branch] = []
    children: dict[tuple[int, int], int] = {}
    for index, request in requests:
        path: list[int] = []
        # The last token is no ancestor.
        for token in request.tokens[:-1]:
            parent = path[-1] if path else NO_PARENT
            place = children.setdefault((parent, token), len(tokens))
            if place == len(tokens):
                tokens.append(token)
                parents.append(parent)
                depths.append(len(path))
            path.append(place)
        branches.append(
            Branch(
                request=index,
                places=tuple(path[-request.scored :]),
                targets=request.tokens[-request.scored :],
            )
        )
    return Tree(
        tokens=tuple(tokens),
        parents=tuple(parents),
        depths=tuple(depths),
        branches=tuple(branches),
    )


def settle(tree: Tree, used: Sequence[bool]) -> tuple[int, ...] | None:
    """Return places for the tokens of a tree among those of a call that are not used yet.

    Each is the first free one of the token's lane that comes after its parent's. None if there is
    none for some token.
    """
    places: list[int] = []
    taken: set[int] = set()
    for depth, parent in zip(tree.depths, tree.parents, strict=True):
        # The parent is in the lane before, so the place behind it is in this one.
        place = depth if parent == NO_PARENT else places[parent] + 1
        while place < len(used) and (used[place] or place in taken):
            place += LANES
        if place >= len(used):
            return None
        places.append(place)
        taken.add(place)
    return tuple(places)


def pack(trees: Sequence[Tree], length: int) -> list[list[tuple[Tree, tuple[int, ...]]]]:
    """Return calls of ``length`` places: the longest tree first, each in the first call that it fits.

    Raises:
        ValueError: a tree does not fit into a call.
    """
    calls: list[list[tuple[Tree, tuple[int, ...]]]] = []
    grids: list[list[bool]] = []
    for tree in sorted(trees, key=lambda tree: -len(tree.tokens)):
        index, places = first_fit(tree, grids)
        if places is None:
            calls.append([])
            grids.append([False] * length)
            places = settle(tree, grids[index])
        if places is None:
            raise ValueError(f"a tree of {len(tree.tokens)} tokens does not fit into {length}")
        for place in places:
            grids[index][place] = True
        calls[index].append((tree, places))
    return calls


def first_fit(tree: Tree, grids: Sequence[Sequence[bool]]) -> tuple[int, tuple[int, ...] | None]:
    """Return the first grid that has places for a tree, and these; else how many grids there are."""
    for index, used in enumerate(grids):
        if used.count(False) >= len(tree.tokens):
            places = settle(tree, used)
            if places is not None:
                return index, places
    return len(grids), None


def lay_out(trees: Sequence[tuple[Tree, tuple[int, ...]]], length: int) -> Call:
    """Return the call of these trees; unused places are padding.

    The first place has position 0, which the graph takes for the place of the first key.
    """
    tokens = np.full((1, length), PADDING, np.int32)
    positions = np.zeros(length, np.int32)
    # Padding sees itself: a row that sees nothing could become NaN.
    seen = np.eye(length, dtype=bool)
    branches: list[Branch] = []
    for tree, taken in trees:
        places = list(taken)
        tokens[0, places] = tree.tokens
        positions[places] = tree.depths
        for place, parent in zip(places, tree.parents, strict=True):
            if parent != NO_PARENT:
                seen[place] |= seen[places[parent]]
        branches += [branch.moved(places) for branch in tree.branches]
    mask = np.where(seen, 0, HIDDEN).astype(np.float32)[None, None]
    return Call(tokens=tokens, positions=positions, mask=mask, branches=tuple(branches))


def plan_calls(requests: Sequence[ScoreRequest], length: int) -> Iterator[Call]:
    """Yield the calls that score all requests, none of more than ``length`` inputs."""
    for trees in pack(plant(requests, length), length):
        yield lay_out(trees, length)


def places(call: Call) -> np.ndarray:
    """Return the places of a call whose logits are needed, each once, ascending: int64."""
    return np.unique([place for branch in call.branches for place in branch.places])


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """How likely a model finds a request's scored tokens.

    Attributes:
        log_likelihood: their log-probability together, in nats.
        greedy: whether each of them is the likeliest one at its place.
    """

    log_likelihood: float
    greedy: bool


def read_scores(call: Call, rows: np.ndarray) -> dict[int, Score]:
    """Return the score of each request of a call, by its index.

    Args:
        call: the call.
        rows: logits of the ``places`` of the call, float32, ``[places, vocabulary]``; overwritten.
    """
    row_of = {int(place): row for row, place in enumerate(places(call))}
    picked = [
        (np.array([row_of[place] for place in branch.places]), np.array(branch.targets))
        for branch in call.branches
    ]
    logits = [rows[row, target].astype(np.float64) for row, target in picked]
    highest = rows.max(axis=1)
    normalizers = log_sums(rows, highest)
    return {
        branch.request: Score(
            log_likelihood=float((chosen - normalizers[row]).sum()),
            greedy=bool((chosen == highest[row]).all()),
        )
        for branch, (row, _), chosen in zip(call.branches, picked, logits, strict=True)
    }


def log_sums(rows: np.ndarray, highest: np.ndarray) -> np.ndarray:
    """Return the logarithm of the sum of the exponentials of each row, float64; overwrites rows.

    Row by row: one of them stays in the processor's cache, all of them would not.
    """
    sums = np.empty(len(rows))
    for index, (row, top) in enumerate(zip(rows, highest, strict=True)):
        row -= top  # noqa: PLW2901 - in place
        np.exp(row, out=row)
        # Pairwise, which keeps float32 to about one unit in the last place.
        sums[index] = row.sum()
    logarithms: np.ndarray = np.log(sums) + highest
    return logarithms
