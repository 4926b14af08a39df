"""Finding the rows that are near."""

from nearfar.search.bm25 import BM25
from nearfar.search.index import Index
from nearfar.search.ranking import top_k
from nearfar.search.traversal import towards_root
from nearfar.search.volumes import rank_by_volume

__all__ = ["BM25", "Index", "rank_by_volume", "top_k", "towards_root"]
