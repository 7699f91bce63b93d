"""Which word types can be the argmax of W h for some h (docs/paper.md#stolen-probabilities).

Type i is argmaxable iff some h has (w_i − w_j)·h > 0 for all j ≠ i. A tie does not count, so of equal rows none is.
Without a bias this says that w_i is a vertex of the convex hull of all rows. Nearly every type has an h that is found
cheaply and is its own proof; a linear program is solved for the rest alone.
"""

import tempfile
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import linprog
from torch import Tensor

from knnlm.retrieval.blocks import slices
from knnlm.running.processes import die_with_parent

UNARGMAXABLE, UNDECIDED, ARGMAXABLE = -1, 0, 1
# Least (w_i − w_j)·h / ‖w_i − w_j‖ that counts as positive in the whitened space; the solver is exact to 1e-9.
MARGIN = 1e-7
SOLVER = {"primal_feasibility_tolerance": 1e-9, "dual_feasibility_tolerance": 1e-9}
COMPETITORS = 1024  # constraints of a first linear program, and the most that are added at once
STEPS_TO_SHARPEN = 10  # of the perceptron: its softmax is twice as sharp after so many steps as at the first
AT_ONCE = 1024  # vectors h that are compared with all rows
EIGENVALUE_FLOOR = 1e-12  # of the largest, so that whitening can be undone and loses no direction


def find_argmaxable(
    rows: np.ndarray, states: np.ndarray, perceptron_steps: int, processes: int,
    most_linear_programs: int | None = None, device: str = "cpu",
) -> tuple[np.ndarray, dict[str, int]]:  # fmt: skip
    """Return for every type whether it can be the argmax of `rows` h, int8 (types,), and how that was found.

    The verdicts are ARGMAXABLE, UNARGMAXABLE and UNDECIDED. `rows` is float (types, width), one row a type; `states` is
    float32 (n, width), some h to try, n may be 0. Three tests clear types in turn: the direction of the type's own
    row, the states, and a perceptron of at most `perceptron_steps` steps. Linear programs in `processes` processes
    decide the rest. A type stays undecided only if there are more than `most_linear_programs` (None: no limit) or the
    solver fails. The counts `duplicates`, `cleared_by_direction`, `cleared_by_states`, `cleared_by_perceptron`,
    `linear_programs` and, where a limit was set, the programs left out add up to `types`; `unargmaxable` and
    `undecided` say what came out. Memory: a few copies of `rows` a process.
    """
    # + 0.0 makes −0 a 0; place: (types,), the distinct row that each type has
    unsigned = np.asarray(rows, np.float64) + 0.0
    distinct, place, count = np.unique(unsigned, axis=0, return_inverse=True, return_counts=True)
    centred = distinct - distinct.mean(axis=0)  # (distinct, width)
    points = whitened(centred)
    original, white = (torch.tensor(array, dtype=torch.float32, device=device) for array in (centred, points))
    verdict = np.where(count == 1, UNDECIDED, UNARGMAXABLE).astype(np.int8)  # (distinct,)
    facts = {"types": len(rows), "duplicates": int(count[count > 1].sum())}

    def clear(types: Tensor) -> int:
        """Clear those of `types` that are undecided (a duplicate stays what it is); return how many those were."""
        open_types = np.count_nonzero(verdict == UNDECIDED)
        verdict[types.cpu().numpy()] += verdict[types.cpu().numpy()] == UNDECIDED
        return int(open_types - np.count_nonzero(verdict == UNDECIDED))

    def still_open() -> Tensor:
        return torch.from_numpy(np.flatnonzero(verdict == UNDECIDED)).to(device)

    facts["cleared_by_direction"] = sum(clear(cleared_by_direction(space, still_open())) for space in (white, original))
    facts["cleared_by_states"] = clear(cleared_by_states(original, states))
    cleared, rest, h = perceptron(white, still_open(), perceptron_steps)
    facts["cleared_by_perceptron"] = clear(cleared)
    rest, h = rest.cpu().numpy()[:most_linear_programs], h.cpu().numpy()[:most_linear_programs]
    verdict[rest] = decide(points, rest, h, processes)
    facts |= {"linear_programs": len(rest), "unargmaxable": int((verdict[place] == UNARGMAXABLE).sum())}
    facts["undecided"] = int((verdict == UNDECIDED).sum())
    return verdict[place], facts


def whitened(centred: np.ndarray) -> np.ndarray:
    """Return rows of zero mean, float64 (types, width), with their covariance whitened by an invertible linear map.

    The map does not change who can be an argmax, but after it a type's own row is nearly its best h.
    """
    eigenvalues, vectors = np.linalg.eigh(centred.T @ centred / len(centred))
    largest = eigenvalues.max(initial=0)
    return centred @ vectors / np.sqrt(np.maximum(eigenvalues, EIGENVALUE_FLOOR * largest)) if largest > 0 else centred


