"""Python whose f-strings only 3.12 reads (PEP 701), for an older interpreter: their own quotes,
backslashes, comments and new lines inside the braces.
"""

import ast
import re

DEEPEST = 8  # f-strings inside one another
MOST = 50_000  # expressions of a text, which are parsed one by one
# What the scan of code stops at; a comment is passed over
CODE = re.compile(
    r"#[^\n]*"
    r"|(?<![A-Za-z0-9_])(?P<prefix>[rRbBuUfF]{0,2})(?P<quote>\"{3}|'{3}|\"|')"
    r"|[\[({})\]!:=]"
)
TAKEN = re.compile(r"[\"'\\#\n]")  # expressions that an older interpreter refuses
CONVERSION = re.compile(r"![ \t]*[rsa](?=\s*[:}])\s*")
EQUALS = re.compile(r"=\s*(?=[!:}])")
CHARACTER = re.compile(r"N\{[^}]*\}")  # \N{DASH}
NAME = "__expression_{}__"
EXPRESSION = re.compile(NAME.format(r"(\d+)"))


class Fields(ast.NodeTransformer):
    """Puts expressions back where their names stand."""

    def __init__(self, expressions: list[ast.expr]):
        self.expressions = expressions

    def visit_Name(self, node: ast.Name) -> ast.expr:
        found = EXPRESSION.fullmatch(node.id)
        known = found and int(found[1]) < len(self.expressions)
        return self.expressions[int(found[1])] if known else node


class Scan:
    """A text whose f-strings get names for expressions; SyntaxError where one does not end."""

    def __init__(self, text: str):
        self.text = text
        self.taken: list[tuple[str, int]] = []  # expressions, and the lines above them
        self.pieces: list[str] = []
        self.done = 0  # characters that are in pieces
        self.lost = 0  # lines of what was taken out of the f-string that is read
        self.above, self.seen = 0, 0  # lines, and the characters that they were counted in
        at = 0
        while found := CODE.search(text, at):
            at = self.after(found)
            self.keep_lines(at)
        self.pieces.append(text[self.done :] + "\n")

    def tree(self, mode: str, deepest: int) -> ast.AST:
        """Return the syntax tree, with the expressions back in it."""
        tree = ast.parse("".join(self.pieces), mode=mode)
        expressions = [
            ast.increment_lineno(parse(f"({code}\n)", "eval", deepest).body, above)
            for code, above in self.taken
        ]
        return Fields(expressions).visit(tree)

    def keep_lines(self, at: int) -> None:
        """Make up for the lines of what was taken out of an f-string, behind it."""
        if self.lost:
            self.pieces += [self.text[self.done : at], " \\\n" * self.lost]
            self.done, self.lost = at, 0

    def after(self, found: re.Match, nested: bool = False) -> int:
        """Return where code goes on after a match; expressions of a nested f-string stay."""
        if not found["quote"]:
            return found.end()
        prefix, quote = found["prefix"].lower(), found["quote"]
        if "f" in prefix:
            return self.after_text(found.end(), quote, "r" in prefix, nested)
        at = found.end()
        while not self.text.startswith(quote, at):
            self.require(at)
            at += 2 if self.text[at] == "\\" else 1
        return at + len(quote)

    def after_text(self, at: int, quote: str, raw: bool, nested: bool) -> int:
        """Return where an f-string ends, after its quote; no quote: a format, at its brace."""
        while True:
            self.require(at)
            here, pair = self.text[at], self.text[at : at + 2]
            if quote and self.text.startswith(quote, at):
                return at + len(quote)
            if here == "}" and not quote:
                return at
            if here == "\\" and not raw and (named := CHARACTER.match(self.text, at + 1)):
                at = named.end()
            elif pair in ("\\{", "\\}"):
                at += 1
            elif here == "\\" or (quote and pair in ("{{", "}}")):
                at += 2
            elif here == "{":
                at = self.after_field(at + 1, raw, nested)
            else:
                at += 1

    def after_field(self, start: int, raw: bool, nested: bool) -> int:
        """Return where a replacement field ends, after its brace."""
        end = self.end_of_expression(start)
        shown = EQUALS.match(self.text, end)
        at = shown.end() if shown else end
        code = self.text[start:end]
        if not nested and TAKEN.search(code):
            self.pieces += [self.text[self.done : start], NAME.format(len(self.taken))]
            if len(self.taken) == MOST:
                raise SyntaxError(f"more than {MOST:,} expressions in f-strings of Python 3.12")
            self.above += self.text.count("\n", self.seen, start)
            self.taken.append((code, self.above))
            self.done, self.seen = at, start
            self.lost += code.count("\n")
        if converted := CONVERSION.match(self.text, at):
            at = converted.end()
        if self.text.startswith(":", at):
            at = self.after_text(at + 1, "", raw, nested)
        self.require(at)
        return at + 1

    def end_of_expression(self, at: int) -> int:
        """Return where the expression of a replacement field ends."""
        depth = 0
        while found := CODE.search(self.text, at):
            mark, start = found[0], found.start()
            ends = mark in ("}", ":") or (mark == "!" and CONVERSION.match(self.text, start))
            if not depth and (ends or (mark == "=" and EQUALS.match(self.text, start))):
                return start
            depth += (mark in ("(", "[", "{")) - (mark in (")", "]", "}"))
            at = self.after(found, nested=True)
        raise SyntaxError("a brace of an f-string does not close")

    def require(self, at: int) -> None:
        """Refuse to read on behind the end."""
        if at >= len(self.text):
            raise SyntaxError("an f-string does not end")


def parse(source: str | bytes, mode: str = "exec", deepest: int = DEEPEST) -> ast.AST:
    """Return the syntax tree of a source as Python 3.12 reads its f-strings; SyntaxError for what
    is no Python. The text of `{x=}` is left out where an older interpreter does not read x.
    """
    try:
        return ast.parse(source, mode=mode)
    except SyntaxError:
        scan = Scan(source if isinstance(source, str) else source.decode("utf-8", "replace"))
        if not scan.taken or not deepest:
            raise
    return scan.tree(mode, deepest - 1)
