"""The language of the code, measured: `make lint` fails where a share is above its bound.

A function is a verb in the present tense, a value is a noun, a name of a module says what it is in one file only, and
a docstring begins with its subject (CONTRIBUTING.md).
"""

import ast
import collections
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
FOLDERS = ("src", "stages", "experiments")
IRREGULAR = {"said", "told", "found", "kept", "made", "taught", "chosen", "drawn", "known", "begun", "written", "shown"}
IRREGULAR |= {"given", "held", "lost", "left", "seen", "heard", "meant", "spoken", "hidden", "put"}
VERBS = {"embed", "speed", "need", "seed", "feed"}  # that end in -ed
FIRST = re.compile(r"^(Of|What|Where|Whoever|Who|Whatever|That|Which|So|As|To whom)\b")
DIALECT = {"said", "told", "asked", "noted", "beside", "taught", "drawn", "lots"}
EXEMPT = {"main", "register", "build"}  # names that files share on purpose
# Bounds, in percent; the last is a count.
BOUNDS = {"participles": 4.0, "sentences": 1.5, "collisions": 12.0, "dialect": 0}


def words(name: str) -> list[str]:
    """The words of an identifier, in lower case."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)]


def is_participle(name: str) -> bool:
    """Whether a function's name begins with a past form."""
    first = (words(name) or [""])[0]
    return first in IRREGULAR or (first.endswith("ed") and first not in VERBS)


def identifiers(tree: ast.AST) -> set[str]:
    """Every name that a module defines: functions, classes, parameters, variables, attributes, and imports' aliases."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.arg):
            names.add(node.arg)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            names.add(node.attr)
        elif isinstance(node, ast.alias) and node.asname:
            names.add(node.asname)
    return names


def sentences(docstring: str) -> list[str]:
    """Sentences of more than two words, without code and marks."""
    text = re.sub(r"[#*`]", "", re.sub(r"\n\s{4,}.*", "", docstring))
    parts = (part.strip() for part in re.split(r"(?<=[.:;?])\s+|\n\n", text))
    return [part for part in parts if len(part.split()) > 2]


def measure(paths: list[pathlib.Path]) -> tuple[dict[str, float], dict[str, list[str]]]:
    """Shares in percent by the names of `BOUNDS`, and what counts against each."""
    functions: dict[str, pathlib.Path] = {}
    homes: dict[str, set[pathlib.Path]] = collections.defaultdict(set)
    stems: dict[str, pathlib.Path] = {}
    prose: list[tuple[str, pathlib.Path]] = []
    for path in paths:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("__"):
                functions.setdefault(node.name, path)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module):
                prose += [(sentence, path) for sentence in sentences(ast.get_docstring(node) or "")]
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                homes[node.name].add(path)
        stems |= {name: path for name in identifiers(tree) | {path.stem} if DIALECT & set(words(name))}
    participles = [name for name in functions if is_participle(name)]
    turned = [(sentence, path) for sentence, path in prose if FIRST.match(sentence)]
    shared = {name: found for name, found in homes.items() if len(found) > 1 and name not in EXEMPT}
    total = sum(map(len, homes.values()))
    shares = {
        "participles": 100 * len(participles) / len(functions),
        "sentences": 100 * len(turned) / len(prose),
        "collisions": 100 * sum(map(len, shared.values())) / total,
        "dialect": len(stems),
    }
    offenders = {
        "participles": sorted(f"{functions[name].relative_to(ROOT)}: {name}" for name in participles),
        "sentences": [f"{path.relative_to(ROOT)}: {sentence}" for sentence, path in turned],
        "collisions": sorted(f"{len(found)} × {name}" for name, found in shared.items()),
        "dialect": sorted(f"{path.relative_to(ROOT)}: {name}" for name, path in stems.items()),
    }
    return shares, offenders


def main() -> None:
    """Print the shares; with the name of one, what counts against it. Status 1 where a bound is passed."""
    paths = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    shares, offenders = measure(paths)
    for name, share in shares.items():
        print(f"{name}: {share:.1f} (at most {BOUNDS[name]})")
    for name in sys.argv[1:]:
        print("\n".join(offenders[name]))
    sys.exit(any(shares[name] > bound for name, bound in BOUNDS.items()))


if __name__ == "__main__":
    main()
