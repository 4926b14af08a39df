"""Pure functions from embeddings to losses, and the pairings that say who is near."""

from nearfar.objectives.adversarial import discriminator_hinge, generator_hinge
from nearfar.objectives.alignment import alignment
from nearfar.objectives.ascent import ascend
from nearfar.objectives.assignment import assignment_entropy
from nearfar.objectives.binary_nce import binary_nce
from nearfar.objectives.codes import perplexity, unused_codes
from nearfar.objectives.communities import community_means, edge_density, imbalance, node_to_community
from nearfar.objectives.ctc import ctc_loss
from nearfar.objectives.entailment import cone_entailment
from nearfar.objectives.info_nce import info_nce, info_nce_from_scores, nt_xent, sup_con
from nearfar.objectives.margins import band_hinge, pair_margin, triplet_margin
from nearfar.objectives.negatives import number_of_negatives
from nearfar.objectives.pairing import Pairing
from nearfar.objectives.relations import relation_distillation
from nearfar.objectives.set_repulsion import set_repulsion
from nearfar.objectives.temperature import Temperature
from nearfar.objectives.tile import Block, Tile
from nearfar.objectives.tokens import token_contrast
from nearfar.objectives.uniformity import uniform_optimum, uniformity, uniformity_to_queue

__all__ = [
    "Block",
    "Pairing",
    "Temperature",
    "Tile",
    "alignment",
    "ascend",
    "assignment_entropy",
    "band_hinge",
    "binary_nce",
    "community_means",
    "cone_entailment",
    "ctc_loss",
    "discriminator_hinge",
    "edge_density",
    "generator_hinge",
    "imbalance",
    "info_nce",
    "info_nce_from_scores",
    "node_to_community",
    "nt_xent",
    "number_of_negatives",
    "pair_margin",
    "perplexity",
    "relation_distillation",
    "set_repulsion",
    "sup_con",
    "token_contrast",
    "triplet_margin",
    "uniform_optimum",
    "uniformity",
    "uniformity_to_queue",
    "unused_codes",
]
