"""Python source as a syntax tree, one thread at a time.

CPython below 3.11.8 and 3.12.1 counts the depth of a tree in one place for all threads (python/cpython#106905): two
that parse at once fail now and then with "AST constructor recursion depth mismatch", and a run works on two stages.
"""

import ast
import threading

_one_at_a_time = threading.Lock()


def tree(source: str) -> ast.Module:
    """The tree of `source`, as `ast.parse` gives it.

    Raises
    ------
    SyntaxError
    """
    with _one_at_a_time:
        return ast.parse(source)
