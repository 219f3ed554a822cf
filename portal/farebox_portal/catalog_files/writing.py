"""A catalog as YAML that reads back as the same values, whichever YAML reads it."""

from typing import Any

import yaml

from farebox_portal.catalog_files.reading import is_text


class _Dumper(yaml.SafeDumper):
    """Without anchors: each item stands for itself. Lists are indented below their field."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def _text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    """In quotes also where only other readers than PyYAML would take it for a number: 1e5."""
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if is_text(text) else '"')


_Dumper.add_representer(str, _text)


def write_yaml(document: dict[str, Any]) -> str:
    """Fields in the order of the document."""
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
