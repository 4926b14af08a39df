"""Numbers from embeddings: what a space is like, and what it is good for.

Every function takes plain arrays (or tensors) and can be used alone.
"""

from nearfar.measures.alignment import (
    alignment,
    alignment_uniformity,
    mean_positive_cosine,
    pair_cosines,
    positive_margin,
    uniformity,
)
from nearfar.measures.clustering import clustering_metrics, kmeans_measure
from nearfar.measures.embeddings import Measurement, measure_embeddings, primary_measure
from nearfar.measures.hubness import hubness
from nearfar.measures.intervals import bootstrap_interval, mean_interval, paired_interval, wilson_interval
from nearfar.measures.modality import modality_gap
from nearfar.measures.negatives import negative_audit
from nearfar.measures.probes import cross_validated_probe, knn_probe, logistic_probe, ridge_probe
from nearfar.measures.retrieval import ranking_metrics, retrieval_metrics
from nearfar.measures.spread import isotropy, spectrum
from nearfar.measures.sts import sts

__all__ = [
    "Measurement",
    "alignment",
    "alignment_uniformity",
    "bootstrap_interval",
    "clustering_metrics",
    "cross_validated_probe",
    "hubness",
    "isotropy",
    "kmeans_measure",
    "knn_probe",
    "logistic_probe",
    "mean_interval",
    "mean_positive_cosine",
    "measure_embeddings",
    "modality_gap",
    "negative_audit",
    "pair_cosines",
    "paired_interval",
    "positive_margin",
    "primary_measure",
    "ranking_metrics",
    "retrieval_metrics",
    "ridge_probe",
    "spectrum",
    "sts",
    "uniformity",
    "wilson_interval",
]
