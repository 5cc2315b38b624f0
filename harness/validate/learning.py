"""What a program learns from the validation text, what it charges for it, and in which order: its
syntax tree is walked as it would be executed, with marks instead of values. Nothing is executed.
"""

import ast
import re
from collections.abc import Iterable

from harness.validate import constants
from harness.validate.branches import Branches
from harness.validate.constants import is_off, switched
from harness.validate.marks import (
    NOTHING,
    UNKNOWN,
    At,
    Cost,
    Function,
    Hashed,
    Learned,
    Least,
    Length,
    Looked,
    Names,
    Part,
    Ratio,
    Record,
    Single,
    Site,
    Spread,
    Switch,
    Text,
    Turn,
    Value,
    apart,
    finest,
    joined,
    narrowed,
    of,
    statistic,
)
from harness.validate.operations import OPERATORS, marked
from harness.validate.source import FUNCTIONS, Source, dotted, last_name, within

MOST_VISITS = 400_000  # statements and expressions walked
DEEPEST = 25  # calls
TEXT = re.compile(r"^_?val(id(ation)?)?_(tok|ids|text|data|seq|stream|np|arr|input)", re.IGNORECASE)
SHARDS = re.compile(r"(^|[^a-z])val(id(ation)?)?[_*.-].*(\*|\.bin)|^(val|valid|validation)$")
CALLED = re.compile(r"(^|_)(run_?id|id|name|path|dir|file|seed|tag|host|port|rank|addr)(_|$)")
RANK = re.compile(r"(^|_)rank$")  # which process it is: no switch
COSTS = "cross_entropy cross_entropy_loss nll_loss log log2 log_softmax logsumexp".split()
AVERAGES = ("cross_entropy", "cross_entropy_loss", "nll_loss")  # unless told otherwise
STEPS = ("range", "arange")  # positions, which are no lengths
MIXES = ("log1p", "logaddexp", "logaddexp2")  # logarithms of sums
LOGARITHMS = (*COSTS, *MIXES)
ARRAYS = (
    "torch np numpy math cmath jnp jax.numpy mx cupy cp tf tf.math F torch.nn.functional".split()
)
BITS = re.compile(r"log\(2|log_?2|ln_?2|0\.693|1\.442", re.IGNORECASE)  # makes bits of nats
COUNTS = "bincount Counter scatter_add index_add histc".split()
INDEXED = {"scatter_add_": 1, "index_add_": 1, "index_put_": 0}
GROWS = "append extend add insert appendleft put setdefault".split()
SHOWS = "print log0 info".split()
LEAST = ("minimum", "fmin", "min")
TOTALS = ("sum", "mean", "nansum", "nanmean")
ROWS = ("unsqueeze", "sum")  # make a total for each row, one for all tokens
NORMALIZES = ("softmax", "log_softmax", "cross_entropy", "cross_entropy_loss")
LIBRARIES = ("CDLL", "LoadLibrary", "PyDLL", "dlopen")  # compiled ones, that this program brings
SYSTEM = re.compile(r"lib[^/]*$")  # of the machine
NEW = "zeros ones empty rand randn zeros_like ones_like empty_like rand_like randn_like".split()
FRESH = ("reset", "clear", "zero_", "reset_parameters")
PARAMETERS = ("parameters", "named_parameters")
NUMBERS = "numel len size dim shape ndim device dtype element_size nbytes".split()
WRITES = ("save", "write", "write_bytes", "dump", "save_file", "savez", "tofile")
READS = ("load", "read", "read_bytes", "load_file")
SETTINGS = re.compile(r"conf|settings|hyper|^h?args$|options", re.IGNORECASE)
# of a library or another language, that no syntax tree shows
LEARNS = re.compile(r"n_?gram|adapt|learn|observe|(^|_)ttt|hint|(^|_)(fit|absorb)(_|$)")


