"""Types as the installed SDK's source writes them: annotations, and the classes that their names stand for.

Read as syntax; nothing of it runs. A name is looked up as Python would: in the classes around, the file, its imports.
"""

import ast
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import stripe
from stripe._object_classes import OBJECT_CLASSES

ROOT = Path(stripe.__file__).parent
PLAIN = {"int", "float", "bool", "str", "Any", "Decimal", "object", "StripeObject"}
LISTS = {"List", "list", "Sequence"}
_WRAPPERS = {"NotRequired", "ClassVar", "Required"}


_PARSING = threading.Lock()


def parsed(text: str, mode: str = "exec") -> Any:
    """CPython 3.11 counts the depth of a syntax tree for all threads together: one at a time."""
    with _PARSING:
        return ast.parse(text, mode=mode)


@dataclass(frozen=True)
class Module:
    path: Path
    imports: Mapping[str, tuple[Path, str]]
    classes: Mapping[str, ast.ClassDef]


@dataclass(frozen=True)
class Type:
    """An annotation, and where its names are to be looked up: the file, and the classes around it."""

    node: ast.expr
    module: Module
    around: tuple[ast.ClassDef, ...] = ()

    def of(self, node: ast.expr) -> "Type":
        return Type(node, self.module, self.around)


@dataclass(frozen=True)
class Record:
    """A class with annotated fields: a set of parameters, or a part of an answer."""

    node: ast.ClassDef
    module: Module
    around: tuple[ast.ClassDef, ...] = ()

    def fields(self) -> dict[str, Type]:
        found = {}
        for statement in self.node.body:
            if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                name = statement.target.id.removesuffix("_")
                if not name.isupper() and not name.startswith("_"):
                    found[name] = Type(statement.annotation, self.module, (*self.around, self.node))
        return found


def alternatives(type_: Type) -> list[Type]:
    """The members of a union, flat. Where values are listed, text in general is no alternative to them."""
    node = type_.node
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return alternatives(type_.of(parsed(node.value.strip(), "eval").body))
    if isinstance(node, ast.BinOp):
        found = [*alternatives(type_.of(node.left)), *alternatives(type_.of(node.right))]
    elif head(node) == "Union":
        found = [part for each in arguments(node) for part in alternatives(type_.of(each))]
    elif head(node) == "Optional":
        found = [*alternatives(type_.of(arguments(node)[0])), type_.of(ast.Constant(None))]
    elif head(node) in _WRAPPERS:
        return alternatives(type_.of(arguments(node)[0]))
    else:
        return [type_]
    values = {value for part in found for value in literals(part)}
    if values - {""}:
        found = [part for part in found if not (isinstance(part.node, ast.Name) and part.node.id == "str")]
    return found


def literals(type_: Type) -> tuple[Any, ...]:
    """The values that a `Literal` lists."""
    if head(type_.node) != "Literal":
        return ()
    return tuple(each.value for each in arguments(type_.node) if isinstance(each, ast.Constant))


def literals_of(type_: Type) -> tuple[Any, ...]:
    """All values that are listed anywhere in the union."""
    return tuple(value for part in alternatives(type_) for value in literals(part))


def record_of(type_: Type) -> Record | None:
    """The fields that a value of this type has, if it is an object."""
    return next((found for part in alternatives(type_) if (found := class_of(part)) is not None), None)


def item_of(type_: Type) -> Type | None:
    """What a list of this type holds, if it is a list."""
    heads = LISTS | {"ListObject"}
    return next((p.of(arguments(p.node)[0]) for p in alternatives(type_) if head(p.node) in heads), None)


def is_required(type_: Type, *, is_params: bool) -> bool:
    """Parameters say it by NotRequired; of an answer, what cannot be null is always there."""
    if is_params:
        return head(type_.node) != "NotRequired"
    return not any(isinstance(part.node, ast.Constant) and part.node.value is None for part in alternatives(type_))


def head(node: ast.expr) -> str:
    return node.value.id if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) else ""


def arguments(node: ast.expr) -> list[ast.expr]:
    assert isinstance(node, ast.Subscript)
    return list(node.slice.elts) if isinstance(node.slice, ast.Tuple) else [node.slice]


def class_of(type_: Type) -> Record | None:
    """The class that a name stands for: nested in those around it, in the file, or imported."""
    node = type_.node
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        node = parsed(node.value.strip(), "eval").body
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        outer = class_of(type_.of(node.value))
        assert outer is not None
        return class_of(Type(ast.Name(node.attr), outer.module, (*outer.around, outer.node)))
    if not isinstance(node, ast.Name):
        return None
    for depth in range(len(type_.around), 0, -1):
        for inner in type_.around[depth - 1].body:
            if isinstance(inner, ast.ClassDef) and inner.name == node.id:
                return Record(inner, type_.module, type_.around[:depth])
    if node.id in type_.module.classes:
        return Record(type_.module.classes[node.id], type_.module)
    if node.id in type_.module.imports and node.id not in PLAIN:
        path, name = type_.module.imports[node.id]
        return Record(module(path).classes[name], module(path))
    return None


@cache
def module(path: Path) -> Module:
    tree = parsed(path.read_text())
    imports = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("stripe."):
            file = ROOT.joinpath(*node.module.split(".")[1:])
            target = file.with_suffix(".py") if file.with_suffix(".py").exists() else file / "__init__.py"
            imports.update({alias.asname or alias.name: (target, alias.name) for alias in node.names})
    return Module(path, imports, {each.name: each for each in tree.body if isinstance(each, ast.ClassDef)})


def type_of_object(name: str) -> Type:
    dotted, class_name = OBJECT_CLASSES[name]
    return Type(ast.Name(class_name), module(ROOT.joinpath(*dotted.split(".")[1:]).with_suffix(".py")))


def error_type() -> Type:
    return Type(ast.Name("ErrorObject"), module(ROOT / "_error_object.py"))
