"""DINO-MVR's probes: norm and mean folded into their products."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgeseg.export.family import Exportable
from edgeseg.export.rewrite.algebra import affine_of, linear, scaled_outputs, with_affine_before
from edgeseg.spec import AppliedRewrite

__all__ = ["FoldedProbes", "fold_probes"]


class FoldedProbes(nn.ModuleList):
    """One perceptron (Linear, exact GELU, Linear) for each tapped block, whose logits are summed.

    The mean is in the second Linears, of which only the first adds a bias. Adding their few
    channels costs less than laying the hidden units side by side for one product would.
    """

    def forward(self, tokens: tuple[Tensor, ...]) -> Tensor:
        """Logits (N, patches, C) of one (N, patches, width) for each probe."""
        logits = [probe(taken) for probe, taken in zip(self, tokens, strict=True)]
        total = logits[0]
        for other in logits[1:]:
            total = total + other
        return total


def fold_probes(probes: nn.ModuleList, norm: nn.Module) -> Exportable:
    """The mean of ``probes`` behind ``norm``, for tokens without the norm's affine part.

    With n probes of hidden units h_i: (1 / n) sum_i (V_i h_i + c_i) = sum_i (V_i / n) h_i + mean c.

    Args:
        probes: of `edgeseg.export.families._mvr_model.Probes`; they are not changed.
        norm: the final LayerNorm, whose affine part goes into each first Linear.
    """
    affine = affine_of(norm)
    share = torch.tensor(1.0 / len(probes), dtype=torch.float64)
    shift = torch.stack([probe[2].bias.detach().double() for probe in probes]).mean(dim=0)
    folded = []
    for index, (first, activation, second) in enumerate(probes):
        weight, _ = scaled_outputs(second.weight, None, share)
        folded.append(
            nn.Sequential(
                linear(*with_affine_before(first.weight, first.bias, affine), first.weight),
                activation,
                linear(weight, shift if index == 0 else None, second.weight),
            )
        )
    return Exportable(
        FoldedProbes(folded).eval(),
        (
            AppliedRewrite(
                "norm-shift-into-probes",
                ("backbone.norm", "probes.*.0"),
                "the shift of the final norm becomes part of each probe's first product",
            ),
            AppliedRewrite(
                "mean-into-probes",
                ("probes.*.2",),
                "the mean of the probes is in the weights of their second products",
            ),
        ),
    )
