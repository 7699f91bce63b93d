import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial import ConvexHull, QhullError

from knnlm.components.argmaxable import (
    ARGMAXABLE,
    COMPETITORS,
    UNARGMAXABLE,
    UNDECIDED,
    cleared_by_states,
    decide,
    find_argmaxable,
    linear_program,
    perceptron,
    whitened,
)

COUNTS = ("duplicates", "cleared_by_direction", "cleared_by_states", "cleared_by_perceptron", "linear_programs")
POINT_SETS = st.integers(2, 4).flatmap(
    lambda width: arrays(np.int8, st.tuples(st.integers(1, 25), st.just(width)), elements=st.integers(-4, 4))
)


def verdicts(rows, steps=20, states=None, **settings):
    states = np.zeros((0, rows.shape[1]), np.float32) if states is None else states
    verdict, facts = find_argmaxable(rows, states, perceptron_steps=steps, processes=1, **settings)
    assert facts["types"] == len(rows) == len(verdict)
    assert facts["unargmaxable"] == np.count_nonzero(verdict == UNARGMAXABLE)
    assert facts["undecided"] == np.count_nonzero(verdict == UNDECIDED)
    return verdict, facts


def test_points_of_a_square_by_hand():
    # corners, the centre, the middle of an edge (a tie at best), a point just inside and one just outside an edge
    rows = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1], [0, 0], [1, 0], [0, 0.999], [0, -1.001]], np.float32)
    verdict, facts = verdicts(rows)
    np.testing.assert_array_equal(verdict == ARGMAXABLE, [1, 1, 1, 1, 0, 0, 0, 1])
    assert sum(facts[count] for count in COUNTS) == 8


@given(POINT_SETS, st.sampled_from([0, 30]))
@settings(max_examples=150, deadline=None)
def test_the_argmaxable_are_the_vertices_of_the_convex_hull(points, steps):
    points = points.astype(np.float32)
    distinct, count = np.unique(points, axis=0, return_counts=True)
    try:
        hull = ConvexHull(distinct)
    except (QhullError, ValueError):
        assume(False)  # flat sets and too few points, which Qhull does not take: see the tests below
    vertices = {tuple(distinct[place]) for place in hull.vertices}
    single = {tuple(point) for point, times in zip(distinct, count, strict=True) if times == 1}
    verdict, facts = verdicts(points, steps)
    np.testing.assert_array_equal(verdict == ARGMAXABLE, [tuple(point) in vertices & single for point in points])
    assert facts["undecided"] == 0
    assert sum(facts[count] for count in COUNTS) == len(points)


@pytest.mark.parametrize("width", [2, 3, 5])
def test_random_points_far_from_the_origin_and_of_unequal_scale(width):
    generator = np.random.default_rng(width)
    rows = (generator.normal(size=(400, width)) * np.logspace(-2, 2, width) + 50).astype(np.float32)
    verdict, facts = verdicts(rows)
    np.testing.assert_array_equal(np.flatnonzero(verdict == ARGMAXABLE), np.sort(ConvexHull(np.float64(rows)).vertices))
    assert facts["linear_programs"] > facts["unargmaxable"] - 1


def test_points_on_a_line_have_two_ends():
    line = np.arange(-3, 4)[:, None] * np.array([1.0, 2.0, -1.0])
    verdict, _ = verdicts(line.astype(np.float32))
    np.testing.assert_array_equal(np.flatnonzero(verdict == ARGMAXABLE), [0, 6])


def test_equal_rows_tie_and_can_never_be_the_argmax():
    rows = np.array([[2, 0], [2, 0], [-1, 1], [-1, -1], [1, 0], [-0.0, 3], [0.0, 3]], np.float32)
    verdict, facts = verdicts(rows)
    np.testing.assert_array_equal(verdict == ARGMAXABLE, [0, 0, 1, 1, 0, 0, 0])
    assert facts["duplicates"] == 4
    assert (verdicts(np.ones((3, 2), np.float32))[0] == UNARGMAXABLE).all()
    assert (verdicts(np.ones((1, 2), np.float32))[0] == ARGMAXABLE).all()


