"""Looks for words in docstrings that make a reader start again; `make lint` runs it. CONTRIBUTING.md has the rules.

    python tests/english.py [FOLDER...]

Prints FILE:LINE: RULE: the line, and ends with 1 when there is any.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("core", "hooks", "plugins")
# A function's docstring begins with a verb. These begin a clause that needs one.
NO_VERB = re.compile(r"(What|Whether|How|Where|Who|Which|Why|Whose)\b")
RETURNS = re.compile(r"[;,] answers (the|what|whether|how|its|where|who|when|a|an|all|empty|None)\b")
FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)


def problems(text: str) -> Iterator[tuple[int, str, str]]:
    """Yield line, rule and words of each docstring in a module's text that breaks a rule."""
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, (*FUNCTION, ast.ClassDef, ast.Module)) or not node.body:
            continue
        first = node.body[0]
        doc = ast.get_docstring(node, clean=False)
        if doc is None:
            continue
        if isinstance(node, FUNCTION) and NO_VERB.match(doc):
            yield first.lineno, "begin with a verb", doc.split("\n", 1)[0]
        for number, line in enumerate(doc.split("\n"), first.lineno):
            if RETURNS.search(line):
                yield number, "a function returns, it does not answer", line.strip()


def main(folders: list[str]) -> int:
    """Look through the folders; return the exit status."""
    found = 0
    for folder in folders or FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            for line, rule, words in problems(path.read_text("utf-8")):
                print(f"{path.relative_to(ROOT)}:{line}: {rule}: {words}")
                found += 1
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
