"""A term of the objective: a sum of errors and what it is to be divided by, kept apart until all ranks have spoken."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from recon4d.records import full_precision


@dataclass(frozen=True)
class Term:
    """The mean over any number of parts, ranks or micro-batches is the sum of totals over the sum of counts."""

    total: Float[Tensor, ""]
    """Sum of weight times error over the valid entries."""
    count: Float[Tensor, ""]
    """Sum of the weights; the number of valid entries where each weighs 1. No gradient flows into it."""


def masked_term(values: Float[Tensor, "*shape"], weights: Bool[Tensor, "*shape"] | Float[Tensor, "*shape"]) -> Term:
    """The term of `values` where `weights` are above 0; elsewhere they may be NaN or infinite.

    The gradient of what is left out is zero here, but zero times an infinite slope is NaN further up: whoever computes
    the values replaces unknown inputs first (`replaced_where_unknown`).
    """
    values = full_precision(values)
    weights = weights.detach().to(values.dtype)
    weights = torch.where(weights > 0, weights, torch.zeros_like(weights))
    known = torch.where(weights > 0, values, torch.zeros_like(values))
    return Term((weights * known).sum(), weights.sum())


def replaced_where_unknown(
    values: Float[Tensor, "*shape"], known: Bool[Tensor, "*shape"], replacement: float
) -> Float[Tensor, "*shape"]:
    """`values` in full precision, and `replacement`, without a gradient, where they are not `known`."""
    values = full_precision(values)
    return torch.where(known, values, torch.full_like(values, replacement))


def together(*terms: Term) -> Term:
    """One term over the entries of all."""
    return Term(torch.stack([term.total for term in terms]).sum(), torch.stack([term.count for term in terms]).sum())


def mean(term: Term) -> Float[Tensor, ""]:
    """The mean error; 0, with zero gradient, where nothing is valid."""
    is_empty = term.count <= 0
    average = term.total / torch.where(is_empty, torch.ones_like(term.count), term.count)
    return torch.where(is_empty, torch.zeros_like(average), average)