def test_adding_the_mean_of_other_rows_adds_an_unargmaxable_type_in_many_dimensions():
    generator = np.random.default_rng(1)
    rows = generator.normal(size=(200, 16)).astype(np.float32)
    inside = np.stack([rows[generator.choice(200, 30)].mean(axis=0) for _ in range(5)])
    verdict, facts = verdicts(np.concatenate([rows, inside]), steps=50)
    np.testing.assert_array_equal(verdict[200:], UNARGMAXABLE)
    assert facts["linear_programs"] >= 5


def test_every_cheap_certificate_is_confirmed_by_the_linear_program():
    rows = np.random.default_rng(2).normal(size=(60, 4)).astype(np.float32)
    states = np.random.default_rng(3).normal(size=(50, 4)).astype(np.float32)
    verdict, facts = verdicts(rows, steps=200, states=states)
    assert facts["cleared_by_direction"] > 0
    assert facts["cleared_by_perceptron"] > 0
    alone = decide(whitened(np.float64(rows - rows.mean(axis=0))), np.arange(60), rows, processes=1)
    np.testing.assert_array_equal(verdict, alone)


def test_a_state_at_which_a_type_wins_clears_it():
    # w_2 wins at h = (0, 1) alone among these, w_4 at the second h; at the third, w_0 and w_1 tie and nothing is shown
    rows = torch.tensor([[-10.0, 0.0], [10.0, 0.0], [0.0, 0.5], [9.0, 0.04], [0.0, -30.0]])
    states = np.array([[0, 1], [0.01, -1]], np.float32)
    assert cleared_by_states(rows, states).tolist() == [2, 4]
    assert cleared_by_states(torch.tensor([[1.0, 1.0], [1.0, -1.0]]), np.array([[1, 0]], np.float32)).tolist() == []
    assert cleared_by_states(rows, states[:0]).tolist() == []
    generator = np.random.default_rng(0)
    blunt, many = (
        generator.normal(size=(30, 3)).astype(np.float32),
        generator.normal(size=(20_000, 3)).astype(np.float32),
    )
    (without, facts_without), (with_states, facts) = verdicts(blunt, steps=0), verdicts(blunt, steps=0, states=many)
    np.testing.assert_array_equal(without, with_states)
    assert facts["cleared_by_states"] > 0 == facts_without["cleared_by_states"]
    assert facts["linear_programs"] == facts_without["linear_programs"] - facts["cleared_by_states"]


def test_constraints_are_added_until_the_answer_is_proven():
    # more points than the first program takes, on a sphere: each is a vertex, the origin is not, whatever the guess
    sphere = np.random.default_rng(4).normal(size=(3 * COMPETITORS, 3))
    sphere /= np.linalg.norm(sphere, axis=1, keepdims=True)
    points = np.concatenate([sphere, np.zeros((1, 3))])
    assert linear_program(points, len(sphere), np.ones(3)) == UNARGMAXABLE
    assert all(linear_program(points, type_, -points[type_]) == ARGMAXABLE for type_ in range(5))


def test_a_limit_leaves_types_undecided_and_says_how_many():
    rows = np.concatenate([np.random.default_rng(5).normal(size=(20, 2)), np.zeros((1, 2))]).astype(np.float32)
    _, unlimited = verdicts(rows, steps=0)
    verdict, facts = verdicts(rows, steps=0, most_linear_programs=1)
    assert facts["undecided"] == unlimited["linear_programs"] - 1 > 0
    assert np.count_nonzero(verdict == UNDECIDED) == facts["undecided"]


def test_processes_give_the_same_verdicts():
    rows = np.random.default_rng(6).normal(size=(40, 3))
    np.testing.assert_array_equal(
        decide(rows, np.arange(40), rows, processes=2), decide(rows, np.arange(40), rows, processes=1)
    )


def test_the_perceptron_finds_an_h_for_every_vertex_it_reports():
    rows = np.random.default_rng(7).normal(size=(50, 3))
    cleared, rest, h = perceptron(torch.tensor(rows, dtype=torch.float32), torch.arange(50), 200)
    assert set(cleared.tolist()) <= set(ConvexHull(rows).vertices.tolist())
    assert sorted(cleared.tolist() + rest.tolist()) == list(range(50))
    assert h.shape == (len(rest), 3)
