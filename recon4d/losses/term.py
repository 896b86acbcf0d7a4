"""A loss term as the sum of its errors and their count, which are divided only after they are summed over all ranks."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from recon4d.records import full_precision


@dataclass(frozen=True)
class Term:
    """Sum and count of errors.

    The mean over several terms, ranks or micro-batches is the sum of their totals divided by the sum of their counts.
    """

    total: Float[Tensor, ""]
    """Sum of weight times error over the valid entries."""
    count: Float[Tensor, ""]
    """Sum of the weights, without gradient; the number of valid entries if every weight is 1."""


def masked_term(values: Float[Tensor, "*shape"], weights: Bool[Tensor, "*shape"] | Float[Tensor, "*shape"]) -> Term:
    """Sum the errors of the valid entries.

    Invalid entries receive a zero gradient here. If their value came from an operation with an infinite slope, the
    chain rule still yields NaN (zero times infinity), so replace unknown inputs with `fill_unknown` before computing
    errors.

    Args:
        values: Error of each entry; may be NaN or infinite where the weight is not positive.
        weights: Weight of each entry, or a mask of valid entries. Negative and NaN weights count as 0. No gradient
            flows into the weights.

    Returns:
        The weighted sum of the errors and the sum of the weights, in at least single precision.
    """
    values = full_precision(values)
    weights = weights.detach().to(values.dtype)
    weights = torch.where(weights > 0, weights, torch.zeros_like(weights))
    known = torch.where(weights > 0, values, torch.zeros_like(values))
    return Term((weights * known).sum(), weights.sum())


def fill_unknown(
    values: Float[Tensor, "*shape"], is_known: Bool[Tensor, "*shape"], fill_value: float
) -> Float[Tensor, "*shape"]:
    """Replace unknown values by a constant.

    Args:
        values: Values of any shape; unknown ones may be NaN or infinite.
        is_known: Mask of the values to keep.
        fill_value: Value of the unknown entries.

    Returns:
        The values in at least single precision. Unknown entries have no gradient.
    """
    values = full_precision(values)
    return torch.where(is_known, values, torch.full_like(values, fill_value))


def merge_terms(*terms: Term) -> Term:
    """Merge several terms into one over all their entries.

    Args:
        terms: At least one term.

    Returns:
        The sum of the totals and the sum of the counts, so entries of all terms weigh the same.
    """
    return Term(torch.stack([term.total for term in terms]).sum(), torch.stack([term.count for term in terms]).sum())


def mean(term: Term) -> Float[Tensor, ""]:
    """Divide the total of a term by its count.

    Args:
        term: The term, after its total and count were summed over ranks.

    Returns:
        The mean error, a scalar; 0 with zero gradient if the count is 0.
    """
    is_empty = term.count <= 0
    average = term.total / torch.where(is_empty, torch.ones_like(term.count), term.count)
    return torch.where(is_empty, torch.zeros_like(average), average)
