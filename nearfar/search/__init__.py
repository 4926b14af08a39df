"""Finding the rows that are near."""

from nearfar.search.bm25 import BM25
from nearfar.search.index import Index
from nearfar.search.ranking import top_k
from nearfar.search.traversal import towards_root

__all__ = ["BM25", "Index", "top_k", "towards_root"]
