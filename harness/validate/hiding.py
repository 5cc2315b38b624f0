"""How a program's evaluation hides tokens: at which rates, which tokens never, and in which order
what it charges depends on what else it charges. Read off the syntax tree.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from harness.validate.source import dotted, last_name, within, words
from harness.validate.spans import DRAWS, Frame, Span, program, union

EVALUATES = re.compile(
    r"eval|valid|(^|_)val(_|$)|score|elbo|bound|bpb|bits|likelihood|nll|perplex|(^|_)test(_|$)",
    re.IGNORECASE,
)
NO_COST = re.compile(r"gener|sampl(?!e_mask)|calib|hessian|decode|train", re.IGNORECASE)
COST = re.compile(
    r"cross_entropy|log_softmax|logsumexp|nll|loss|elbo|bpb|nats|bits|log_p|logp|logprob|lp$"
    r"|^log2?$|^trap",
    re.IGNORECASE,
)
NO_GRADIENT = ("no_grad", "inference_mode")
TRAPEZOIDS = ("trapezoid", "trapz", "simpson", "simps", "cumulative_trapezoid")
PADDING = re.compile(r"pad", re.IGNORECASE)
VOCABULARY = ("VOCAB_SIZE", "vocab_size", "VOCAB", "vocab", "n_vocab", "num_tokens", "V")
LEAST_VOCABULARY = 64
DEEPEST = 4  # calls followed from an evaluation
MOST_VISITS = 400
CAUSAL = re.compile(r"causal", re.IGNORECASE)


class Draw(NamedTuple):
    """A mask: the comparison that draws it, where, at which rates (None: cannot be followed)."""

    node: ast.AST
    frame: Frame
    rates: Span | None


class Special(NamedTuple):
    """Tokens that a mask spares: the condition, its line, the ids (None: cannot be followed)."""

    text: str
    line: int
    ids: Span | None
    vocab: float | None


@dataclass
class Evaluation:
    """A function that scores text and hides tokens to do so."""

    name: str
    line: int
    draws: list[Draw] = field(default_factory=list)
    frames: list[Frame] = field(default_factory=list)

    @property
    def rates(self) -> Span | None:
        """All rates at which it hides tokens, None where one cannot be followed."""
        spans = [draw.rates for draw in self.draws]
        return union(spans) if all(spans) else None

    @property
    def unfollowed(self) -> ast.AST | None:
        """The first draw whose rate cannot be followed."""
        return next((draw.node for draw in self.draws if draw.rates is None), None)

    @property
    def is_trapezoid(self) -> bool:
        """Whether it integrates between its first and its last rate."""
        calls = (
            node
            for frame in self.frames
            for node in within(frame.scope)
            if isinstance(node, ast.Call)
        )
        return any(last_name(call.func) in TRAPEZOIDS for call in calls)

    def weights(self, count: int) -> float | None:
        """Return the sum of as many weights as there are rates, None where there are none."""
        rates = self.rates
        for frame in self.frames:
            for node in within(frame.scope):
                if not isinstance(node, ast.List | ast.Tuple) or len(node.elts) != count:
                    continue
                span = frame.span(node)
                if span and span.points and len(span.points) == count and span != rates:
                    return sum(span.points)
        return None


def without_gradient(scope: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes of a function under torch.no_grad or inference_mode."""
    for node in within(scope):
        if isinstance(node, ast.With) and any(map(_is_no_gradient, node.items)):
            for part in node.body:
                yield part
                yield from within(part)


def _is_no_gradient(item: ast.AST) -> bool:
    return any(name in ast.unparse(item) for name in NO_GRADIENT)


@lru_cache(maxsize=2_048)
def is_evaluation(scope: ast.AST) -> bool:
    """Return whether a function scores text: it computes a cost, and is called so or takes no
    gradient.
    """
    name = getattr(scope, "name", "")
    spoken = words(scope) | {name}
    if NO_COST.search(name) or not any(map(COST.search, spoken)):
        return False
    decorators = getattr(scope, "decorator_list", [])
    silent = any(map(_is_no_gradient, decorators)) or any(True for _ in without_gradient(scope))
    return bool(EVALUATES.search(name)) or silent