class Walk:
    """A walk through sources, as they are executed."""

    def __init__(self, sources: list[Source], settings: dict[str, object]):
        """sources: the script first, then what it imports. settings: what logs say of the
        environment's variables, in lower case; None: unclear.
        """
        self.settings, self.visits, self.depth = settings, 0, 0
        self.costs: list[Cost] = []
        self.branches = Branches()
        self.learned: dict[Site, frozenset] = {}
        self.numbers: dict[ast.AST, int] = {}  # of what makes objects, and of loops
        self.trainable: set[Site] = set()
        self.classes: dict[str, ast.ClassDef] = {}
        self.made: dict[Site, str] = {}  # the class of a site
        self.born: dict[Site, frozenset] = {}  # the turns of loops that made it
        self.sums: dict[Site, frozenset] = {}  # the costs that were added in place to new tensors
        self.fields: dict[tuple, Value] = {}
        self.held: set[Site] = set()  # those that have had fields
        self.common: dict[str, Value] = {}  # attributes of classes, arguments of the command line
        self.disk: frozenset = frozenset()
        self.outside: dict[Site, tuple[str, str]] = {}  # the first call of a compiled library
        self.gradient: frozenset | None = None  # marks of the loss of the last backward
        self.switches: list[frozenset] = []
        self.running: list[ast.AST] = []
        self.whiles: list[Turn] = []
        self.active: list[tuple[Turn, frozenset]] = []  # and the names that count the turns
        self.label = ""
        self.modules = Names()
        trees = [(source.label, source.tree) for source in sources if source.tree]
        self.home: dict[ast.AST, str] = {}  # the source of a method
        for label, tree in trees:
            made = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
            self.classes |= {node.name: node for node in made}
            self.home |= {part: label for node in made for part in node.body}
        for label, tree in trees:
            for node in tree.body:
                if isinstance(node, FUNCTIONS):
                    self.modules.known[node.name] = Value(function=(node, self.modules, label))
        files = list(dict.fromkeys(source.file for source in sources))
        later = {source.label: -files.index(source.file) for source in sources}
        for self.label, tree in sorted(trees, key=lambda row: later[row[0]]):  # imported ones first
            self.block(tree.body, self.modules)

    # Statements

    def block(self, body: list[ast.stmt], names: Names, results: list | None = None) -> bool:
        """Walk statements; return whether they end the function or the turn of a loop."""
        return any(self.statement(node, names, results) for node in body)

    def statement(self, node: ast.stmt, names: Names, results: list | None) -> bool:
        """Walk one statement; return whether nothing after it is executed."""
        self.visits += 1
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                names.known[node.name] = Value(function=(node, names, self.label))
            case ast.ClassDef():
                names.known[node.name] = Value(function=(node, names, self.label))
                inner = Names(names)
                self.block([n for n in node.body if not isinstance(n, FUNCTIONS)], inner)
                self.common |= inner.known
            case ast.Return():
                value = switched(self.value(node.value, names), names.unset)
                for cost in of(Cost, value.marks):
                    cost.shown = True
                if results is not None:
                    results.append(value)
                return True
            case ast.Raise() | ast.Continue() | ast.Break():
                return True
            case ast.Assign():
                value = self.value(node.value, names)
                for target in node.targets:
                    self.bind(target, value, names)
            case ast.AnnAssign(value=ast.AST()):
                self.bind(node.target, self.value(node.value, names), names)
            case ast.AugAssign():
                self.augmented(node, names)
            case ast.If():
                return self.choice(node, names, results)
            case ast.For() | ast.AsyncFor():
                self.loop(node, self.value(node.iter, names), names, results)
            case ast.While():
                self.value(node.test, names)
                self.loop(node, NOTHING, names, results)
            case ast.With() | ast.AsyncWith():
                for item in node.items:
                    value = self.value(item.context_expr, names)
                    if item.optional_vars is not None:
                        self.bind(item.optional_vars, value, names)
                return self.block(node.body, names, results)
            case ast.Try() | ast.TryStar():
                ended = self.block(node.body + node.orelse, names, results)
                return self.block(node.finalbody, names, results) or ended
            case ast.Global() | ast.Nonlocal():
                names.shared |= set(node.names)
            case ast.ImportFrom(module=module) if module in ARRAYS:
                for part in node.names:
                    if part.name in LOGARITHMS:
                        bound = Value(const=Function(part.name))
                        names.known[part.asname or part.name] = bound
            case ast.Expr():
                self.value(node.value, names)
        return False

    def choice(self, node: ast.If, names: Names, results: list | None) -> bool:
        """Walk the branch that is taken, or both."""
        test = self.value(node.test, names)
        if test.const is not UNKNOWN:
            taken, other = (node.body, node.orelse)[:: 1 if test.const else -1]
            self.decided(node, test)
            names.unset |= of(Switch, test.marks)
            self.imagine(other, of(Switch, test.marks), names)
            return self.block(taken, names, results)
        self.decided(node, test)
        self.switches.append(of(Switch, test.marks))
        before, gradient = dict(names.known), self.gradient
        ended = self.block(node.body, names, results)
        after = {} if ended else names.known
        names.known, self.gradient = dict(before), self.gradient or gradient
        other = self.block(node.orelse, names, results)
        if other:
            names.known = dict(after) if not ended else names.known
        else:
            for name, value in after.items():
                now = names.known.get(name)
                if now is None or now is not value:
                    kept = [value] if now is None else [value, now]
                    function = value.function or (now and now.function)
                    names.known[name] = joined(kept)._replace(function=function)
        self.switches.pop()
        return ended and other

    def decided(self, node: ast.If | ast.IfExp, test: Value) -> None:
        """Note which sides are taken: one for sure, the other where someone may have set a switch
        that nothing shows; both where nobody knows.
        """
        switches, known = of(Switch, test.marks), test.const is not UNKNOWN
        for side in (True, False):
            if known and side == bool(test.const):
                self.branches.take(node, side, frozenset())
            elif switches or not known:
                self.branches.take(node, side, switches)

    def imagine(self, body: list[ast.stmt], switches: frozenset, names: Names) -> None:
        """Walk what would be executed if somebody had set a variable of the environment: what it
        learns stays, and what it would switch on is marked; all else is as if nobody had.
        """
        if not switches:
            return
        scopes = [names]
        while scopes[-1].outer:
            scopes.append(scopes[-1].outer)
        before = [*(dict(scope.known) for scope in scopes), dict(self.fields), dict(self.common)]
        learned, gradient = dict(self.learned), self.gradient
        self.switches.append(switches)
        self.block(body, names)
        self.switches.pop()
        after = [*(scope.known for scope in scopes), self.fields, self.common]
        for was, now in zip(before, after, strict=True):
            for name, value in was.items():
                if now.get(name) != value:
                    was[name] = switched(value, switches)
        *known, self.fields, self.common = before
        for scope, was in zip(scopes, known, strict=True):
            scope.known = was
        self.gradient = gradient
        for site, events in learned.items():
            self.learned[site] = self.learned.get(site, frozenset()) | events

    def loop(self, node: ast.AST, over: Value, names: Names, results: list | None) -> None:
        """Walk a loop once, and once more where something was learned in it."""
        counted = frozenset(
            part.target.id
            for part in within(node)
            if isinstance(part, ast.AugAssign) and isinstance(part.target, ast.Name)
        )
        for turn in (1, 2):
            before = sum(map(len, self.learned.values()))
            mark = Turn(self.number(node), turn)
            self.active.append((mark, counted))
            if isinstance(node, ast.While):
                self.whiles.append(mark)
                self.block(node.body, names, results)
                self.whiles.pop()
            else:
                self.bind(node.target, self.turned(over, mark), names)
                self.block(node.body, names, results)
            self.active.pop()
            if sum(map(len, self.learned.values())) == before:
                break
        self.block(node.orelse, names, results)

    def turned(self, over: Value, mark: Turn) -> Value:
        """Return what a loop gives in one turn."""
        items = over.items or ()
        wide = {len(item.items or ()) for item in items}
        parts = None
        if len(wide) == 1 and wide != {0}:
            columns = zip(*(item.items for item in items), strict=True)
            parts = tuple(self.turned(joined(column), mark) for column in columns)
        return Value(narrowed(over.marks, [mark]) - {Record()} | {mark}, items=parts)

    def bind(self, target: ast.AST, value: Value, names: Names) -> None:
        """Assign a value."""
        match target:
            case ast.Name(id=name):
                marks = value.marks | set(self.whiles[-1:])
                if TEXT.search(name) and not of(Text, marks) and value.const is UNKNOWN:
                    marks |= {Text()}
                home = (names.home(name) if name in names.shared else None) or names
                home.known[name] = value._replace(marks=marks)
            case ast.Tuple() | ast.List():
                items = value.items
                exact = items and len(items) == len(target.elts)
                for i, part in enumerate(target.elts):
                    self.bind(part, items[i] if exact else Value(value.marks), names)
            case ast.Starred():
                self.bind(target.value, Value(value.marks), names)
            case ast.Attribute():
                value = value._replace(marks=statistic(value.marks))
                for site in of(Site, self.value(target.value, names).marks):
                    key = (site, target.attr)
                    old = self.fields.get(key)
                    self.hold(*key, value if old is None else joined([old, value]))
            case ast.Subscript():
                self.value(target.slice, names)
                index = ast.unparse(target.slice)
                self.grow(target.value, value.marks | {At(index)}, names)

    def grow(self, target: ast.AST, marks: Iterable, names: Names) -> None:
        """Add marks to what an expression stands for."""
        while isinstance(target, ast.Subscript):
            target = target.value
        if isinstance(target, ast.Name) and (home := names.home(target.id)):
            old = home.known[target.id]
            home.known[target.id] = Value(old.marks | marks, function=old.function)
        elif isinstance(target, ast.Attribute):
            for site in of(Site, self.value(target.value, names).marks):
                old = self.fields.get((site, target.attr), NOTHING)
                self.hold(site, target.attr, Value(old.marks | marks))

    def augmented(self, node: ast.AugAssign, names: Names) -> None:
        """Walk +=, which counts where the index is text, or what is added is a count."""
        value, target = self.value(node.value, names), node.target
        for cost in self.summed(value.marks):
            cost.added = True
        if isinstance(target, ast.Subscript):
            index, table = self.value(target.slice, names), self.value(target.value, names)
            if of(Text, index.marks) and isinstance(node.op, ast.Add):
                self.learn(node, table, index.marks, "counts")
        else:
            table = self.value(target, names)
        for site in self.sums.keys() & of(Site, table.marks):
            self.sums[site] |= self.summed(value.marks)
        counted = of(Learned, value.marks) - of(Learned, table.marks)
        if counted and not of(Cost, value.marks):  # a table plus counts, and no sum of costs
            self.note(of(Site, table.marks), counted)
            value = Value(counted)
        value = Value(statistic(value.marks))
        if isinstance(target, ast.Name):
            self.bind(target, joined([table, value]), names)
        else:
            self.grow(target, value.marks - of(Site, value.marks), names)

    # Expressions

    def value(self, node: ast.AST | None, names: Names) -> Value:
        """Return what is known of an expression."""
        self.visits += 1
        if self.visits > MOST_VISITS:
            raise RecursionError(f"more than {MOST_VISITS:,} steps")
        match node:
            case None:
                return Value(const=None)
            case ast.Constant(value=value):
                shards = isinstance(value, str) and SHARDS.search(value)
                return Value(frozenset([Text()] if shards else []), value)
            case ast.Name():
                return self.named(node.id, names)
            case ast.Attribute():
                return self.attribute(self.value(node.value, names), node)
            case ast.Subscript():
                return self.item(node, names)
            case ast.Call():
                return self.call(node, names)
            case ast.Lambda():
                return Value(function=(node, names, self.label))
            case ast.Tuple() | ast.List():
                items = tuple(self.value(part, names) for part in node.elts)
                consts = [item.const for item in items]
                const = UNKNOWN if UNKNOWN in consts else tuple(consts)
                return joined(items)._replace(items=items, const=const)
            case ast.ListComp() | ast.SetComp() | ast.GeneratorExp() | ast.DictComp():
                return self.comprehension(node, names)
            case ast.IfExp():
                test = self.value(node.test, names)
                self.decided(node, test)
                if test.const is not UNKNOWN:
                    taken, other = (node.body, node.orelse)[:: 1 if test.const else -1]
                    self.imagine([ast.Expr(other)], of(Switch, test.marks), names)
                    return switched(self.value(taken, names), of(Switch, test.marks))
                either = [self.value(node.body, names), self.value(node.orelse, names)]
                return joined(either)._replace(function=either[0].function or either[1].function)
            case ast.NamedExpr():
                value = self.value(node.value, names)
                self.bind(node.target, value, names)
                return value
        return self.combined(node, names)

    def combined(self, node: ast.AST, names: Names) -> Value:
        """Return an operation's value: a constant where all parts are."""
        parts = [p for p in ast.iter_child_nodes(node) if isinstance(p, ast.expr | ast.Slice)]
        values = [self.value(part, names) for part in parts]
        marks = joined(values).marks
        for cost in of(Cost, marks):
            cost.compared |= isinstance(node, ast.Compare)
            cost.shown |= isinstance(node, ast.JoinedStr)
            cost.added |= isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add)
        costs = self.summed(marks) if isinstance(node, ast.BinOp) else ()
        if costs and any(BITS.search(ast.unparse(part)) for part in parts):
            for cost in costs:
                cost.in_bits = True
        found = self.asked(node, values) or constants.operation(node, values)
        marks = found.marks
        if isinstance(node, ast.Dict) and node.keys and all(map(is_name, node.keys)):
            marks |= {Record()}
        elif isinstance(node, ast.Compare):
            marks -= of(Looked, marks)  # true or false, no counts
        if isinstance(node, ast.BinOp):
            marks |= marked(type(node.op), *values, self.where(node), self.unshown)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
            for one, other in (values, values[::-1]):
                if of(Cost, one.marks) and of(Site, other.marks) and not of(Cost, other.marks):
                    at = {Part(mark.index) for mark in of(At, other.marks)}
                    marks |= at or {Part("")}
        return Value(marks, found.const)

    def asked(self, node: ast.AST, values: list[Value]) -> Value | None:
        """Return whether a variable of the environment is set, where that is what is asked."""
        match node:
            case ast.Compare(ops=[ast.In() | ast.NotIn() as op], comparators=[where]) if isinstance(
                values[0].const, str
            ) and dotted(where).endswith("environ"):
                found = self.setting(values[:1])
                marks, const = joined([*values, found]).marks, UNKNOWN
                if found.const is not UNKNOWN:
                    is_set = found.const is not None and not is_off(found)
                    const = is_set == isinstance(op, ast.In)
                return Value(marks, const)
        return None

    def named(self, name: str, names: Names) -> Value:
        home = names.home(name)
        if home:
            value = home.known[name]
            turns = [mark for mark, counters in self.active if name in counters]
            if turns and name in names.known:
                stale = {loop for loop, _ in turns}
                kept = {m for m in value.marks if not (isinstance(m, Turn) and m.loop in stale)}
                return value._replace(marks=frozenset(kept.union(turns)), const=UNKNOWN)
            return value
        return Value(frozenset([Text()])) if TEXT.search(name) else NOTHING

    def attribute(self, whole: Value, node: ast.Attribute) -> Value:
        """Return an attribute: of what its object was given, else of its class."""
        name, sites = node.attr, of(Site, whole.marks)
        if name in NUMBERS:
            return NOTHING
        if name in LOGARITHMS and dotted(node.value) in ARRAYS:
            return Value(const=Function(name))
        held = [self.fields[site, name] for site in sites if (site, name) in self.fields]
        if not held and name in self.common:
            held = [self.common[name]]
        if held:
            return held[0] if len(held) == 1 else joined(held)
        plain = {site for site in sites if self.is_settings(site)}
        text = [Text()] if TEXT.search(name) else []
        return Value((whole.marks - plain).union(text))

    def is_settings(self, site: Site) -> bool:
        """Return whether an object is of a class without methods, or named after settings."""
        made = self.classes.get(self.made.get(site, ""))
        if made is None or SETTINGS.search(made.name):
            return made is not None
        return not made.bases and not any(
            isinstance(part, FUNCTIONS) and not part.name.startswith("__") for part in made.body
        )

    def item(self, node: ast.Subscript, names: Names) -> Value:
        """Return a part of a value: of a text, in the turns that the index depends on."""
        whole, index = self.value(node.value, names), self.value(node.slice, names)
        if whole.items and isinstance(index.const, int) and not isinstance(index.const, bool):
            if -len(whole.items) <= index.const < len(whole.items):
                return whole.items[index.const]
        told, marks = ast.unparse(node.slice), whole.marks - {Record()}
        for cost in of(Cost, marks):
            cost.at.add(told)
        if of(Site, marks):
            marks |= self.looked(node.slice, index)
        if "None" in told:  # a new axis
            marks -= of(Looked, marks)
        begun = any(turn.loop in self.loops for text in of(Text, marks) for turn in text.turns)
        if of(Cost, marks) or (begun and self.is_range(node.slice)):
            marks |= {Part(told)}
        axes = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        fixed = all(map(self.is_shift, axes)) and any(isinstance(a, ast.Slice) for a in axes)
        whole_one = not any(isinstance(part, ast.Slice | ast.Name) for part in ast.walk(node.slice))
        marks = narrowed(marks, index.marks, "" if fixed or whole_one else told)
        through = of(Turn, index.marks) | of(Text, index.marks)
        return Value(marks | through | of(Learned, self.seen(index.marks)))

    @staticmethod
    def looked(index: ast.AST, value: Value) -> set[Looked]:
        """Return the marks of what is read from a table at an index that keys share."""
        parts, values = [index], (value,)
        if isinstance(index, ast.Tuple) and value.items is not None:
            parts, values = index.elts, value.items
        return {
            Looked(ast.unparse(part), of(Text, key.marks) | of(Turn, key.marks))
            for part, key in zip(parts, values, strict=True)
            if of(Hashed, key.marks)
        }

    def is_range(self, index: ast.AST) -> bool:
        """Return whether an index takes all positions from or up to a place that is no constant."""
        slices = [part for part in ast.walk(index) if isinstance(part, ast.Slice)]
        return any(None in (s.lower, s.upper) and not self.is_shift(s) for s in slices)

    @staticmethod
    def is_shift(index: ast.AST) -> bool:
        """Return whether an index of an axis leaves out a constant number of items at an end, or is
        that of a new axis.
        """
        if not isinstance(index, ast.Slice):
            return isinstance(index, ast.Constant) and index.value in (None, ...)
        ends = [index.lower, index.upper]
        return all(part is None or isinstance(part, ast.Constant | ast.UnaryOp) for part in ends)

    def comprehension(self, node: ast.AST, names: Names) -> Value:
        inner = Names(names)
        for part in node.generators:
            over = self.value(part.iter, inner)
            self.bind(part.target, self.turned(over, Turn(self.number(node), 1)), inner)
            for test in part.ifs:
                self.value(test, inner)
        parts = [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]
        return joined([self.value(part, inner) for part in parts])

    # Calls

    def call(self, node: ast.Call, names: Names) -> Value:
        """Return a call's value, its effects walked."""
        name = last_name(node.func)
        method = isinstance(node.func, ast.Attribute)
        whole = self.value(node.func.value, names) if method else NOTHING
        function = self.attribute(whole, node.func) if method else self.value(node.func, names)
        if isinstance(function.const, Function):
            name = function.const.name
        given, keys = [], {}
        for part in node.args:
            value = self.value(part, names)
            if isinstance(part, ast.Starred):
                value = self.value(part.value, names)
                given += value.items if value.items is not None else [Value(value.marks)]
            else:
                given.append(value)
        for key in node.keywords:
            keys[key.arg or ""] = self.value(key.value, names)
        every = [whole, *given, *keys.values()]
        if function.function and isinstance(function.function[0], ast.ClassDef):
            return self.constructed(node, function.function[0].name, given, keys)
        if function.function and name not in FRESH:
            return self.entered(function.function, None, given, keys)
        if whole.function and isinstance(whole.function[0], ast.ClassDef):
            if found := self.method_of(whole.function[0].name, name):
                return self.entered((found, self.modules, self.home[found]), whole, given, keys)
        if name == "field":
            return self.default(node, keys)
        if method and (found := self.methods(whole, name)):
            entries = [
                self.entered((part, self.modules, self.home[part]), own, given, keys)
                for part, own in found
            ]
            return entries[0] if len(entries) == 1 else joined(entries)
        self.effects(node, name, whole, function, given, keys, names)
        value = self.result(node, name, function, every, given, keys)
        if method and name in LEAST and sum(bool(of(Cost, one.marks)) for one in every) > 1:
            value = value._replace(marks=value.marks | {Least(self.where(node), self.unshown)})
        if name in TOTALS and of(Cost, value.marks):
            value = value._replace(marks=value.marks - {Single()})
            for cost in of(Cost, value.marks):
                cost.improper |= of(Least, value.marks)
        if name in ROWS:
            return value._replace(marks=value.marks - of(Looked, value.marks))
        if name in OPERATORS and given:
            sides = [whole, *given][-2:]
            marks = marked(OPERATORS[name], *sides, self.where(node), self.unshown)
            return value._replace(marks=value.marks | marks)
        return value

    def methods(self, whole: Value, name: str) -> list[tuple[ast.AST, Value]]:
        """Return each method of a name that an object may have, and what it is where it has it."""
        own: dict[ast.AST, list[Site]] = {}
        sites = sorted(of(Site, whole.marks), key=lambda site: site.number)
        for site in sites:
            if found := self.method_of(self.made.get(site, ""), name):
                own.setdefault(found, []).append(site)
        others = whole.marks.difference(*own.values())
        return [(found, whole._replace(marks=others.union(some))) for found, some in own.items()]

    def method_of(self, name: str, method: str) -> ast.AST | None:
        """Return a method of a class: of a network only one that learns."""
        made = self.classes.get(name)
        for part in made.body if made else ():
            if isinstance(part, FUNCTIONS) and part.name == method:
                calls = (last_name(n.func) for n in ast.walk(part) if isinstance(n, ast.Call))
                learns = any(call in ("backward", *COUNTS, *INDEXED) for call in calls)
                followed = method not in ("step", "__init__")
                return part if followed and (learns or not self.is_module(name)) else None
        bases = [last_name(base) for base in made.bases] if made else []
        return next((m for base in bases if (m := self.method_of(base, method))), None)

    def is_module(self, name: str) -> bool:
        """Return whether a class is a network's."""
        made = self.classes.get(name)
        return any("Module" in ast.unparse(base) for base in made.bases) if made else False

    def default(self, node: ast.Call, keys: dict) -> Value:
        """Return the default of a field of a dataclass."""
        function = keys.get("default_factory", NOTHING).function
        if function and isinstance(function[0], ast.ClassDef):
            return self.constructed(node, function[0].name, [], {})
        return keys.get("default", NOTHING)

    def constructed(self, node: ast.Call, name: str, given: list, keys: dict) -> Value:
        """Return a new object of a class of the program."""
        site, made = self.fresh(node, name), self.classes[name]
        if not self.is_module(name):
            self.initialized(site, made, given, keys)
        kept = joined([*given, *keys.values()]).marks
        optimizer = any("Optim" in ast.unparse(base) for base in made.bases)
        return Value({site} | (kept if optimizer else of(Learned, self.seen(kept))))

    def initialized(self, site: Site, made: ast.ClassDef, given: list, keys: dict) -> None:
        """Walk __init__; a class without one is a named tuple or a dataclass: set its fields."""
        functions = {part.name: part for part in made.body if isinstance(part, FUNCTIONS)}
        if begin := functions.get("__init__"):
            whole = Value(frozenset([site]))
            self.entered((begin, self.modules, self.home[begin]), whole, given, keys)
            return
        targets = [part.target for part in made.body if isinstance(part, ast.AnnAssign)]
        order = [target.id for target in targets if isinstance(target, ast.Name)]
        for name, value in (dict(zip(order, given, strict=False)) | keys).items():
            self.hold(site, name, value)

    def number(self, node: ast.AST) -> int:
        """Return the number of a node: the same ones in every process."""
        return self.numbers.setdefault(node, len(self.numbers))

    def fresh(self, node: ast.AST, made: str = "") -> Site:
        """Return the site of a new object, which has learned nothing."""
        site = Site(self.number(node))
        self.made[site] = made
        self.born[site] = frozenset(mark for mark, _ in self.active)
        self.learned.pop(site, None)
        self.sums.pop(site, None)
        if site in self.held:
            self.fields = {key: value for key, value in self.fields.items() if key[0] != site}
        return site

    def hold(self, site: Site, name: str, value: Value) -> None:
        """Set a field of an object."""
        self.fields[site, name] = value
        self.held.add(site)

    def entered(self, function: tuple, whole: Value | None, given: list, keys: dict) -> Value:
        """Walk a function of the program with arguments; return what it returns."""
        node, around, label = function
        every = joined([*given, *keys.values(), whole or NOTHING])
        if node in self.running or self.depth >= DEEPEST:
            return every
        names, spec = Names(around), node.args
        parameters = [part.arg for part in [*spec.posonlyargs, *spec.args]]
        if whole is not None and parameters:
            given = [whole, *given]
        defaults = dict(zip(parameters[::-1], spec.defaults[::-1], strict=False))
        pairs = zip(spec.kwonlyargs, spec.kw_defaults, strict=True)
        defaults |= {part.arg: value for part, value in pairs if value is not None}
        bound = {name: self.value(value, around) for name, value in defaults.items()}
        bound |= dict(zip(parameters, given, strict=False)) | keys
        for part in [*spec.posonlyargs, *spec.args, *spec.kwonlyargs]:
            self.bind(ast.Name(part.arg), bound.get(part.arg, keys.get("", NOTHING)), names)
        if spec.vararg:
            rest = tuple(given[len(parameters) :])
            names.known[spec.vararg.arg] = joined(rest)._replace(items=rest)
        if spec.kwarg:
            rest = joined(keys.values()).marks
            names.known[spec.kwarg.arg] = Value(rest | {Record()})
        outer, self.label, whiles = self.label, label, self.whiles
        self.running.append(node)
        self.depth += 1
        results: list[Value] = []
        if isinstance(node, ast.Lambda):
            results.append(self.value(node.body, names))
        else:
            self.block(node.body, names, results)
        self.depth -= 1
        self.running.pop()
        self.label, self.whiles = outer, whiles
        return self.either(results)

    def either(self, results: list[Value]) -> Value:
        """Return what a function returns: by items where all results have as many."""
        some = [value for value in results if value.const is not None]
        if len(some) == 1 or (some and all(value == some[0] for value in some)):
            return some[0] if len(some) == len(results) else some[0]._replace(const=UNKNOWN)
        widths = {len(value.items) if value.items is not None else -1 for value in some}
        items = None
        if len(widths) == 1 and widths != {-1}:
            columns = zip(*(value.items for value in some), strict=True)
            items = tuple(joined(column) for column in columns)
        return joined(some)._replace(items=items)

    def effects(
        self,
        node: ast.Call,
        name: str,
        whole: Value,
        function: Value,
        given: list,
        keys: dict,
        names,
    ) -> None:
        """Walk what a call that leads out of the program changes."""
        every = joined([whole, *given, *keys.values()])
        target = node.func.value if isinstance(node.func, ast.Attribute) else None
        if name == "backward":
            loss = whole if whole.marks else every
            self.backward(loss)
        elif name == "grad" and len(given) > 1:
            self.backward(given[0])
            self.step(node, self.sites(given[1], any_site=True))
        elif name == "step":
            for value in given:
                if value.function:
                    self.entered(value.function, None, [], {})
            self.step(node, self.sites(every))
        elif name in PARAMETERS or name == "requires_grad_":
            self.trainable |= of(Site, whole.marks)
        elif name in FRESH and not function.function:
            for site in of(Site, whole.marks):
                self.learned.pop(site, None)
        elif name == "load_state_dict":
            marks = of(Learned, joined([*given, *keys.values()]).marks)
            for site in of(Site, whole.marks):
                self.learned[site] = marks
        elif name == "at" and dotted(node.func).endswith("add.at") and len(given) > 1:
            self.grow(node.args[0], of(Learned, every.marks), names)
            if of(Text, given[1].marks):
                self.learn(node, given[0], given[1].marks, "counts")
        elif name in INDEXED and len(given) > (at := INDEXED[name]) and of(Text, given[at].marks):
            self.learn(node, whole, given[at].marks, "counts")
        elif name == "update" and target is not None and of(Text, joined(given).marks):
            marks = joined(given).marks
            if not of(Record, whole.marks | given[0].marks):
                self.learn(node, whole, narrowed(marks, marks), "counts")
        elif name in WRITES:
            self.disk |= of(Learned, self.seen(every.marks))
        elif name == "add_argument":
            self.argument(node, given, keys)
        for cost in of(Cost, joined(given).marks):
            cost.added |= name in (*GROWS, "sum")
            cost.shown |= name in SHOWS
        if target is not None and (
            name in GROWS or (name.endswith("_") and name not in (*FRESH, *INDEXED))
        ):
            self.grow(target, joined(given).marks, names)

    def argument(self, node: ast.Call, given: list, keys: dict) -> None:
        """Note the default of an argument of the command line."""
        for value in given:
            if isinstance(value.const, str) and value.const.startswith("-"):
                name = value.const.lstrip("-").replace("-", "_")
                switch = "store_true" in [key.const for key in keys.values()]
                default = keys.get("default", Value(const=False) if switch else NOTHING)
                const = self.settings.get(name.lower(), default.const)
                marks = frozenset() if const is not None else frozenset([Switch(name)])
                const = UNKNOWN if const is None and name.lower() in self.settings else const
                self.common[name] = default._replace(const=const, marks=default.marks | marks)

    def result(
        self, node: ast.Call, name: str, function: Value, every: list, given: list, keys: dict
    ) -> Value:
        """Return the value of a call that leads out of the program."""
        known = self.simple(node, name, given)
        if known is not None:
            return known
        consts = [value.const for value in given]
        if not consts and every[0].const is not UNKNOWN:
            consts = [every[0].const]
        const = constants.call(name, consts)
        marks = joined([*every, function]).marks - {Record()}
        turns = [mark for value in given for mark in value.marks if isinstance(mark, Turn)]
        marks = self.seen(narrowed(marks, turns))
        if name in ("zip", "enumerate") and given:
            return self.zipped(name, given, marks)
        if name in COUNTS and of(Text, marks):
            marks |= {self.event(node, marks, "counts")}
        if name == "deepcopy":
            site = self.fresh(node, next(iter(self.made.get(s, "") for s in of(Site, marks)), ""))
            self.learned[site] = of(Learned, marks)
            return Value(marks - of(Site, marks) | {site})
        if name in READS:
            marks |= self.disk
        if name in STEPS:
            marks -= of(Length, marks)
        marks = self.charged(node, name, function, marks, [every[0], *given, *keys.values()])
        plain = name in ("int", "float", "bool", "str", "range", "min", "max", "arange", "item")
        if not plain:
            kept = marks - of(Site, marks) - of(Text, marks) if name in NEW else marks
            marks = kept | {self.allocated(node, name, keys)}
        first = given[0].function if given else None
        return Value(marks, const, first if name in ("compile", "partial", "no_grad") else None)

    def simple(self, node: ast.Call, name: str, given: list) -> Value | None:
        """Return the value of a call that gives a number, a setting or a compiled library."""
        if name == "len" and given:
            return Value(frozenset([Length(bool(of(Text, given[0].marks)))]))
        if name in NUMBERS or name in ("item_size", "parse_args", "perf_counter", "time"):
            return NOTHING
        if name in LIBRARIES and given:
            file = given[0].const
            system = file is None or (isinstance(file, str) and SYSTEM.match(file))
            return NOTHING if system else Value(frozenset([self.fresh(node, name)]))
        if name in ("get", "getenv") and given and isinstance(given[0].const, str):
            if "environ" in dotted(node.func) or name == "getenv":
                return self.setting(given)
        return None

    def charged(
        self, node: ast.Call, name: str, function: Value, marks: frozenset, values: list
    ) -> frozenset:
        """Return the marks of what a call gives, those of costs added. values: its object, then
        what it is given.
        """
        whole, *given = values
        called = [value for value in given if of(Text, value.marks)]
        objects = of(Site, function.marks | whole.marks)
        network = any(self.is_network(site) for site in objects)
        if libraries := {site for site in objects if self.made.get(site) in LIBRARIES}:
            marks -= libraries
            for library in libraries:
                self.outside.setdefault(library, (self.where(node), name))
        known = isinstance(function.const, Function) or name not in ("log", "log2")
        cost = name in COSTS and (known or is_logarithm(node))
        cost = cost or (name in MIXES and of(Spread, marks))
        if name in NORMALIZES:
            marks -= of(Spread, marks)
        if (cost and of(Text, marks)) or (network and len(called) > 1):
            kept = marks - of(Learned, marks) if name in MIXES else marks  # of costs that were made
            marks |= {self.charge(node, kept)}
            if name not in AVERAGES or "none" in ast.unparse(node):
                marks |= {Single()}
        elif called and LEARNS.search(name) and not function.function:
            marks |= {self.event(node, marks, f"{name} is not followed", True)}
        return marks

    def allocated(self, node: ast.Call, name: str, keys: dict) -> Site:
        """Return the site of what a call returns: a sum may begin with zeros, and a parameter is
        trained.
        """
        site, wants = self.fresh(node), keys.get("requires_grad")
        if name in NEW:
            self.sums[site] = frozenset()
        if name == "Parameter" or (wants and wants.const is True):
            self.trainable.add(site)
        return site

    def zipped(self, name: str, given: list[Value], marks: frozenset) -> Value:
        """Return what zip or enumerate gives: one row of columns."""
        columns = [Value(value.marks) for value in given]
        columns = [NOTHING, *columns[:1]] if name == "enumerate" else columns
        if name == "enumerate" and given[0].items:
            rows = given[0].items
            return Value(marks, items=tuple(Value(row.marks, items=(NOTHING, row)) for row in rows))
        return Value(marks, items=(Value(marks, items=tuple(columns)),))

    def setting(self, given: list[Value]) -> Value:
        """Return a variable of the environment: as the logs show it, else its default."""
        name = given[0].const
        default = given[1] if len(given) > 1 else Value(const=None)
        if name.lower() not in self.settings:
            if len(given) == 1 and not CALLED.search(name.lower()):
                return Value(frozenset([Switch(name)]), None)
            if len(given) == 1 or not is_off(default) or RANK.search(name.lower()):
                return default
            return Value(default.marks | {Switch(name)})  # off, unless somebody has set it
        const = self.settings[name.lower()]
        if const is None and CALLED.search(name.lower()):  # seeds have names of their own
            return default
        if const is None:
            return Value(default.marks | {Switch(name)})
        return Value(default.marks, const)

    def is_network(self, site: Site) -> bool:
        """Return whether an object has parameters."""
        return site in self.trainable or self.is_module(self.made.get(site, ""))

    # What is learned and charged

    def seen(self, marks: frozenset) -> frozenset:
        """Return marks with what the objects among them have learned."""
        return marks.union(*(self.learned.get(site, ()) for site in of(Site, marks)))

    def summed(self, marks: frozenset) -> frozenset:
        """Return the costs among marks, and those that were added to the objects among them."""
        return of(Cost, marks).union(*(self.sums.get(site, ()) for site in of(Site, marks)))

    def sites(self, value: Value, any_site: bool = False) -> frozenset:
        """Return the objects that an optimizer changes."""
        sites = of(Site, value.marks)
        return sites if any_site else sites & self.trainable

    def backward(self, loss: Value) -> None:
        """Note the loss whose gradient is taken."""
        self.gradient = loss.marks
        for cost in of(Cost, loss.marks):
            cost.trained = True

    def step(self, node: ast.AST, sites: frozenset) -> None:
        """Note what a step of an optimizer learns."""
        if self.gradient and of(Text, self.gradient) and sites:
            self.note(sites, {self.event(node, self.gradient, "trains")})

    def learn(self, node: ast.AST, table: Value, marks: frozenset, what: str) -> None:
        """Note what a table has counted."""
        event = self.event(node, marks, what)
        for site in of(Site, table.marks):
            anew = all(text.turns & self.born.get(site, frozenset()) for text in event.texts)
            self.note([site], {event._replace(anew=anew)})

    def note(self, sites: frozenset, events: Iterable[Learned]) -> None:
        """Note what objects have learned."""
        trains = any(event.what == "trains" for event in events)
        for site in sites:
            if not self.is_settings(site) and (trains or not self.is_network(site)):
                self.learned[site] = self.learned.get(site, frozenset()) | events

    def where(self, node: ast.AST) -> str:
        return f"{self.label}:{getattr(node, 'lineno', 0)}"

    def current(self, marks: Iterable) -> frozenset:
        """Return texts among marks, without former turns of loops whose present turn they have."""
        now = frozenset(mark for mark, _ in self.active)
        return frozenset(
            Text(
                frozenset(
                    turn
                    for turn in text.turns
                    if turn in now or turn.loop not in {t.loop for t in text.turns & now}
                ),
                text.cuts,
            )
            for text in of(Text, marks)
        )

    def event(self, node: ast.AST, marks: frozenset, what: str, unfollowed=False) -> Learned:
        texts, parts = finest(self.current(marks)), of(Part, marks)
        where, switches = self.where(node), self.unshown
        return Learned(where, what, texts, parts, switches, self.loops, unfollowed)

    @property
    def unshown(self) -> frozenset:
        """The switches that what is walked is under."""
        return frozenset().union(*self.switches)

    @property
    def loops(self) -> frozenset:
        """The loops that run."""
        return frozenset(mark.loop for mark, _ in self.active)

    def charge(self, node: ast.AST, marks: frozenset) -> Cost:
        """Note a cost."""
        active = Text(frozenset(mark for mark, _ in self.active))
        every = self.current(marks)
        texts = frozenset(text for text in every if not apart(text, active))
        texts, learned = finest(texts or every), of(Learned, marks)
        cost = Cost(self.where(node), texts, learned, self.unshown, self.loops)
        cost.improper = of(Ratio | Spread, marks)
        self.costs.append(cost)
        return cost


def is_name(key: ast.expr | None) -> bool:
    """Return whether a key of a dictionary is a name; None stands for another dictionary's keys."""
    return key is None or (isinstance(key, ast.Constant) and isinstance(key.value, str))


def is_logarithm(call: ast.Call) -> bool:
    """Return whether a call of log is that of a tensor's method: wandb.log takes no logarithm, and
    log(...) prints.
    """
    return isinstance(call.func, ast.Attribute) and not call.args
