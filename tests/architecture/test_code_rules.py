"""Rules about single files: size, safety of loading, nothing unfinished, no path of one machine."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterator
from statistics import median

from package_source import PACKAGE, REPOSITORY, sources

MACHINE_PATH = re.compile(r"(?<![\w/.:])/(?:work|tmp|root|home|mnt|Users)/")


def _offenders(rule: Callable[[ast.Module, str], Iterator[str]]) -> list[str]:
    """``file: what is wrong`` for every file of the package."""
    return [
        f"{file}: {problem}"
        for file, tree in sources().items()
        for problem in rule(tree, (PACKAGE / file).read_text(encoding="utf-8"))
    ]


def _calls(tree: ast.Module) -> Iterator[tuple[str, dict[str | None, str], int]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}, node.lineno


def test_a_file_has_at_most_400_lines_and_a_function_80():
    def rule(tree, text):
        if (lines := len(text.splitlines())) > 400:
            yield f"{lines} lines"
        for node in ast.walk(tree):
            function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            if function and (length := node.end_lineno - node.lineno) > 80:
                yield f"{node.name} has {length} lines"

    assert not _offenders(rule)


def test_the_median_file_is_short():
    lengths = [len((PACKAGE / f).read_text(encoding="utf-8").splitlines()) for f in sources()]
    assert median(n for n in lengths if n) <= 200


def test_nothing_is_unpickled():
    """torch.load only with weights_only=True, numpy never with allow_pickle, and no pickle at all."""

    def rule(tree, text):
        for name, keywords, line in _calls(tree):
            if name.endswith("torch.load") and keywords.get("weights_only") != "True":
                yield f"{line}: torch.load without weights_only=True"
            if keywords.get("allow_pickle", "False") != "False":
                yield f"{line}: {name} with allow_pickle"
            if name.endswith(("read_pickle", "load_from_checkpoint")):
                yield f"{line}: {name} unpickles"
        for node in ast.walk(tree):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                if name in ("pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal"):
                    yield f"{node.lineno}: {name}"

    assert not _offenders(rule)


def test_no_subprocess_shell_or_evaluated_text():
    def rule(tree, text):
        for name, keywords, line in _calls(tree):
            if name in ("eval", "exec", "os.system", "os.popen") or keywords.get("shell") == "True":
                yield f"{line}: {name}"

    assert not _offenders(rule)


def test_nothing_is_left_open():
    def rule(tree, text):
        yield from re.findall(r"\b(?:TODO|FIXME|XXX|HACK)\b", text)
        for node in ast.walk(tree):
            if isinstance(node, ast.Raise) and node.exc and "NotImplementedError" in ast.unparse(node.exc):
                yield f"{node.lineno}: NotImplementedError"
            if isinstance(node, ast.ExceptHandler):
                if len(node.body) == 1 and isinstance(node.body[0], ast.Pass):
                    yield f"{node.lineno}: a swallowed exception"
                if node.type is None:
                    yield f"{node.lineno}: a bare except"

    assert not _offenders(rule)


def test_no_path_of_one_machine():
    def rule(tree, text):
        yield from (match.group() for match in MACHINE_PATH.finditer(text))

    assert not _offenders(rule)
    for name in ("README.md", "CITATION.cff", "pyproject.toml"):
        text = (REPOSITORY / name).read_text(encoding="utf-8")
        assert not MACHINE_PATH.search(text), name


def test_every_module_says_what_it_is():
    def rule(tree, text):
        if text.strip() and len(ast.get_docstring(tree) or "") < 30:
            yield "no docstring"

    assert not _offenders(rule)


def test_notebooks_are_stripped():
    notebooks = list((REPOSITORY / "notebooks").glob("*.ipynb"))
    assert notebooks
    for path in notebooks:
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            assert not cell.get("outputs") and cell.get("execution_count") is None, path.name