def trains(scope: ast.AST) -> bool:
    """Return whether a function computes gradients."""
    calls = (node for node in within(scope) if isinstance(node, ast.Call))
    return any(last_name(call.func) in ("backward", "value_and_grad") for call in calls)


def is_draw(node: ast.AST, frame: Frame, depth: int = 0) -> bool:
    """Return whether an expression is random numbers, as they are drawn."""
    if isinstance(node, ast.Call):
        if last_name(node.func) in DRAWS:
            return True
        inner = node.func.value if isinstance(node.func, ast.Attribute) else None
        return inner is not None and depth < 6 and is_draw(inner, frame, depth + 1)
    if isinstance(node, ast.Subscript):
        return is_draw(node.value, frame, depth + 1)
    if isinstance(node, ast.Name) and depth < 6:
        rows = frame.meanings(node.id) or []
        return bool(rows) and all(
            member is None and is_draw(value, where, depth + 1) for where, value, member in rows
        )
    return False


def draw_of(node: ast.AST, frame: Frame) -> ast.AST | None:
    """Return the rate that a mask is drawn at, None for a node that draws none."""
    if isinstance(node, ast.Call) and node.args:
        name, rate = last_name(node.func), node.args[0]
        if name == "bernoulli_" or (name == "bernoulli" and not is_draw(rate, frame)):
            return rate
        return None
    if not isinstance(node, ast.Compare) or len(node.ops) != 1:
        return None
    left, right = node.left, node.comparators[0]
    below = isinstance(node.ops[0], ast.Lt | ast.LtE)
    if not below and not isinstance(node.ops[0], ast.Gt | ast.GtE):
        return None
    sides = (left, right) if below else (right, left)
    if is_draw(sides[0], frame):
        return sides[1]
    return sides[0] if is_draw(sides[1], frame) else None


def hides(scope: ast.AST) -> bool:
    """Return whether a function puts something else where tokens were."""
    for node in within(scope):
        match node:
            case ast.Call() if last_name(node.func) in (
                "where",
                "masked_fill",
                "masked_fill_",
                "scatter",
                "scatter_",
            ):
                return True
            case ast.Assign(targets=[ast.Subscript()]):
                return True
    return False


def evaluations(tree: ast.Module) -> list[Evaluation]:
    """Return the functions of a program that score text behind masks drawn at a rate."""
    whole, results = program(tree), []
    called = {
        last_name(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)
    }  # a function that nothing calls scores nothing
    for scope in [tree, *whole.functions.values()]:
        name = getattr(scope, "name", "the script")
        if not is_evaluation(scope) or not (scope is tree or name in called):
            continue
        result = Evaluation(name, getattr(scope, "lineno", 1))
        _visit(result, Frame(whole, scope), [0])
        if result.draws:
            results.append(result)
    return results


def _visit(result: Evaluation, frame: Frame, visits: list[int]) -> None:
    """Add the masks that a function draws, and those of the functions that it calls."""
    visits[0] += 1
    if visits[0] > MOST_VISITS or frame.depth > DEEPEST:
        return
    result.frames.append(frame)
    nodes = without_gradient(frame.scope) if trains(frame.scope) else within(frame.scope)
    nodes = list(dict.fromkeys(nodes))
    hidden = hides(frame.scope) or (frame.caller is not None and hides(frame.caller.scope))
    for node in nodes:
        rate = draw_of(node, frame) if hidden else None
        if rate is not None and not any(draw.node is node for draw in result.draws):
            result.draws.append(Draw(node, frame, frame.span(rate)))
        if isinstance(node, ast.Call):
            function = frame.program.functions.get(last_name(node.func))
            inside = function is not None and function is not frame.scope
            if inside and not NO_COST.search(function.name):
                _visit(result, Frame(frame.program, function, node, frame), visits)


def spared(evaluation: Evaluation) -> Iterator[Special]:
    """Yield the conditions on token ids under which a mask never hides."""
    seen = set()
    for frame in evaluation.frames:
        drawn = {draw.node for draw in evaluation.draws if draw.frame.scope is frame.scope}
        if not drawn:
            continue
        masks = _names_of(frame.scope, drawn)
        for condition in _restrictions(frame.scope, drawn, masks):
            for part, where in _followed(condition, frame, 0):
                for ids in _compared(part, where):
                    if (row := special(part, ids, where, _hiding_id(frame))) not in seen:
                        seen.add(row)
                        yield row


