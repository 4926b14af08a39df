"""What another network knows, handed on by how rows relate to others: to class prototypes, or to a queue."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from nearfar.errors import ArgumentError
from nearfar.geometry import finite_rows, unit_rows
from nearfar.objectives.inputs import check_alike, check_one_width, check_same_shape, check_temperature
from nearfar.ops.softmax_divergence import softmax_divergence


def relation_distillation(
    features: Tensor,
    prototypes: Tensor,
    old_features: Tensor,
    old_prototypes: Tensor,
    *,
    axis: Literal["samples", "classes"],
    temperature: float = 1.0,
    groups: Sequence[int] | None = None,
) -> Tensor:
    """Keep the relations of samples to class prototypes as an earlier network saw them.

        R = F W^T / t,  R' = F' W'^T / t                 rows of W and W' scaled to unit length, those of F not
        samples:  sum_c KL( softmax_i R'_ic || softmax_i R_ic )
        classes:  sum_g mean_i KL( softmax_c R'_ic || softmax_c R_ic )          c over the classes of group g

    The first asks of every prototype which samples are near it; the second of every sample which class of each
    group it is nearest to, and says nothing of a group of one class. Gradients go to features and prototypes,
    none to what is old. 0 where nothing has changed, and where both have been rotated alike.

    Asadi, Davari, Mudur, Aljundi, Belilovsky. "Prototype-Sample Relation Distillation." ICML 2023.

    Args:
        features: F, of the network in training [B, d].
        prototypes: W, of its earlier classes [C, d].
        old_features: F', of the earlier network for the same samples [B, d].
        old_prototypes: W', of the earlier classes as they were [C, d].
        axis: over what the softmax goes.
        temperature: t.
        groups: numbers of classes that came together, summing to C; None: one group.

    Raises:
        ArgumentError: shapes, types or devices differ, a prototype is zero, the temperature is not above 0, or the
            groups do not sum to C.
    """
    tensors = {"features": features, "prototypes": prototypes}
    old = {"old_features": old_features, "old_prototypes": old_prototypes}
    check_alike({**tensors, **old})
    check_one_width(features, prototypes)
    check_same_shape(features, old_features)
    check_same_shape(prototypes, old_prototypes)
    sizes = [len(prototypes)] if groups is None else list(groups)
    if axis not in ("samples", "classes") or not temperature > 0 or sum(sizes) != len(prototypes):
        raise ArgumentError(
            f"relation_distillation takes axis 'samples' or 'classes', a temperature above 0 and groups that sum to "
            f"{len(prototypes)} classes; got {axis!r}, {temperature} and {sizes}"
        )
    now = _relations(features, prototypes, temperature)
    before = _relations(old_features.detach(), old_prototypes.detach(), temperature)
    if axis == "samples":
        return _divergence(before, now, dim=0)
    parts = zip(before.split(sizes, dim=1), now.split(sizes, dim=1), strict=True)
    return torch.stack([_divergence(b, n, dim=1) for b, n in parts]).sum() / len(features)


def dist_kl(student: Tensor, teacher: Tensor, queue: Tensor, *, tau_s: float, tau_t: float) -> Tensor:
    """See how near a row is to those of a queue as a teacher sees it.

        p_i = softmax_k(cos(teacher_i, queue_k) / tau_t),  q_i = softmax_k(cos(student_i, queue_k) / tau_s)
        loss = mean_i KL(p_i || q_i) = mean_i sum_k p_ik log(p_ik / q_ik)

    Gradients go to the student alone. A long queue is met by a few rows at a time and no matrix of N x M is held;
    there are no second derivatives.

    Limkonchotiwat et al. "An Efficient Self-Supervised Cross-View Training For Sentence Embedding." TACL 2023.

    Args:
        student: rows in training [N, d].
        teacher: the same examples, or other views of them, as the teacher sees them [N, d].
        queue: rows that both are compared with [M, d], of the teacher.
        tau_s: temperature of the student.
        tau_t: temperature of the teacher. Below `tau_s` it asks for more contrast than the student has.

    Raises:
        ArgumentError: shapes differ, a row is zero or not finite, the queue is empty, or a temperature is not above 0.
    """
    check_same_shape(student, teacher)
    check_one_width(student, queue)
    check_temperature(tau_s)
    check_temperature(tau_t)
    if not len(student) or not len(queue):
        raise ArgumentError(
            f"dist_kl needs rows and a queue, got {len(student)} rows and a queue of {len(queue)}"
        )
    rows = unit_rows(student, "student"), unit_rows(teacher.detach(), "teacher")
    return softmax_divergence(*rows, unit_rows(queue.detach(), "queue"), tau_s, tau_t)


def _relations(features: Tensor, prototypes: Tensor, temperature: float) -> Tensor:
    return finite_rows(features, "features") @ unit_rows(prototypes, "prototypes").mT / temperature


def _divergence(before: Tensor, now: Tensor, dim: int) -> Tensor:
    """KL of softmax distributions along `dim`, summed over the other."""
    target, log_now = before.log_softmax(dim), now.log_softmax(dim)
    return (target.exp() * (target - log_now)).sum()
