"""The best matches of queries in an index, exactly, in blocks: no [queries, items] matrix is ever held."""

import numpy as np

_BLOCK_SCORES = 1 << 23  # scores held at a time (32 MB)
_BLOCK_ROWS = 1 << 17
_QUERIES = 256  # at a time


def top_k(queries: np.ndarray, items: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k largest dot products of each query; of equal ones the item that comes first.

    Args:
        queries: [Q, E] float32.
        items: [n, E] float32, may be a memory map.
        k: results per query; at most n are found.

    Returns:
        Scores [Q, min(k, n)] float32, descending, and the rows of the items [Q, min(k, n)] int64.
    """
    k = min(k, len(items))
    scores = np.empty((len(queries), k), np.float32)
    rows = np.empty((len(queries), k), np.int64)
    for start in range(0, len(queries), _QUERIES):
        part = slice(start, start + _QUERIES)
        scores[part], rows[part] = _top_k(np.ascontiguousarray(queries[part]), items, k)
    return scores, rows


def _top_k(queries: np.ndarray, items: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    count = len(queries)
    block = max(k, min(_BLOCK_ROWS, _BLOCK_SCORES // max(count, 1)))
    best = np.empty((count, 0), np.float32)
    best_rows = np.empty((count, 0), np.int64)
    for start in range(0, len(items), block):
        scores = queries @ items[start : start + block].T
        # keep what is not below the k-th largest of this block, nor below what is already found
        kth = max(0, scores.shape[1] - k)
        least = np.partition(scores, kth, axis=1)[:, kth]
        if best.shape[1] == k:
            least = np.maximum(least, best[:, -1])
        query, column = np.nonzero(scores >= least[:, None])
        query = np.concatenate([query, np.repeat(np.arange(count), best.shape[1])])
        row = np.concatenate([column + start, best_rows.ravel()])
        score = np.concatenate([scores[query[: len(column)], column], best.ravel()])
        order = np.lexsort((row, -score, query))
        query, row, score = query[order], row[order], score[order]
        first = np.searchsorted(query, np.arange(count))
        have = min(k, start + scores.shape[1])
        taken = first[:, None] + np.arange(have)
        best, best_rows = score[taken], row[taken]
    return best, best_rows