def _names_of(scope: ast.AST, nodes: set[ast.AST]) -> set[str]:
    """Return the names that hold one of these nodes, or something made of such a name."""
    names: set[str] = set()
    for _ in range(3):
        for node in within(scope):
            if isinstance(node, ast.Assign):
                parts = set(ast.walk(node.value))
                mine = names & {part.id for part in parts if isinstance(part, ast.Name)}
                simple = not any(isinstance(p, ast.Call) and len(p.args) > 2 for p in parts)
                if parts & nodes or (mine and simple):
                    names |= {t.id for t in node.targets if isinstance(t, ast.Name)}
    return names


def _restrictions(scope: ast.AST, drawn: set, masks: set[str]) -> Iterator[ast.AST]:
    """Yield what is combined with a mask that was drawn: `mask & c`, `mask[c] = False`."""

    def is_mask(node: ast.AST) -> bool:
        parts = set(ast.walk(node))
        named = {part.id for part in parts if isinstance(part, ast.Name)}
        return bool(parts & drawn or named & masks)

    for node in within(scope):
        match node:
            case ast.BinOp(op=ast.BitAnd() | ast.Mult()):
                pair = (node.left, node.right)
                yield from (a for a, b in (pair, pair[::-1]) if is_mask(b) and not is_mask(a))
            case ast.AugAssign(op=ast.BitAnd() | ast.Mult()) if is_mask(node.target):
                yield node.value
            case ast.Assign(targets=[ast.Subscript() as target]) if is_mask(
                target.value
            ) and _is_nothing(node.value):
                yield target.slice
            case ast.Call() if last_name(node.func) in ("logical_and", "bitwise_and", "mul"):
                yield from (part for part in node.args if not is_mask(part))
            case ast.Call(args=[condition, value]) if (
                last_name(node.func).startswith("masked_fill")
                and isinstance(node.func, ast.Attribute)
                and is_mask(node.func.value)
                and _is_nothing(value)
            ):
                yield condition


