"""A hash of the code a stage runs: Snakemake does not see edits in an imported package, this does."""

import ast
import hashlib
from functools import cache
from pathlib import Path

# the configuration's values reach a rule by its own section, so its code would only cause needless reruns
CONFIGURATION = {"config", "sections"}
PACKAGE = Path(__file__).parents[1]


def fingerprint(stage: str) -> str:
    """Hash a module of `stages` and every module of this package it imports, comments and docstrings stripped."""
    digest = hashlib.sha256()
    for module in sorted(modules_of(f"stages.{stage}")):
        digest.update(module.encode() + _code(module).encode())
    return digest.hexdigest()[:12]


def modules_of(module: str) -> set[str]:
    """Names ("brain.surface") of the module and of all modules of this package that it imports, directly or not."""
    found: set[str] = set()
    pending = [module]
    while pending:
        name = pending.pop()
        if name not in found:
            found.add(name)
            pending += imports(name)
    return found


@cache
def imports(module: str, all_modules: bool = False) -> tuple[str, ...]:
    """Modules of this package that a module imports itself, sorted; the configuration's only if `all_modules`."""
    names = set()
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "mindreel":
            within = node.module.split(".")[1:]  # a module, or a room whose modules are imported
            names |= {".".join([*within, alias.name]) for alias in node.names} | {".".join(within)}
        elif isinstance(node, ast.Import):
            names |= {alias.name.split(".", 1)[1] for alias in node.names if alias.name.startswith("mindreel.")}
    names = {name for name in names if _path(name).exists()}
    return tuple(sorted(names if all_modules else names - CONFIGURATION))


@cache
def _code(module: str) -> str:
    tree = _tree(module)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node, clean=False):
            node.body[0] = ast.Pass()
    return ast.dump(tree)


def _tree(module: str) -> ast.Module:
    return ast.parse(_path(module).read_text())


def _path(module: str) -> Path:
    return PACKAGE / (module.replace(".", "/") + ".py")
