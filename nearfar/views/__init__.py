"""What makes a positive out of an example."""

from nearfar.views.graph import drop_graph, drop_weights
from nearfar.views.image import image_views, random_shift
from nearfar.views.span_masks import random_crop, span_mask
from nearfar.views.split_text import split_text
from nearfar.views.text import dropout_twins, encode_together, prepare_together
from nearfar.views.token_masks import mask_tokens

__all__ = [
    "drop_graph",
    "drop_weights",
    "dropout_twins",
    "encode_together",
    "image_views",
    "mask_tokens",
    "prepare_together",
    "random_crop",
    "random_shift",
    "span_mask",
    "split_text",
]