def leads(rows: Tensor, h: Tensor, types: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Compare one type with all others at each h: return the types, which surely lead, and the others' products.

    rows: float32 (all types, width); h: float32 (n, width); types: int64 (n,), None for the argmax at each h. A lead,
    bool (n,), is sure if it exceeds what rounding can do to two inner products of float32. The products are float32
    (n, all types), −inf at the type itself.
    """
    products = h @ rows.T
    types = products.argmax(dim=1) if types is None else types
    own = products.gather(1, types[:, None])
    others = products.scatter_(1, types[:, None], -torch.inf)
    rounding = (rows.shape[1] + 2) * torch.finfo(torch.float32).eps * h.norm(dim=1) * rows.norm(dim=1).max()
    return types, own[:, 0] - others.amax(dim=1) > rounding, others


def cleared_by_direction(rows: Tensor, types: Tensor) -> Tensor:
    """Return those of `types`, int64, that lead at h = their own row; rows: float32 (all types, width), zero mean."""
    return types[torch.cat([leads(rows, rows[some], some)[1] for some in types.split(AT_ONCE)])]


def cleared_by_states(rows: Tensor, states: np.ndarray) -> Tensor:
    """Return the types that lead at some state, int64; rows: float32 (types, width), states: float (n, width)."""
    found = [torch.zeros(0, dtype=torch.int64, device=rows.device)]
    for some in slices(len(states), AT_ONCE):
        types, sure, _ = leads(rows, torch.as_tensor(np.asarray(states[some], np.float32), device=rows.device))
        found.append(types[sure].unique())
    return torch.cat(found).unique()


def perceptron(rows: Tensor, types: Tensor, steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """Look for an h for each of `types` by a smoothed perceptron: step from the rivals towards the type until it leads.

    A perceptron has one rival, the strongest; here the rival is the mean of all others by a softmax that sharpens with
    the steps. (Of the word means of a V of 10,000, 2 % are left after 60 steps; the plain rule leaves 12 %.) rows:
    float32 (all types, width), whitened; types: int64 (n,). Returns the types that lead, those that do not after
    `steps` steps, and the last h of those, float32 (rest, width).
    """
    normalize = torch.nn.functional.normalize
    h, cleared = normalize(rows[types]), [types[:0]]  # (n, width)
    for step in range(steps if len(types) else 0):
        parts, sharpness = [], 1 + step / STEPS_TO_SHARPEN
        for some, at in zip(types.split(AT_ONCE), h.split(AT_ONCE), strict=True):
            _, sure, others = leads(rows, at, some)
            rivals = torch.softmax(others.mul_(sharpness / at.norm(dim=1, keepdim=True)), dim=1) @ rows
            parts.append((sure, at + normalize(rows[some] - rivals)))
        sure, h = (torch.cat(part) for part in zip(*parts, strict=True))
        cleared.append(types[sure])
        types, h = types[~sure], h[~sure]
        if not len(types):
            break
    return torch.cat(cleared), types, h


def decide(points: np.ndarray, types: np.ndarray, h: np.ndarray, processes: int) -> np.ndarray:
    """Return the verdict of the linear program of each of `types`, int8 (n,).

    points: float64 (all types, width), no two equal, shared as a temporary file; h: float (n, width), a guess for each.
    """
    if processes < 2 or len(types) < 2:
        return np.array([linear_program(points, *pair) for pair in zip(types, h, strict=True)], dtype=np.int8)
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(processes, initializer=die_with_parent) as pool:
        np.save(file := Path(folder, "points.npy"), points, allow_pickle=False)
        return np.array(list(pool.map(partial(_program_of_file, file), types, h, chunksize=4)), dtype=np.int8)


def _program_of_file(file: Path, type_: int, guess: np.ndarray) -> int:
    return linear_program(np.load(file, mmap_mode="r"), type_, guess)


def linear_program(points: np.ndarray, type_: int, guess: np.ndarray) -> int:
    """Return whether a point is a vertex of the hull of all points: ARGMAXABLE, UNARGMAXABLE, or UNDECIDED.

    It is undecided where the solver fails. The program is max r so that (w_j − w_i)·h + r ‖w_j − w_i‖ ≤ 0 for all j,
    ‖h‖∞ ≤ 1. It starts with the rivals that are strongest at `guess`, (width,), and adds those that its h violates.
    With fewer constraints r can only be larger: r ≤ 0 proves that there is no h; an h that violates none is one.
    """
    differences = np.delete(points, type_, axis=0) - points[type_]  # (all types − 1, width)
    differences /= np.linalg.norm(differences, axis=1, keepdims=True)
    chosen = _largest(differences @ guess, np.arange(len(differences)))
    width = points.shape[1]
    objective, bounds = np.append(np.zeros(width), -1.0), [(-1, 1)] * width + [(0, 1)]
    while True:
        rivals, zeros = np.column_stack([differences[chosen], np.ones(len(chosen))]), np.zeros(len(chosen))
        solution = linprog(objective, rivals, zeros, bounds=bounds, method="highs", options=SOLVER)
        if not solution.success:
            return UNDECIDED
        if -solution.fun <= MARGIN:
            return UNARGMAXABLE
        projections = differences @ solution.x[:-1]
        violated = np.flatnonzero(projections > -MARGIN / 2)
        if not len(violated):
            return ARGMAXABLE
        chosen = np.concatenate([chosen, _largest(projections, violated)])


def _largest(projections: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Return those of `among` with the largest projections, at most COMPETITORS."""
    if len(among) <= COMPETITORS:
        return among
    return among[np.argpartition(projections[among], -COMPETITORS)[-COMPETITORS:]]
