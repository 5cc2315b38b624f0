"""Which branches of a program are taken, as far as its constants decide it."""

import ast


def _side(parent: ast.AST, child: ast.AST) -> bool | None:
    """Return the side of an `if` that a child of it is on; None for its test."""
    if child is parent.test:
        return None
    return child in (parent.body if isinstance(parent, ast.If) else [parent.body])


class Branches:
    """The branches that a walk through a program has taken."""

    def __init__(self):
        self.taken: dict[tuple[ast.AST, bool], frozenset] = {}

    def take(self, node: ast.If | ast.IfExp, side: bool, switches: frozenset) -> None:
        """Note that a side is taken; switches: those that decide it and that nothing shows."""
        self.taken[node, side] = self.taken.get((node, side), switches) & switches

    def of(self, tree: ast.AST, wanted: ast.AST) -> frozenset | None:
        """Return the switches that decide whether a part of a tree is executed, and that nothing
        shows; None where it is not.
        """
        parents = {part: node for node in ast.walk(tree) for part in ast.iter_child_nodes(node)}
        switches: frozenset = frozenset()
        node = wanted
        while parent := parents.get(node):
            side = _side(parent, node) if isinstance(parent, ast.If | ast.IfExp) else None
            if side is not None:
                if (parent, side) in self.taken:
                    switches |= self.taken[parent, side]
                elif (parent, not side) in self.taken:
                    return None
            node = parent
        return switches