def _is_nothing(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value in (False, 0)


def _followed(node: ast.AST, frame: Frame, depth: int) -> Iterator[tuple[ast.AST, Frame]]:
    """Yield the parts of an expression, names followed to what they were assigned."""
    for part in ast.walk(node):
        yield part, frame
        if isinstance(part, ast.Name) and depth < 4:
            for where, value, _ in frame.meanings(part.id) or ():
                yield from _followed(value, where, depth + 1)
        if isinstance(part, ast.Call) and depth < 4:
            function = frame.program.functions.get(last_name(part.func))
            if function is not None:
                inner = Frame(frame.program, function, part, frame)
                for line in within(function):
                    if isinstance(line, ast.Return) and line.value is not None:
                        yield from _followed(line.value, inner, depth + 1)


def _compared(node: ast.AST, frame: Frame) -> list[ast.AST]:
    """Return the ids that an expression compares tokens with, by == or isin."""
    match node:
        case ast.Compare(ops=[ast.Eq() | ast.NotEq()]):
            return [
                side
                for side, other in (
                    (node.comparators[0], node.left),
                    (node.left, node.comparators[0]),
                )
                if _is_id(side, frame) and not _is_id(other, frame)
            ]
        case ast.Call() if last_name(node.func) in ("isin", "in1d") and len(node.args) > 1:
            return [node.args[1]]
        case ast.Call() if last_name(node.func) in ("eq", "ne") and node.args:
            return [node.args[-1]]
    return []


def _is_id(node: ast.AST, frame: Frame) -> bool:
    """Return whether an expression is a number, or is called an id."""
    span = frame.span(node)
    numeric = span is not None and span.points is not None
    return numeric or bool(re.search(r"(_id|_ID|ID)$|eos|bos", last_name(node)))


def _hiding_id(frame: Frame) -> float | None:
    """Return the id that a function puts where tokens were, which no token of the text has."""
    for node in within(frame.scope):
        value = None
        match node:
            case ast.Call(args=[_, value, _]) if last_name(node.func) == "where":
                pass
            case ast.Call(args=[_, value]) if last_name(node.func).startswith("masked_fill"):
                pass
            case ast.Assign(targets=[ast.Subscript()], value=value):
                pass
        span = frame.span(value) if value is not None else None
        if span and span.value and span.value >= LEAST_VOCABULARY:
            return span.value
    return None


def special(node: ast.AST, ids: ast.AST, frame: Frame, instead: float | None = None) -> Special:
    """Return what is known of tokens that an expression names by their ids. instead: the size of
    the vocabulary where no name says it.
    """
    spans = [frame.span(ast.Name(name, ast.Load())) for name in VOCABULARY]
    sizes = [span.value for span in spans if span and span.value]
    sizes = [size for size in [*sizes, instead] if size and size >= LEAST_VOCABULARY]
    return Special(
        ast.unparse(node)[:80],
        getattr(node, "lineno", 0),
        frame.span(ids),
        sizes[0] if sizes else None,
    )


def losses(tree: ast.Module) -> Iterator[tuple[Frame, ast.Call]]:
    """Yield the cross entropies that evaluations compute, with the names around them."""
    whole = program(tree)
    for scope in whole.functions.values():
        if is_evaluation(scope) and not trains(scope):
            for node in within(scope):
                if isinstance(node, ast.Call) and re.search(
                    r"cross_?entropy|nll_loss", last_name(node.func), re.IGNORECASE
                ):
                    yield Frame(whole, scope), node


def is_text(special: Special) -> bool | None:
    """Return whether these are tokens that a text holds; None where that cannot be told."""
    if PADDING.search(special.text):
        return False
    if special.ids is not None and special.vocab is not None and special.ids.high > 0:
        return special.ids.low < special.vocab
    return True if re.search(r"eos|bos|sep|doc|boundary", special.text, re.IGNORECASE) else None


class Circle(NamedTuple):
    """A place where tokens that are charged depend on one another."""

    line: int
    how: str


def circles(tree: ast.Module) -> Iterator[Circle]:
    """Yield where an evaluation charges tokens given others that are charged given them."""
    for scope in [tree, *program(tree).functions.values()]:
        if not is_evaluation(scope) and not _is_costly_main(scope):
            continue
        yield from _one_by_one(scope)
        yield from _complements(scope)
        yield from _both_ways(scope)


def _is_costly_main(scope: ast.AST) -> bool:
    """Return whether a function that is called neither scores text."""
    name = getattr(scope, "name", "")
    return not NO_COST.search(name) and any(
        isinstance(node, ast.Call) and CAUSAL.search(ast.unparse(node)) for node in within(scope)
    )


def _one_by_one(scope: ast.AST) -> Iterator[Circle]:
    """Yield loops that hide one position at a time and show all others."""
    for loop in within(scope):
        if not isinstance(loop, ast.For) or not isinstance(loop.target, ast.Name):
            continue
        body = [node for part in loop.body for node in ast.walk(part)]
        copies = {
            target.id
            for node in body
            if isinstance(node, ast.Assign) and _is_copy(node.value)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for node in body:
            match node:
                case ast.Assign(targets=[ast.Subscript(value=ast.Name(id=name)) as target]) if (
                    name in copies
                ):
                    index = target.slice
                    last = index.elts[-1] if isinstance(index, ast.Tuple) and index.elts else index
                    if isinstance(last, ast.Name) and last.id == loop.target.id:
                        how = f"{ast.unparse(node)[:60]}: one token hidden, all others shown"
                        yield Circle(node.lineno, how)


def _is_copy(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and last_name(node.func) in ("clone", "copy", "array")


def _complements(scope: ast.AST) -> Iterator[Circle]:
    """Yield where tokens are hidden under a mask and, in another pass, under its opposite."""
    hidden: dict[str, int] = {}
    for node in within(scope):
        mask, line = None, getattr(node, "lineno", 0)
        match node:
            case ast.Assign(targets=[ast.Subscript(slice=index)], value=value) if _is_mask_id(
                value
            ):
                mask = index
            case ast.Call(args=[first, second, _]) if last_name(
                node.func
            ) == "where" and _is_mask_id(second):
                mask = first
            case ast.Call(args=[first, second]) if last_name(node.func).startswith(
                "masked_fill"
            ) and _is_mask_id(second):
                mask = first
        if mask is not None:
            hidden.setdefault(ast.unparse(mask), line)
    for text, line in hidden.items():
        if f"~{text}" in hidden:
            how = f"tokens are hidden under {text[:40]}, and under ~{text[:40]} given those"
            yield Circle(line, how)


def _is_mask_id(node: ast.AST) -> bool:
    return bool(re.search(r"mask|vocab", last_name(node), re.IGNORECASE))


def _both_ways(scope: ast.AST) -> Iterator[Circle]:
    """Yield sums of a cost left to right over all tokens and a cost given tokens on both sides."""
    kinds: dict[str, set[str]] = {}
    inputs: dict[str, list[ast.Call]] = {"causal": [], "both": []}
    nodes = sorted(within(scope), key=lambda node: getattr(node, "lineno", 0))

    def of(value: ast.AST) -> set[str]:
        marks: set[str] = set()
        for part in ast.walk(value):
            if isinstance(part, ast.Call):
                for key in part.keywords:
                    known = isinstance(key.value, ast.Constant) and key.arg
                    if known and CAUSAL.search(key.arg) and isinstance(key.value.value, bool):
                        kind = "causal" if key.value.value else "both"
                        marks.add(kind)
                        if part not in inputs[kind]:
                            inputs[kind].append(part)
            elif isinstance(part, ast.Name):
                marks |= kinds.get(part.id, set())
        return marks

    for _ in range(4):
        for node in nodes:
            value, targets = getattr(node, "value", None), []
            if isinstance(node, ast.Assign):
                targets = node.targets
            elif isinstance(node, ast.AugAssign | ast.AnnAssign):
                targets = [node.target]
            if value is None or not targets:
                continue
            marks = of(value)
            for target in targets:
                name = last_name(target.value if isinstance(target, ast.Subscript) else target)
                if name and marks:
                    kinds.setdefault(name, set()).update(marks)
    trained = _trained(scope)
    for node in [node for node in nodes if node not in trained]:
        match node:
            case ast.BinOp(op=ast.Add()):
                sides = [of(node.left), of(node.right)]
            case ast.AugAssign(op=ast.Add() | ast.Sub()):
                total = last_name(node.target)
                others = [
                    of(other.value)
                    for other in nodes
                    if isinstance(other, ast.AugAssign)
                    and other is not node
                    and last_name(other.target) == total
                ]
                sides = [of(node.value), set().union(*others)]
            case _:
                continue
        if {frozenset(side) for side in sides} == {frozenset({"causal"}), frozenset({"both"})}:
            if not any(_is_partial(call, scope) for call in inputs["causal"]):
                yield Circle(
                    node.lineno,
                    f"{ast.unparse(node)[:60]}: left to right over all tokens plus both sides",
                )
                return


def _trained(scope: ast.AST) -> set[ast.AST]:
    """Return the nodes of a function that make up losses whose gradient it takes."""
    assigned: dict[str, list[ast.AST]] = {}
    for node in within(scope):
        if isinstance(node, ast.Assign | ast.AugAssign):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                assigned.setdefault(last_name(target), []).append(node)
    waiting = [
        node.func.value
        for node in within(scope)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "backward"
    ]
    found: set[ast.AST] = set()
    while waiting:
        for part in ast.walk(waiting.pop()):
            if part not in found:
                found.add(part)
                if isinstance(part, ast.Name):
                    waiting += assigned.pop(part.id, [])
    return found


def _is_partial(call: ast.Call, scope: ast.AST) -> bool:
    """Return whether the input of a call left to right leaves tokens out: every second one, or some
    that are hidden.
    """
    assigned = [
        (target, node.value)
        for node in within(scope)
        if isinstance(node, ast.Assign)
        for target in node.targets
    ]
    waiting, seen = call.args[:1], set()
    while waiting:
        for part in ast.walk(waiting.pop()):
            if isinstance(part, ast.Slice) and part.step is not None:
                return True
            if isinstance(part, ast.Call) and last_name(part.func) in ("where", "masked_fill"):
                return True
            if not isinstance(part, ast.Name) or part.id in seen:
                continue
            seen.add(part.id)
            for target, value in assigned:
                if isinstance(target, ast.Subscript) and dotted(target.value) == part.id:
                    return True
                if isinstance(target, ast.Name) and target.id == part.id:
                    waiting.append(value)
    return False
