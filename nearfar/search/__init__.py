"""Finding the rows that are near."""

from nearfar.search.bm25 import BM25
from nearfar.search.index import Index
from nearfar.search.ranking import top_k

__all__ = ["BM25", "Index", "top_k"]
