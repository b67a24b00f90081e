"""The fit of L(N, D): known laws are recovered, their intervals cover the truth, the optimum is the closed form's."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bigtrain.sweep.scaling import free_parameters
from bigtrain.sweep.scaling_law import SIX_N_D, Cost, Law, Runs, fit, fit_cost, interval, optimum

CHINCHILLA = Law(E=1.69, A=406.4, alpha=0.34, B=410.7, beta=0.28)  # arXiv:2203.15556, approach 3


def grid(sizes: int, lengths: int, noise: float = 0.0, seed: int = 0, law: Law = CHINCHILLA) -> Runs:
    parameters, tokens = map(np.ravel, np.meshgrid(np.geomspace(5e7, 1e10, sizes), np.geomspace(1e9, 5e11, lengths)))
    drawn = np.random.default_rng(seed).standard_normal(parameters.size)
    return Runs(parameters, tokens, law.loss(parameters, tokens) * np.exp(noise * drawn))


def test_chinchillas_law_is_recovered_from_its_points():
    fitted = fit(grid(5, 5))
    assert fitted.free == ("E", "A", "alpha", "B", "beta")
    np.testing.assert_allclose(fitted.law, CHINCHILLA, rtol=1e-9)
    assert fitted.noise < 1e-12


def test_its_recommendation_is_the_closed_form():
    law, many = fit(grid(5, 5)).law, []
    for flops in (1e18, 5.76e23, 1e26):
        parameters, tokens = optimum(law, SIX_N_D, flops)
        scale = (0.34 * 406.4 / (0.28 * 410.7)) ** (1 / 0.62)  # G of equation 4
        assert parameters == pytest.approx(scale * (flops / 6) ** (0.28 / 0.62), rel=1e-8)
        assert tokens == pytest.approx((flops / 6) ** (0.34 / 0.62) / scale, rel=1e-8)
        assert 6 * parameters * tokens == pytest.approx(flops)
        many.append(parameters)
    assert math.log(many[2] / many[0]) / math.log(1e8) == pytest.approx(0.4516, abs=1e-4)  # N ~ C^0.45


@pytest.mark.parametrize("cost", [SIX_N_D, Cost(11.0, 0.93)])
def test_no_other_size_is_better_at_the_same_flops(cost):
    parameters, tokens = optimum(CHINCHILLA, cost, 1e21)
    best = CHINCHILLA.loss(parameters, tokens)
    for factor in (0.5, 0.99, 1.01, 2.0):
        other = parameters * factor
        assert CHINCHILLA.loss(other, 1e21 / (cost.factor * other**cost.exponent)) > best


@pytest.mark.parametrize(("side", "noise"), [(3, 0.002), (4, 0.002), (5, 0.01)])
def test_the_intervals_cover_the_truth_nineteen_times_in_twenty(side, noise):
    """Over seeds: of E, alpha, beta, N at a budget and the loss there."""
    draws, covered = 8, np.zeros(5)
    best = optimum(CHINCHILLA, SIX_N_D, 1e24)[0]
    truths = CHINCHILLA.E, CHINCHILLA.alpha, CHINCHILLA.beta, best, CHINCHILLA.loss(1e11, 1e13)
    for seed in range(draws):
        many = fit(grid(side, side, noise, seed)).replicates
        found = many.E, many.alpha, many.beta, optimum(many, SIX_N_D, 1e24)[0], many.loss(1e11, 1e13)
        for place, (values, truth) in enumerate(zip(found, truths, strict=True)):
            low, high = interval(np.asarray(values))
            covered[place] += low <= truth <= high
    assert (covered >= draws - 3).all(), covered
    assert covered.sum() >= 0.85 * draws * 5


def test_it_is_the_minimum_of_the_huber_loss():
    """Against torch's L-BFGS in float64, from the truth, on the same objective."""
    import torch

    runs, delta = grid(4, 4, 0.01, seed=3), 1e-3
    from bigtrain.sweep import scaling_law as module

    problem = module._Problem.of(runs, ("E", "A", "alpha", "B", "beta"), None)
    target = np.log(runs.loss)
    ours = module._best(problem, problem.starts(runs.loss), target, delta)
    value = module._huber(target - problem.log_loss(ours[None]), delta)[0]
    n, d, y = (torch.from_numpy(np.log(part)) for part in (runs.parameters, runs.tokens, runs.loss))
    theta = torch.tensor([math.log(1.69), math.log(406.4), 0.34, math.log(410.7), 0.28], dtype=torch.float64)
    theta.requires_grad_()
    optimizer = torch.optim.LBFGS([theta], max_iter=500, tolerance_grad=1e-14, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        e, a, alpha, b, beta = theta
        law = torch.logsumexp(torch.stack([e.expand_as(n), a - alpha * n, b - beta * d]), dim=0)
        return torch.nn.functional.huber_loss(law, y, reduction="sum", delta=delta)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        found = loss()
        found.backward()
        return found

    optimizer.step(closure)
    assert value <= loss().item() * (1 + 1e-6)


def test_an_outlier_hardly_moves_it():
    runs = grid(5, 5, 0.001, seed=1)
    runs.loss[7] *= 1.2
    assert fit(runs).law.alpha == pytest.approx(0.34, abs=0.01)


def test_the_same_runs_give_the_same_intervals():
    first, second = (fit(grid(3, 4, 0.01)) for _ in range(2))
    assert first.law == second.law
    assert all(map(np.array_equal, first.replicates, second.replicates))


def test_where_E_is_known_a_smaller_grid_is_enough():
    fitted = fit(grid(2, 3), known_E=1.69)
    assert fitted.free == ("A", "alpha", "B", "beta")
    np.testing.assert_allclose(fitted.law, CHINCHILLA, rtol=1e-6)


@pytest.mark.parametrize("which", ["size", "length"])
def test_one_term_where_only_one_thing_varies(which):
    only = CHINCHILLA._replace(B=0.0) if which == "size" else CHINCHILLA._replace(A=0.0)
    law = fit(grid(5, 1, law=only) if which == "size" else grid(1, 5, law=only)).law
    fitted, truth = ((law.A, law.alpha), (406.4, 0.34)) if which == "size" else ((law.B, law.beta), (410.7, 0.28))
    assert fitted == pytest.approx(truth, rel=1e-6)
    assert (law.E, law.B if which == "size" else law.A) == pytest.approx((1.69, 0.0))


@pytest.mark.parametrize(
    ("sizes", "lengths", "runs", "known_E", "count"),
    [
        (3, 3, 9, False, 5),
        (3, 3, 5, False, 0),  # no run is left to see the noise
        (2, 3, 6, False, 0),
        (2, 3, 6, True, 4),
        (2, 2, 4, True, 0),
        (1, 4, 4, False, 3),
        (3, 1, 3, False, 0),
        (3, 1, 3, True, 2),
        (1, 2, 2, True, 0),
    ],
)
def test_what_a_grid_can_tell(sizes, lengths, runs, known_E, count):
    assert len(free_parameters(sizes, lengths, runs, known_E)) == count


def test_too_few_runs_are_refused():
    with pytest.raises(ValueError, match="4 runs of 2 sizes and 2 lengths"):
        fit(grid(2, 2))


def test_flops_per_token_follow_a_power_of_the_size():
    parameters = np.array([1e6, 1e7, 1e8, 1e8])
    tokens = np.array([1e9, 2e9, 3e9, 4e9])
    cost = fit_cost(parameters, tokens, 8.0 * parameters**0.97 * tokens)
    assert cost == pytest.approx((8.0, 0.97))
    assert fit_cost(parameters[2:], tokens[2:], tokens[2:]) is None
